"""Recorded and random networks together, and programs compiled quickly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from memo_jax.diffusion.rollout import Generator
from memo_jax.weights import load_torch
from memo_jax.weights.build import unflatten
from memo_jax.weights.components import component

NETWORKS = ("vae", "reference_net", "diffusion_net", "image_proj", "audio_proj")


@pytest.fixture(scope="session")
def recorded_generator():
    """`recorded_generator(case)`: the networks of a recorded pipeline."""
    return lambda case: Generator(
        *(load_torch(name, case.config[name], case.w(name)) for name in NETWORKS)
    )


@pytest.fixture(scope="session")
def random_module():
    """`random_module(component, config)` draws every parameter: nothing is hidden by a zero."""

    def random_module(name, config):
        graphdef, shapes = component(name).abstract(config)
        rng = np.random.default_rng(0)
        values = {}
        for path, leaf in shapes.items():
            n = rng.normal(size=leaf.shape).astype(np.float32)
            if path.endswith("/scale"):
                n = 1 + 0.1 * n
            elif path.endswith("/kernel"):
                n = n / np.sqrt(np.prod(leaf.shape[:-1]), dtype=np.float32)
            values[path] = jnp.asarray(n)
        return nnx.merge(graphdef, unflatten(values))

    return random_module


@pytest.fixture(scope="session")
def compiled():
    """`compiled(module, call)(x)` is `call(module, x)` as one program.

    Compiled without LLVM's optimisations, which cost more than they save at these sizes.
    """

    def compiled(module, call):
        graphdef, state = nnx.split(module)
        run = jax.jit(
            lambda state, *args: call(nnx.merge(graphdef, state), *args),
            compiler_options={"xla_backend_optimization_level": 0},
        )
        return lambda *args: run(state, *args)

    return compiled
