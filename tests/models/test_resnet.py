"""Residual blocks: whose statistics the group norms take."""

import jax.numpy as jnp
import numpy as np
import pytest
from golden_case import relative_error

from memo_jax.models.resnet import ResnetBlock


@pytest.fixture(scope="module")
def run(random_module, compiled):
    """`run(per_frame, x)` with the same weights either way."""
    runs = {}
    for per_frame in (False, True):
        module = random_module(
            lambda rngs, per_frame=per_frame: ResnetBlock(
                16, 32, groups=4, eps=1e-5, per_frame=per_frame, dtype=jnp.float32, rngs=rngs
            )
        )
        runs[per_frame] = compiled(module)
    return lambda per_frame, x: np.asarray(runs[per_frame](x))


@pytest.fixture(scope="module")
def x():
    scales = np.array([1.0, 3.0, 0.3])[:, None, None, None]
    return (np.random.default_rng(0).normal(size=(2, 3, 4, 4, 16)) * scales).astype(np.float32)


def test_per_frame_statistics_make_frames_independent(run, x):
    together = run(True, x)
    for frame in range(3):
        alone = run(True, x[:, frame : frame + 1])
        assert relative_error(alone[:, 0], together[:, frame]) <= 1e-6


def test_a_clips_statistics_are_another_norm_unless_it_has_one_frame(run, x):
    assert relative_error(run(False, x), run(True, x)) > 1e-2
    assert relative_error(run(False, x[:, :1]), run(True, x[:, :1])) <= 1e-6


def test_samples_never_mix(run, x):
    for per_frame in (False, True):
        alone = run(per_frame, x[1:])
        assert relative_error(alone[0], run(per_frame, x)[1]) <= 1e-6
