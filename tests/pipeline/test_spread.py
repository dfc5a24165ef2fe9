"""One video over several devices: what each has, and that together they make what one makes."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from golden_case import relative_error
from small_model import SAMPLER

from memo_jax.config import DiffusionNetConfig, MotionConfig, ReferenceNetConfig, SamplerConfig
from memo_jax.config import VAEConfig as VAE
from memo_jax.errors import UserError
from memo_jax.models import exchange
from memo_jax.models.exchange import ONE, Split, split_of
from memo_jax.pipeline import Pipeline, memory
from memo_jax.pipeline.spread import check
from memo_jax.sharding import video_mesh

FULL = {"vae": VAE(), "reference_net": ReferenceNetConfig(), "diffusion_net": DiffusionNetConfig()}

# Rounding, each sum being taken in another order: at most 1.5e-6 of the largest value was seen.
BOUND = 1e-5
# With bfloat16 memory a number between two may fall to the other one.
ROUNDED = 2**-7

# Each case compiles a program for every mesh and one for a single device: no more than four.
CASES = (
    ("own", "guidance=2,frames=1", "guidance=1,frames=2", "guidance=2,frames=4"),
    ("own", "guidance=2,frames=2:low"),
    ("own", "guidance=1,frames=4:unguided"),
    ("own", "guidance=2,frames=2:fast"),
    ("mixed", "guidance=2,frames=4"),
    ("mixed", "guidance=1,frames=4:low"),
    ("mixed", "guidance=1,frames=4:fast"),
)


@pytest.mark.parametrize(("rows", "asked"), [(case[0], case[1:]) for case in CASES])
def test_many_devices_make_what_one_makes(tmp_path, rows, asked):
    """Frames and memory of two clips; stopped after the first and gone on with on another mesh;
    low memory, no guidance with more past frames from clip to clip, and approximations."""
    found = run_on_eight(tmp_path / "found.npz", rows, asked)
    plain = [mesh for mesh in asked if ":" not in mesh]
    goes_on = zip([None, *plain], [*plain, None], strict=True) if plain else ()
    stops = [f"{a} then {b}" for a, b in goes_on]
    for run in [*asked, *stops]:
        variant = "" if run in stops else run.partition(":")[2]
        names = [k.partition("/")[2] for k in found if k.startswith(f"one:{variant}/")]
        errors = {
            name: relative_error(found[f"{run}/{name}"], found[f"one:{variant}/{name}"])
            for name in names
            if name != "pixels"
        }
        worst = max(errors.values())
        print(f"{rows}, {run}: {worst:.1e} of the largest value")
        assert len(errors) == 9 and worst <= (ROUNDED if variant == "low" else BOUND), errors
        pixels, wanted = (found[f"{name}/pixels"].astype(int) for name in (run, f"one:{variant}"))
        assert wanted.shape == (8, 8, 8, 3) and wanted.std() > 20
        assert np.abs(pixels - wanted).max() <= (8 if variant == "low" else 1)
    for run in asked:  # no device has more of the memory than its part
        mesh, _, variant = run.partition(":")
        assert np.all(found[f"{run}/share"] == 1 / split_of(mesh).devices)


def run_on_eight(file, rows, asked):
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, str(here / "many_devices.py"), str(file), rows, *asked],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(file) as arrays:
        return dict(arrays)


@pytest.mark.parametrize(
    ("text", "split"),
    [
        (None, ONE),
        ("guidance=2,frames=4", Split(2, 4)),
        ("frames=16", Split(1, 16)),
        (" guidance = 2 ", Split(2, 1)),
    ],
)
def test_what_a_mesh_is_called(text, split):
    assert split_of(text) == split
    assert split_of(str(split)) == split


@pytest.mark.parametrize(
    "text", ["", "4", "frames=0", "guidance=3", "frames=2,frames=2", "data=2", "frames=-1", "a=b,"]
)
def test_no_mesh(text):
    with pytest.raises(UserError, match="expected guidance=1 or 2 and frames=1 or more") as error:
        split_of(text)
    assert "\n" not in str(error.value)


def with_net(**fields):
    return FULL | {"diffusion_net": dataclasses.replace(FULL["diffusion_net"], **fields)}


@pytest.mark.parametrize(
    ("split", "configs", "sampler", "said"),
    [
        (Split(2, 2), FULL, {"guidance": 1.0}, "without guidance .* say guidance=1,frames=4"),
        (Split(1, 3), FULL, {}, "3 does not divide clip_frames 16"),
        (Split(1, 4), FULL, {"past_frames": 18}, "4 does not divide past_frames 18"),
        (Split(1, 4), FULL, {"first_past_frames": 1}, "4 does not divide first_past_frames 1"),
        (Split(2, 8), FULL, {"image_size": 64}, "8 does not divide the 2 x 2 positions"),
        (Split(2, 2), with_net(norm_per_frame=False), {}, "norm_per_frame is off"),
        (
            Split(2, 2),
            with_net(motion=MotionConfig(norm_per_frame=False)),
            {},
            "norm_per_frame is off",
        ),
    ],
)
def test_what_cannot_be_split(split, configs, sampler, said):
    with pytest.raises(UserError, match=said) as error:
        check(split, configs, SamplerConfig(**sampler))
    assert "\n" not in str(error.value)


def test_what_can_be_split():
    for frames in (1, 2, 4, 8, 16):
        for guidance in (1, 2):
            check(Split(guidance, frames), FULL, SamplerConfig())
    # Branches alone are not asked about frames.
    check(Split(2, 1), with_net(norm_per_frame=False), SamplerConfig(past_frames=7))


def test_too_few_devices(model):
    count = len(jax.devices())
    assert video_mesh(Split(1, count)).shape == {"guidance": 1, "frames": count}
    said = f"--mesh guidance=2,frames=4 takes 8 devices, and there are {count} .cpu.; give fewer"
    with pytest.raises(UserError, match=said):
        Pipeline(model, mesh="guidance=2,frames=4")
    with pytest.raises(UserError, match="3 does not divide clip_frames 4"):
        Pipeline(model, mesh="frames=3")


def test_a_mesh_of_one_is_none(pipe, model, scene, tone):
    other = Pipeline(model, mesh="guidance=1,frames=1")
    assert other._programs.mesh is None


def test_memory_is_predicted_for_each_device():
    def needs(split, **fields):
        sampler = SamplerConfig(**fields)
        return memory.predict(FULL, sampler, 5e9, itemsize=2, split=split)

    one, past = needs(ONE), 16 * 512**2 * 12
    for split in (Split(2, 1), Split(1, 4), Split(2, 16)):
        part = needs(split)
        assert part.parameters == one.parameters
        assert part.memory - past == pytest.approx((one.memory - past) / split.devices)
        assert part.working < one.working and part.held <= one.held
    assert needs(Split(2, 2)).total < 13 * memory.GIB
    alone = needs(Split(1, 4), guidance=1.0)
    assert needs(Split(2, 4)).working == pytest.approx(alone.working)


def test_devices_of_a_cpu_share_its_memory(model, monkeypatch):
    configs = {name: part.config for name, part in model.spec.parts.items()}
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(list(model.modules.values())))
    split = Split(2, 2)
    each = memory.predict(
        configs, SAMPLER, float(held), itemsize=4, platform="cpu", split=split
    ).total
    monkeypatch.setattr(memory, "room", lambda device, held: 4 * each)
    assert memory.fitted(model, SAMPLER, "normal", 1, split)[1] == []
    monkeypatch.setattr(memory, "room", lambda device, held: 4 * each - 4)
    with pytest.raises(UserError, match="--memory low needs"):
        memory.fitted(model, SAMPLER, "normal", 1, split)


def test_one_device_has_all():
    x = np.zeros((2, 3, 4, 5), np.float32)
    for same in (exchange.by_position, exchange.by_frame, exchange.own_frames, exchange.all_frames):
        assert same(x) is x
    assert exchange.own_branch(x) is x and exchange.all_branches(x) is x
    assert not exchange.branches_apart()
    assert np.array_equal(exchange.rows(2, 3, first=4), [[12, 13, 14], [15, 16, 17]])
