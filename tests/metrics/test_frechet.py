"""Distances on Gaussians whose answer is known, nearly singular ones, and in parts."""

import numpy as np
import pytest
import scipy.linalg

from memo_jax.errors import UserError
from memo_jax.metrics.frechet import (
    Moments,
    Reservoir,
    by_count,
    distance_of,
    frechet_distance,
    kernel_distance,
)


def rotation(d, seed):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(d, d)))[0]


def covariance(values, seed):
    turn = rotation(len(values), seed)
    return turn @ np.diag(values) @ turn.T


def moments_of(features):
    found = Moments(features.shape[1])
    found.add(features)
    return found


def test_gaussians_that_share_their_axes():
    """Then the distance is |m - n|^2 + sum (sqrt a - sqrt b)^2."""
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.1, 9, 30), rng.uniform(0.1, 9, 30)
    mean = rng.normal(size=(2, 30))
    found = distance_of(mean[0], covariance(a, 1), mean[1], covariance(b, 1))
    expected = np.sum((mean[0] - mean[1]) ** 2) + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    assert found == pytest.approx(expected, rel=1e-10)


def test_gaussians_of_one_dimension():
    found = distance_of(np.array([1.0]), np.array([[4.0]]), np.array([-2.0]), np.array([[9.0]]))
    assert found == pytest.approx(9 + 1)


@pytest.mark.parametrize("d", [5, 120])
def test_scipys_root_of_the_product(d):
    rng = np.random.default_rng(d)
    a, b = covariance(rng.uniform(0.1, 5, d), 2), covariance(rng.uniform(0.1, 5, d), 3)
    mean = rng.normal(size=(2, d))
    root = scipy.linalg.sqrtm(a @ b)
    expected = np.sum((mean[0] - mean[1]) ** 2) + np.trace(a + b - 2 * root.real)
    assert distance_of(mean[0], a, mean[1], b) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("least", [0.0, 1e-18, 1e-12])
def test_nearly_singular_covariances(least):
    """Most directions have next to no variance; shared axes tell the answer all the same."""
    rng = np.random.default_rng(4)
    a, b = np.full(200, least), np.full(200, least)
    a[:7], b[:7] = rng.uniform(1, 50, 7), rng.uniform(1, 50, 7)
    zero = np.zeros(200)
    found = distance_of(zero, covariance(a, 5), zero, covariance(b, 5))
    assert found == pytest.approx(np.sum((np.sqrt(a) - np.sqrt(b)) ** 2), rel=1e-6)
    assert distance_of(zero, covariance(a, 5), zero, covariance(a, 5)) == pytest.approx(0, abs=1e-6)


def test_covariances_without_a_common_direction():
    """Singular and orthogonal: the overlap is nothing, and the root of the product is 0."""
    a, b = np.diag([3.0, 2.0, 0.0, 0.0]), np.diag([0.0, 0.0, 5.0, 0.0])
    assert distance_of(np.zeros(4), a, np.zeros(4), b) == pytest.approx(10)
    assert distance_of(np.zeros(4), np.zeros((4, 4)), np.zeros(4), b) == pytest.approx(5)


def test_fewer_features_than_numbers():
    """Against the singular values of the centred features' product, which need no covariance."""
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(9, 300)), rng.normal(0.3, 2, size=(12, 300))
    x, y = (a - a.mean(0)) / np.sqrt(8), (b - b.mean(0)) / np.sqrt(11)
    overlap = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    apart = np.sum((a.mean(0) - b.mean(0)) ** 2)
    expected = apart + np.sum(x**2) + np.sum(y**2) - 2 * overlap
    assert frechet_distance(moments_of(a), moments_of(b)) == pytest.approx(expected, rel=1e-9)


