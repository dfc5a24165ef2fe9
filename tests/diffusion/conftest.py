"""The networks of a recorded pipeline, and programs compiled quickly."""

import jax
import pytest
from flax import nnx

from memo_jax.diffusion.rollout import Generator
from memo_jax.weights import load_torch

NETWORKS = ("vae", "reference_net", "diffusion_net", "image_proj", "audio_proj")


@pytest.fixture(scope="session")
def recorded_generator():
    """`recorded_generator(case)`: the networks of a recorded pipeline."""
    return lambda case: Generator(
        *(load_torch(name, case.config[name], case.w(name)) for name in NETWORKS)
    )


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
