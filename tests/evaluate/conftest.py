import jax.numpy as jnp
import pytest

from memo_jax.weights.sources import load_model


@pytest.fixture(scope="session")
def tiny():
    return load_model("tiny", jnp.float32)
