"""A run that stops keeps a pair of frames and carry that fits, whenever it is killed."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_model import SAMPLER

from memo_jax.errors import UserError
from memo_jax.models.motion import MotionMemory
from memo_jax.pipeline import Pipeline
from memo_jax.pipeline.resume import Partial

FROM = {"seed": 3, "image": "abc"}


@pytest.fixture(scope="module")
def hearing(pipe, tone):
    return pipe.hear(tone(0.75))


@pytest.fixture(scope="module")
def frames(pipe, scene, hearing):
    return np.concatenate(list(pipe.start(scene, hearing, seed=3)))


def stopped(pipe, scene, hearing, folder, after=(2,)):
    """A folder in which a run was saved after each of these numbers of chunks, and then killed."""
    partial = Partial(folder, FROM)
    run, done = pipe.start(scene, hearing, seed=3), 0
    for n, chunk in enumerate(run, 1):
        chunks = [chunk, *(run.drain() if n in after else [])]
        for part in chunks:
            partial.frames.append(part)
            done += len(part)
        if n in after:
            partial.save(run.carry, done)
        if n == max(after):
            return


def gone_on(pipe, scene, hearing, folder):
    """All frames of a run that goes on from a folder, and how many were made before."""
    partial = Partial(folder, FROM)
    carry = partial.carry(pipe.start(scene, hearing, seed=3).carry)
    kept = list(partial.done())
    made = list(pipe.start(scene, hearing, seed=3, carry=carry))
    return np.concatenate(kept + made), sum(map(len, kept))


def test_goes_on_to_the_same_frames(pipe, scene, hearing, frames, tmp_path):
    stopped(pipe, scene, hearing, tmp_path / "p")
    got, kept = gone_on(pipe, scene, hearing, tmp_path / "p")
    assert kept == 12  # two chunks seen, and the one that was under way
    np.testing.assert_array_equal(got, frames)


def test_saved_twice(pipe, scene, hearing, frames, tmp_path):
    stopped(pipe, scene, hearing, tmp_path / "p", after=(1, 2))
    assert len(list((tmp_path / "p").glob("carry-*"))) == 1
    got, kept = gone_on(pipe, scene, hearing, tmp_path / "p")
    assert kept == 16
    np.testing.assert_array_equal(got, frames)


def test_killed_between_carry_and_frames(pipe, scene, hearing, frames, tmp_path):
    folder = tmp_path / "p"
    stopped(pipe, scene, hearing, folder)
    shutil.copytree(folder / "carry-12", folder / "carry-16")  # its frames were never sealed
    (folder / "frames" / "000000012.part").write_bytes(b"half a segment")
    got, kept = gone_on(pipe, scene, hearing, folder)
    assert kept == 12
    np.testing.assert_array_equal(got, frames)


def test_nothing_kept_starts_anew(pipe, scene, hearing, tmp_path):
    assert Partial(tmp_path / "p", FROM).carry(pipe.start(scene, hearing).carry) is None


def test_another_run_is_refused(tmp_path):
    Partial(tmp_path / "p", FROM)
    with pytest.raises(UserError, match="begun with seed 3, now it is 4"):
        Partial(tmp_path / "p", {**FROM, "seed": 4})
    settings = {"sampler": {"cache_steps": 1, "latent_carry": False}}
    Partial(tmp_path / "q", settings)
    changed = {"sampler": {"cache_steps": 1, "latent_carry": True}}
    with pytest.raises(UserError, match="begun with latent_carry False, now it is True; give"):
        Partial(tmp_path / "q", changed)
    (tmp_path / "p" / "run.json").write_text("{")
    with pytest.raises(UserError, match="remove it to start anew"):
        Partial(tmp_path / "p", FROM)


def test_a_damaged_carry_is_told(pipe, scene, hearing, tmp_path):
    folder = tmp_path / "p"
    stopped(pipe, scene, hearing, folder)
    shutil.rmtree(folder / "carry-12" / "ocdbt.process_0")
    (folder / "carry-12" / "_METADATA").write_text("{}")
    with pytest.raises(UserError, match="to start anew"):
        Partial(folder, FROM).carry(pipe.start(scene, hearing).carry)


def test_removed_when_done(tmp_path):
    partial = Partial(tmp_path / "p", FROM)
    partial.remove()
    assert not (tmp_path / "p").exists()


def test_latents_and_bfloat16_are_carried(pipe, model, scene, hearing, tmp_path):
    """What is carried is another kind of past, and a memory of half the size: both are saved."""
    sampler = dataclasses.replace(SAMPLER, latent_carry=True, device_memory="low", steps=1)
    lean = Pipeline(model, sampler=sampler)
    whole = np.concatenate(list(lean.start(scene, hearing, seed=3)))
    folder = tmp_path / "p"
    stopped(lean, scene, hearing, folder)
    got, kept = gone_on(lean, scene, hearing, folder)
    assert kept == 12
    np.testing.assert_array_equal(got, whole)
    carry = Partial(folder, FROM).carry(lean.start(scene, hearing).carry)
    assert carry.past.shape == (1, 4, 8, 8, 4)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(carry.memory))
    with pytest.raises(UserError, match="memory has other shapes"):
        pipe.start(scene, hearing, carry=carry)
    layers = carry.memory.layers
    heads = model.spec.parts["diffusion_net"].config.motion.num_heads
    wide = MotionMemory({name: layer.layer(heads) for name, layer in layers.items()})
    with pytest.raises(UserError, match="give the latent_carry that it was made with"):
        pipe.start(scene, hearing, carry=carry.replace(memory=wide))
