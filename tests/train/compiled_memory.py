"""Run by test_step_memory: the Diffusion Net's gradients with each choice of what to compute again.

`python compiled_memory.py` prints {choice: {"temporaries": bytes, "loss": number, "error": the
largest difference of a gradient from those with everything kept, relative to the largest}}.
"""

import dataclasses
import functools
import json
import os
import sys
from pathlib import Path

# By default XLA's scheduler for CPUs spends the memory saved on doing things at once.
os.environ["XLA_FLAGS"] = "--xla_cpu_enable_concurrency_optimized_scheduler=false"
sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
import smallest
from flax import nnx
from small_model import quick_compilation, random_module

CHOICES = ("none", "dots", "module", "layer")
FRAMES, SIDE = 8, 8


def loss_of():
    """`loss(params, remat)` and the parameters, of a net with modules in every layer."""
    nets = {
        name: random_module(name, dataclasses.replace(smallest.PARTS[name], **smallest.MORE))
        for name in ("reference_net", "diffusion_net")
    }
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    faces = normal(1, 2, 8)
    shapes = jax.eval_shape(nets["reference_net"], normal(1, 3, SIDE, SIDE, 4), faces)
    features = jax.tree.map(lambda leaf: normal(*leaf.shape), shapes)
    noisy, audio = normal(1, FRAMES, SIDE, SIDE, 4), normal(1, FRAMES, 2, 8)
    emotion = np.zeros(1, np.int32)
    graphdef, params = nnx.split(nets["diffusion_net"])

    def loss(params, remat):
        net = nnx.merge(graphdef, params)
        levels = np.full(1, 500, np.float32)
        velocity = net(noisy, levels, features, faces, audio, emotion, features, remat=remat)
        return jnp.mean(velocity**2)

    return loss, params


def main():
    jax.config.update("jax_default_matmul_precision", "highest")
    loss, params = loss_of()
    found, gradients = {}, {}
    for remat in CHOICES:
        run = jax.jit(jax.value_and_grad(functools.partial(loss, remat=remat)))
        program = run.lower(params).compile()
        value, leaves = program(params)
        gradients[remat] = [np.asarray(leaf) for leaf in jax.tree.leaves(leaves)]
        largest = max(np.abs(leaf).max() for leaf in gradients["none"])
        pairs = zip(gradients[remat], gradients["none"], strict=True)
        found[remat] = {
            "temporaries": program.memory_analysis().temp_size_in_bytes,
            "loss": float(value),
            "error": float(max(np.abs(a - b).max() for a, b in pairs) / largest),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    with quick_compilation():
        main()
