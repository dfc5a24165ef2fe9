"""Run by test_sharding: one step of joint training on one device, then on meshes of eight, there
with modules computed again.

`python eight_devices.py FILE` writes {"<mesh>/<what>": array} to FILE, an .npz.
"""

import dataclasses
import os
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import numpy as np
import smallest
from small_model import quick_compilation

from memo_jax import sharding
from memo_jax.train.config import TrainConfig
from memo_jax.train.step import Trainer

MESHES = {"1x1": (1, 1), "2x4": (2, 4), "8x1": (8, 1)}
THRESHOLD = 1.0


def main(file):
    jax.config.update("jax_default_matmul_precision", "highest")
    model = smallest.model()
    usual = TrainConfig(
        stage="2b",
        dtype="float32",
        frames=smallest.FRAMES,
        past_frames=(smallest.PAST,),
        batch_size=8,
        robust_threshold=THRESHOLD,
    )
    found = {}
    for name, (data, fsdp) in MESHES.items():
        mesh = sharding.make_mesh(data, fsdp, jax.devices()[: data * fsdp])
        config = dataclasses.replace(usual, remat="none" if name == "1x1" else "module")
        trainer = Trainer(config, model.spec, mesh)
        state, frozen = trainer.init(model)
        batch = trainer.put(smallest.batch(8))
        found[f"{name}/batch"] = shard(batch["latents_mean"])
        state, metrics = trainer.step(smallest.PAST)(state, frozen, batch)
        found |= {f"{name}/metrics/{k}": np.asarray(v) for k, v in metrics.items()}
        adam = state.opt_state[1][0]
        found |= {f"{name}/mu/{k}": np.asarray(v) for k, v in adam.mu.items()}
        found |= {f"{name}/trained/{k}": np.asarray(v) for k, v in state.trained.items()}
        for kind, tree in (("trained", state.trained), ("mu", adam.mu)):
            found |= {f"{name}/shard/{kind}/{k}": shard(v) for k, v in tree.items()}
    np.savez(file, **found)


def shard(value):
    """The shape of what the first device holds."""
    return np.array(value.addressable_shards[0].data.shape, int)


if __name__ == "__main__":
    with quick_compilation():
        main(sys.argv[1])
