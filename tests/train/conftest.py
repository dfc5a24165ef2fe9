"""Training of the smallest model, its programs compiled once."""

import jax
import numpy as np
import pytest
import smallest
from small_model import quick_compilation, structures_kept

from memo_jax import sharding
from memo_jax.train.config import TrainConfig
from memo_jax.train.trainers import trainer_of


@pytest.fixture(autouse=True, scope="session")
def _quickly():
    with quick_compilation(), structures_kept():
        yield


@pytest.fixture(scope="session")
def model():
    return smallest.model()


@pytest.fixture(scope="session")
def one_device():
    return sharding.make_mesh(1, 1, jax.devices()[:1])


@pytest.fixture(scope="session")
def config():
    """`config(stage, **fields)`: in float32, unless told."""

    def config(stage="finetune", **fields):
        usual = {
            "dtype": "float32",
            "frames": smallest.FRAMES,
            "past_frames": (smallest.PAST,),
            "batch_size": 4,
        }
        return TrainConfig(**{"stage": stage, **usual, **fields})

    return config


@pytest.fixture(scope="session")
def trainer(model, one_device, config):
    """`trainer(stage, **fields)`; one for the same fields, with its programs."""
    made = {}

    def trainer(stage="finetune", **fields):
        what = config(stage, **fields)
        if what not in made:
            made[what] = trainer_of(what, model.spec, one_device)
        return made[what]

    return trainer


@pytest.fixture(scope="session")
def same():
    """`same(a, b)`: whether two trees are equal to the bit."""

    def same(a, b):
        assert jax.tree.structure(a) == jax.tree.structure(b)
        leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in leaves)

    return same
