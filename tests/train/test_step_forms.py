"""The step's other forms: of pictures, by Adafactor, and in parts on a mesh.

`python test_step_forms.py FILE` is run here for the last: with four devices, it writes what two
steps gave on one of them at once, and on all four in two parts, to FILE, an .npz.
"""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smallest
from golden_case import relative_error
from small_model import quick_compilation

from memo_jax import sharding
from memo_jax.train import conditions
from memo_jax.train.config import TrainConfig
from memo_jax.train.step import Trainer

ROWS = 8
MESHES = {"one": (1, 1, 1), "four": (2, 2, 2)}  # data, fsdp, accumulate
# Some of the losses of each step lie above it, some below.
THRESHOLD = 0.7


def cached(batch, vae):
    """A batch of pictures as one of latents, float32, encoded all at once."""
    run = jax.jit(lambda pictures: conditions.encoded(vae, pictures, pictures.shape[1]))
    found = {k: v for k, v in batch.items() if k not in ("frames", "past", "reference")}
    for name, of in (("latents", "frames"), ("past", "past"), ("reference", "reference")):
        several = batch[of] if of != "reference" else batch[of][:, None]
        for moment, value in zip(("mean", "std"), run(several), strict=True):
            value = np.asarray(value if of != "reference" else value[:, 0])
            found[f"{name}_{moment}"] = value
    return found


@pytest.mark.parametrize(("stage", "past"), [("finetune", 2), ("1", 0)])
def test_pictures_train_as_their_cached_latents_do(trainer, model, stage, past):
    """The step takes the last two of three past frames; five pictures are encoded by threes."""
    pictures = smallest.batch(form="images", frames=1 if stage == "1" else smallest.FRAMES)
    batches = {"images": pictures, "latents": cached(pictures, model.modules["vae"])}
    told, means = {}, {}
    for form, batch in batches.items():
        own = trainer(stage, form=form, encode_frames=3, robust_threshold=None)
        state, frozen = own.init(model)
        assert any(path.startswith("vae/") for path in frozen) == (form == "images")
        state, metrics = own.step(past)(state, frozen, own.put(batch))
        told[form] = jax.tree.map(np.asarray, metrics)
        means[form] = jax.tree.map(np.asarray, state.opt_state[1][0].mu)
    images, latents = told["images"], told["latents"]
    assert images["finite"] and images["kept"] == len(images["losses"])
    assert len(np.unique(images["losses"])) == len(images["losses"])
    assert relative_error(images["losses"], latents["losses"]) <= 1e-5
    for name in ("loss", "grad_norm"):
        assert images[name] == pytest.approx(latents[name], rel=1e-5)
    largest = max(np.abs(value).max() for value in means["latents"].values())
    assert largest > 0 and means["images"].keys() == means["latents"].keys()
    for path, value in means["latents"].items():
        assert np.abs(means["images"][path] - value).max() <= 1e-5 * largest, path


def test_adafactor_learns_with_a_small_part_of_adamws_state(trainer, model):
    fields = {"learning_rate": 3e-3, "robust_threshold": None}
    own = trainer(optimizer="adafactor", **fields)
    (small, _), (large, _) = own.abstract(), trainer(optimizer="adamw", **fields).abstract()
    assert size(small.opt_state) < 0.1 * size(large.opt_state)

    state, frozen = own.init(model)
    batch, program = own.put(smallest.batch()), own.step(smallest.PAST)
    losses = []
    for _ in range(8):
        # Each time as the first one: the same noise at the same levels.
        state = state.replace(step=jnp.zeros_like(state.step))
        state, metrics = program(state, frozen, batch)
        losses.append(float(metrics["loss"]))
        assert metrics["finite"]
    assert losses[-1] < 0.9 * losses[0]
    assert [leaf.shape for leaf in jax.tree.leaves(state.opt_state)] == [
        leaf.shape for leaf in jax.tree.leaves(small.opt_state)
    ]


def size(tree):
    """In bytes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def meshes(tmp_path_factory):
    """What `main` found, by "<mesh>/<what>"."""
    file = tmp_path_factory.mktemp("meshes") / "found.npz"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    subprocess.run([sys.executable, __file__, file], check=True, env=environment, timeout=280)
    with np.load(file) as found:
        return dict(found)


@pytest.mark.parametrize("step", [0, 1])
def test_two_parts_on_four_devices_lose_what_one_device_does(meshes, step):
    one, four = (
        {name: meshes[f"{mesh}/{step}/{name}"] for name in Trainer.metrics} for mesh in MESHES
    )
    assert one["losses"].shape == (ROWS,) and len(np.unique(one["losses"])) == ROWS
    assert 0 < one["kept"] < ROWS and one["finite"]
    assert relative_error(four["losses"], one["losses"]) <= 1e-5
    for name in ("loss", "loss_unfiltered", "grad_norm", "lr"):
        assert four[name] == pytest.approx(one[name], rel=1e-5)
    for name in ("kept", "dropped", "finite"):
        assert four[name] == one[name]


def test_two_parts_on_four_devices_learn_what_one_device_does(meshes):
    before, one, four = (
        {name.removeprefix(start): v for name, v in meshes.items() if name.startswith(start)}
        for start in ("before/", "one/trained/", "four/trained/")
    )
    assert before.keys() == one.keys() == four.keys() and len(one) > 10
    largest = max(np.abs(one[path] - before[path]).max() for path in one)
    assert largest > 1e-3
    for path, value in one.items():
        # What a float32 near the parameter can tell apart, beside the sums' own rounding.
        limit = 1e-5 * largest + 2**-22 * np.abs(value).max()
        assert np.abs(four[path] - value).max() <= limit, path
    assert any(np.prod(shape) < one[path].size for path, shape in cut(meshes).items())


def cut(meshes):
    """What one of the four devices holds, by path."""
    start = "four/shard/"
    return {name.removeprefix(start): v for name, v in meshes.items() if name.startswith(start)}


def main(file):
    """Two steps of fine-tuning in each way."""
    jax.config.update("jax_default_matmul_precision", "highest")
    model = smallest.model()
    # With an epsilon this large an update is as its gradient, not the gradient's sign, which
    # rounding decides where the gradient is next to nothing.
    usual = TrainConfig(
        stage="finetune",
        dtype="float32",
        frames=smallest.FRAMES,
        past_frames=(smallest.PAST,),
        batch_size=ROWS,
        robust_threshold=THRESHOLD,
        learning_rate=1.0,
        epsilon=1.0,
    )
    found = {}
    for name, (data, fsdp, accumulate) in MESHES.items():
        mesh = sharding.make_mesh(data, fsdp, jax.devices()[: data * fsdp])
        trainer = Trainer(dataclasses.replace(usual, accumulate=accumulate), model.spec, mesh)
        state, frozen = trainer.init(model)
        found |= {f"before/{k}": np.asarray(v) for k, v in state.trained.items()}
        program = trainer.step(smallest.PAST)
        for step in range(2):
            batch = trainer.put(smallest.batch(ROWS, seed=step))
            state, metrics = program(state, frozen, batch)
            found |= {f"{name}/{step}/{k}": np.asarray(v) for k, v in metrics.items()}
        for path, value in state.trained.items():
            found[f"{name}/trained/{path}"] = np.asarray(value)
            found[f"{name}/shard/{path}"] = np.array(value.addressable_shards[0].data.shape)
    np.savez(file, **found)


if __name__ == "__main__":
    with quick_compilation():
        main(sys.argv[1])
