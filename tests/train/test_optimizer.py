"""The optimizers against their definitions, and how much they keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from memo_jax import sharding
from memo_jax.train import optimizer
from memo_jax.train.config import TrainConfig


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    shapes = {"net/a/kernel": (32, 64), "net/a/bias": (63,), "net/c/kernel": (3, 3, 32, 64)}
    return {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}


def gradients(params, step):
    rng = np.random.default_rng(step)
    # Larger than the clip in even steps, smaller in odd ones.
    size = 1.0 if step % 2 == 0 else 1e-4
    return {
        path: (size * rng.normal(size=v.shape)).astype(np.float32) for path, v in params.items()
    }


def test_adamw_is_pytorchs_with_the_releases_settings(params):
    config = TrainConfig(learning_rate=1e-2, warmup_steps=2)
    own = optimizer.make(config)
    state, ours, update = own.init(params), params, jax.jit(own.update)
    theirs = [torch.nn.Parameter(torch.tensor(v)) for v in params.values()]
    adamw = torch.optim.AdamW(theirs, lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    for step in range(4):
        given = gradients(params, step)
        updates, state = update(given, state, ours)
        ours = {path: ours[path] + updates[path] for path in ours}
        for parameter, value in zip(theirs, given.values(), strict=True):
            parameter.grad = torch.tensor(value)
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        adamw.param_groups[0]["lr"] = 1e-2 * min((step + 1) / 2, 1)
        adamw.step()
        for got, want in zip(ours.values(), theirs, strict=True):
            np.testing.assert_allclose(got, want.detach().numpy(), rtol=0, atol=2e-6)


def test_the_rate_rises_and_stays():
    rate = optimizer.learning_rate(TrainConfig(learning_rate=4.0, warmup_steps=4))
    assert [float(rate(jnp.int32(step))) for step in range(6)] == [1, 2, 3, 4, 4, 4]
    assert float(optimizer.learning_rate(TrainConfig(stage="2b"))(jnp.int32(0))) == np.float32(1e-5)


def test_the_rate_falls_to_nothing_at_the_end():
    config = TrainConfig(learning_rate=4.0, warmup_steps=2, decay_steps=4, steps=8)
    rate = optimizer.learning_rate(config)
    assert [float(rate(jnp.int32(step))) for step in range(9)] == [2, 4, 4, 4, 4, 3, 2, 1, 0]


def size(state):
    return sum(leaf.size for leaf in jax.tree.leaves(state))


def test_adafactor_keeps_a_small_part_and_goes_downhill(params):
    adamw = optimizer.make(TrainConfig())
    config = TrainConfig(optimizer="adafactor", learning_rate=0.05, weight_decay=0.0)
    adafactor = optimizer.make(config)
    whole = sum(v.size for v in params.values())
    assert size(adamw.init(params)) >= 2 * whole
    state, x = adafactor.init(params), params
    assert size(state) < 0.1 * whole

    @jax.jit
    def step(x, state):
        updates, state = adafactor.update(x, state, x)  # the gradient of |x|^2 / 2
        return jax.tree.map(jnp.add, x, updates), state

    for _ in range(20):
        x, state = step(x, state)
    assert all(np.sum(x[p] ** 2) < 0.5 * np.sum(params[p] ** 2) for p in params)


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_state_as_large_as_its_parameter_lies_as_it_does(params, name):
    mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
    cut = {
        path: jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
        for path in params
    }
    own = optimizer.make(TrainConfig(optimizer=name))
    shapes, layout = optimizer.state_layout(own, params, cut, sharding.whole(mesh))
    large = {v.shape for v in params.values()}
    pairs = list(zip(jax.tree.leaves(shapes), jax.tree.leaves(layout), strict=True))
    whole = jax.sharding.PartitionSpec()
    assert all((place.spec != whole) == (leaf.shape in large) for leaf, place in pairs)
    assert sum(leaf.shape in large for leaf, _ in pairs) == (6 if name == "adamw" else 1)
