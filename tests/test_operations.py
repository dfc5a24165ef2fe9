"""What a full-size frame costs, and that nothing is left out of the count."""

import pytest

from benchmarks import operations
from memo_jax.config import SamplerConfig


@pytest.fixture(scope="module")
def found():
    return operations.count(SamplerConfig())


def test_a_frame_at_512_pixels(found):
    """73.3 without the null branch's second attention, about 69 with all that is constant over
    the steps computed once."""
    assert 66 < found.frame <= 70


def test_the_parts(found):
    assert found.decode == pytest.approx(2.5, rel=0.05) and found.steps == 20
    assert found.encode == pytest.approx(1.1, rel=0.05)
    # Two passes of the Diffusion Net a step; the Reference Net over 17 pictures in two branches.
    assert 3.0 < found.step < 3.4 and 1.4 < found.condition < 2.0