def test_the_distance_has_no_order():
    rng = np.random.default_rng(7)
    a, b = moments_of(rng.normal(size=(50, 20))), moments_of(rng.exponential(size=(70, 20)))
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_moments_in_parts_are_those_of_the_whole():
    """Far from zero, where sums of squares would lose all digits."""
    rng = np.random.default_rng(8)
    features = (1e6 + rng.normal(size=(301, 12)) * rng.uniform(1e-3, 3, 12)).astype(np.float64)
    whole, parts = moments_of(features), Moments(12)
    for start, end in ((0, 1), (1, 1), (1, 2), (2, 130), (130, 301)):
        parts.add(features[start:end])
    assert parts.count == whole.count == 301
    assert np.allclose(parts.mean, features.mean(0), rtol=1e-14)
    expected = np.cov(features, rowvar=False)
    assert np.allclose(parts.covariance, expected, rtol=1e-6, atol=1e-9)
    two = Moments(12)
    for piece in (features[:100], features[100:]):
        two.merge(moments_of(piece))
    two.merge(Moments(12))
    assert np.allclose(two.covariance, expected, rtol=1e-6, atol=1e-9)


def test_too_few():
    with pytest.raises(UserError, match="of 1 features; expected two"):
        _ = moments_of(np.zeros((1, 3))).covariance
    with pytest.raises(UserError, match="of 1 features; expected two"):
        kernel_distance(np.zeros((1, 3)), np.zeros((5, 3)))


def test_the_kernel_distance_is_its_definition():
    rng = np.random.default_rng(9)
    x, y = rng.normal(size=(6, 4)), rng.normal(1, 1, size=(6, 4))

    def kernel(u, v):
        return (float(u @ v) / 4 + 1) ** 3

    own = sum(kernel(s[i], s[j]) / 30 for s in (x, y) for i in range(6) for j in range(6) if i != j)
    cross = sum(kernel(u, v) / 36 for u in x for v in y)
    found = kernel_distance(x, y)
    assert found.mean == pytest.approx(own - 2 * cross, rel=1e-10)
    assert found.block == 6 and found.deviation == 0


def test_the_kernel_distance_has_no_bias():
    """Of sets from one distribution it is around 0, not above it as Fréchet's is."""
    rng = np.random.default_rng(10)
    found = [
        kernel_distance(rng.normal(size=(40, 8)), rng.normal(size=(40, 8))).mean for _ in range(200)
    ]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(200)
    assert min(found) < 0


def test_blocks_follow_the_seed():
    rng = np.random.default_rng(11)
    a, b = rng.normal(size=(60, 5)), rng.normal(0.5, 1, size=(50, 5))
    first = kernel_distance(a, b, block=20, blocks=9)
    assert first == kernel_distance(a, b, block=20, blocks=9) and first.deviation > 0
    assert first != kernel_distance(a, b, block=20, blocks=9, seed=1)
    assert abs(first.mean - kernel_distance(a, b).mean) < 4 * first.deviation


def test_a_reservoir_is_a_fair_sample():
    """Each of 60 is among the 20 kept a third of the time, whichever batches it came in."""
    kept = np.zeros(60)
    for seed in range(600):
        reservoir = Reservoir(20, 1, seed)
        for start, end in ((0, 7), (7, 31), (31, 60)):
            reservoir.add(np.arange(start, end, dtype=float)[:, None])
        sample = reservoir.sample()[:, 0].astype(int)
        assert len(set(sample)) == len(sample) == 20 and reservoir.seen == 60
        kept[sample] += 1
    spread = np.sqrt(600 * (1 / 3) * (2 / 3))
    assert np.abs(kept - 200).max() < 4.5 * spread


def test_a_reservoir_that_does_not_fill_keeps_all():
    reservoir = Reservoir(9, 2)
    reservoir.add(np.arange(8.0).reshape(4, 2))
    reservoir.add(np.zeros((0, 2)))
    assert sorted(reservoir.sample()[:, 0]) == [0, 2, 4, 6]


def test_the_distance_falls_with_the_count():
    """Of one distribution, where only how few there are keeps it from 0."""
    rng = np.random.default_rng(12)
    found = by_count(rng.normal(size=(700, 40)), rng.normal(size=(600, 40)))
    assert [count for count, _ in found] == [32, 64, 128, 256, 512]
    values = [value for _, value in found]
    assert values == sorted(values, reverse=True)
