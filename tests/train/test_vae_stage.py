"""Stage "vae": the loss is what its formula says, it falls, and nothing but the VAE changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smallest
from golden_case import relative_error

from memo_jax.errors import UserError
from memo_jax.train.trainers import trainer_of
from memo_jax.train.vae import sample_losses

FIELDS = {"form": "images", "robust_threshold": None, "learning_rate": 3e-3, "decoupled": ()}


@pytest.fixture(scope="module")
def run(model, one_device, config):
    """`run(steps, **fields)`: the trainer, the last state and what each step told."""
    batch = smallest.batch(form="images", frames=1)

    def run(steps, **fields):
        trainer = trainer_of(config("vae", **FIELDS | fields), model.spec, one_device)
        state, frozen = trainer.init(model)
        assert not frozen
        told = []
        for _ in range(steps):
            state, metrics = trainer.step(0)(state, frozen, trainer.put(batch))
            told.append(jax.tree.map(np.asarray, metrics))
        return trainer, state, told

    return run


def test_the_loss_is_its_formula(model):
    vae = model.modules["vae"]
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (2, 2, 8, 8, 3)).astype(np.float32)
    keys = jax.random.split(jax.random.key(7), 2)
    given = sample_losses(vae, images, keys, kl_weight=0.3, edge_weight=0.7)
    for i in range(2):
        mean, logvar = map(np.asarray, vae.encode(images[i]))
        std = np.exp(0.5 * logvar)
        latents = mean + std * np.asarray(jax.random.normal(keys[i], mean.shape))
        off = np.asarray(vae.decode(jnp.asarray(latents))) - images[i]
        across, down = off[:, :, 1:] - off[:, :, :-1], off[:, 1:] - off[:, :-1]
        divergence = np.mean((mean**2 + std**2 - 1) / 2 - np.log(std))
        expected = np.abs(off).mean() + 0.7 * (np.abs(across).mean() + np.abs(down).mean())
        assert float(given[i]) == pytest.approx(expected + 0.3 * divergence, rel=1e-5)


def test_it_falls(run):
    trainer, state, told = run(40, ema_decay=0.9)
    losses = [float(each["loss"]) for each in told]
    assert np.mean(losses[-5:]) < 0.7 * losses[0]
    assert {path.split("/")[0] for path in trainer.trained} == {"vae"}
    assert set(trainer.weights(state, {}, ema=True)) == set(trainer.shapes)


def test_two_parts_are_one(run):
    _, _, (whole,) = run(1)
    _, _, (parts,) = run(1, accumulate=2)
    assert relative_error(parts["losses"], whole["losses"]) <= 1e-5
    assert parts["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-5)


def test_what_it_cannot_be_trained_on(model, one_device, config):
    with pytest.raises(UserError, match='form="images"'):
        trainer_of(config("vae", form="latents"), model.spec, one_device)


def test_other_patterns_in_place_of_the_stages(trainer):
    bare = trainer("1", trains=("image_proj/.*",))
    assert {path.split("/")[0] for path in bare.trained} == {"image_proj"}
    with pytest.raises(UserError, match="matches none"):
        trainer("1", trains=("vae/.*",))
