"""The small networks against recorded outputs."""

import numpy as np
import pytest
from golden_case import relative_error

from memo_jax.weights import load_torch


@pytest.fixture(scope="module")
def case(golden):
    return golden("f_projections")


@pytest.mark.parametrize(
    ("component", "weights", "given", "wanted"),
    [
        ("audio_proj", "audio_proj", "audio", "audio"),
        ("image_proj", "image_proj", "face", "face"),
        ("emotion_classifier", "emotion_classifier", "feat", "emotion"),
    ],
)
def test_recorded_outputs(case, compiled, component, weights, given, wanted):
    module = load_torch(component, case.config[component], case.w(weights))
    assert relative_error(compiled(module)(case.inp(given)), case.out(wanted)) <= 1e-5


@pytest.mark.parametrize(
    ("component", "given", "wanted"),
    [("audio_proj", "audio", "audio_zero"), ("image_proj", "face", "face_zero")],
)
def test_nothing_projects_to_something(case, compiled, component, given, wanted):
    """Biases and the norm make the null condition another thing than zeros."""
    module = load_torch(component, case.config[component], case.w(component))
    got = compiled(module)(np.zeros_like(case.inp(given)))
    assert relative_error(got, case.out(wanted)) <= 1e-5
    assert np.abs(got).max() > 0.1
