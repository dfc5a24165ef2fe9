"""Noise levels, Euler steps, the loss and guidance: recorded tables and their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from golden_case import relative_error

from memo_jax.diffusion import flow, guidance
from memo_jax.diffusion.euler import euler


@pytest.fixture(scope="module")
def case(golden):
    return golden("i_flow_euler")


def test_sampling_levels(case):
    for row, steps in enumerate(case.config["steps"]):
        sigmas = flow.sampling_sigmas(steps)
        assert sigmas.dtype == np.float32
        assert relative_error(sigmas, case.out("sigmas_nan_ok")[row, : steps + 1]) <= 1e-7
        timesteps = flow.TRAIN_LEVELS * sigmas[:-1]
        assert relative_error(timesteps, case.out("timesteps_nan_ok")[row, :steps]) <= 1e-6


def test_training_levels(case):
    assert np.array_equal(flow.train_sigmas(), case.out("train_sigmas"))
    timesteps = flow.TRAIN_LEVELS * flow.train_sigmas()
    assert relative_error(timesteps, case.out("train_timesteps")) <= 1e-7


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        flow.sampling_sigmas(0)


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_euler_steps(case, steps):
    """The recorded velocities in turn; `euler` asks for one at each level."""
    sigmas = flow.sampling_sigmas(case.config["step_n"])[: steps + 1]
    recorded = np.stack(
        [rearrange(case.inp(f"velocity{i}"), "b c f h w -> b f h w c") for i in range(steps)]
    )
    levels = jnp.asarray(flow.TRAIN_LEVELS * sigmas[:-1])

    def velocity(x, timesteps):
        assert timesteps.shape == (x.shape[0],)
        return jnp.asarray(recorded)[jnp.argmin(jnp.abs(levels - timesteps[0]))]

    noise = rearrange(case.inp("sample"), "b c f h w -> b f h w c")
    got = jax.jit(lambda noise: euler(velocity, noise, sigmas))(noise)
    want = case.out(f"after{steps - 1}")
    assert relative_error(rearrange(got, "b f h w c -> b c f h w"), want) <= 1e-6


@pytest.mark.parametrize("steps", [1, 4])
def test_euler_follows_a_straight_flow_exactly(steps):
    data, noise = np.random.default_rng(0).normal(size=(2, 1, 2, 2, 2, 3)).astype(np.float32)
    got = euler(lambda x, t: jnp.asarray(noise - data), noise, flow.sampling_sigmas(steps))
    assert relative_error(got, data) <= 1e-6


def test_noise_and_data_are_told_apart():
    rng = np.random.default_rng(0)
    data, noise = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    sigma = np.array([0.0, 0.3, 1.0], np.float32)
    noisy = flow.add_noise(data, noise, sigma)
    assert np.array_equal(noisy[0], data[0]) and np.array_equal(noisy[2], noise[2])
    assert relative_error(flow.data_from_velocity(noisy, noise - data, sigma), data) <= 1e-6


def test_a_loss_for_each_sample():
    rng = np.random.default_rng(0)
    predicted, data = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    want = ((predicted - data) ** 2).mean(axis=(1, 2))
    assert relative_error(flow.sample_losses(predicted, data), want) <= 1e-6
    half = flow.sample_losses(jnp.asarray(predicted, jnp.bfloat16), data)
    assert half.dtype == jnp.float32 and relative_error(half, want) <= 1e-2


@pytest.mark.parametrize(
    ("losses", "threshold", "mean", "kept"),
    [
        ([0.05, 0.2, 0.1], None, 0.35 / 3, [True, True, True]),
        ([0.05, 0.2, 0.1], 0.1, 0.075, [True, False, True]),  # the threshold itself is kept
        ([0.3, 0.2], 0.1, 0.0, [False, False]),
        ([0.05, np.nan], 0.1, 0.05, [True, False]),  # one broken sample spoils no batch
    ],
)
def test_the_robust_mean(losses, threshold, mean, kept):
    losses = jnp.asarray(losses, jnp.float32)
    got, which = flow.robust_mean(losses, threshold)
    assert float(got) == pytest.approx(mean, rel=1e-6) and which.tolist() == kept
    gradient = jax.grad(lambda x: flow.robust_mean(x, threshold)[0])(losses)
    want = np.array(kept) / max(sum(kept), 1)
    assert relative_error(gradient, want) <= 1e-6


@pytest.mark.parametrize(("value", "has"), [(0.0, False), (1.0, False), (1.1, True), (3.5, True)])
def test_guidance_above_1_has_a_null_branch(value, has):
    assert guidance.guided(value) == has


def test_the_null_branch_comes_first():
    null, condition = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    both = guidance.both_branches(null, condition)
    assert np.array_equal(both[:2], null) and np.array_equal(both[2:], condition)
    assert guidance.attends_to_reference(2).tolist() == [False, False, True, True]
    velocity = jnp.broadcast_to(both[:, :, None, None, None], (4, 3, 1, 1, 1))
    assert np.all(guidance.combine(velocity, 3.5) == 3.5)
    assert np.all(guidance.combine(velocity + 1, 3.5) == 4.5)
