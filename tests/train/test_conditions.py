"""Drops, noise levels and latents: each sample's own, and as the release draws them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smallest
from golden_case import relative_error

from memo_jax.diffusion import flow
from memo_jax.train import conditions
from memo_jax.train.config import DropRates
from memo_jax.train.loss import kept_loss

MANY = 40_000
NORMS = 3


@pytest.fixture(scope="module")
def keys():
    return jax.jit(conditions.sample_keys)(jax.random.key(0), jnp.arange(MANY))


def table(dropped):
    """[samples, conditions] of 0 and 1, each emotion norm a condition."""
    columns = [dropped.reference, dropped.audio, dropped.past, *dropped.emotion.T]
    return np.stack([np.asarray(c, np.float64) for c in columns], axis=1)


def test_conditions_are_dropped_each_on_its_own_in_one_sample_of_twenty(keys):
    drawn = table(jax.jit(lambda k: conditions.drops(k, DropRates(), NORMS))(keys.drop))
    sigma = np.sqrt(0.05 * 0.95 / MANY)
    assert np.all(np.abs(drawn.mean(axis=0) - 0.05) < 5 * sigma)
    # Of independent draws, and of neighbours in the batch, no two go together.
    beside = np.concatenate([drawn[:-1], drawn[1:]], axis=1)
    pairs = np.corrcoef(beside.T) - np.eye(2 * drawn.shape[1])
    assert np.abs(pairs).max() < 5 / np.sqrt(MANY)


def test_each_rate_is_its_conditions(keys):
    for i, name in enumerate(("reference", "audio", "past", "emotion")):
        rates = DropRates(**{k: float(k == name) for k in vars(DropRates())})
        share = table(conditions.drops(jax.tree.map(lambda k: k[:50], keys.drop), rates, NORMS))
        assert list(share.mean(axis=0)) == [float(min(j, 3) == i) for j in range(3 + NORMS)]


@pytest.mark.parametrize("mean", [0.0, -0.6])
def test_levels_are_logit_normal_over_the_releases(keys, mean):
    drawn = np.asarray(jax.jit(conditions.sigmas)(keys.sigma, mean))
    assert np.isin(drawn, flow.train_sigmas()).all()
    u = 1 - drawn + 0.0005  # level i of 1000 is u from i to i + 1 thousandths
    logits = np.log(u) - np.log1p(-u)
    assert abs(-logits.mean() - mean) < 0.025 and abs(logits.std() - 1) < 0.02


def test_draws_do_not_depend_on_the_rows_beside(keys):
    some = conditions.sample_keys(jax.random.key(0), jnp.array([7, 3]))
    for drawn, whole in zip(some, keys, strict=True):
        assert np.array_equal(
            conditions.normal(drawn, (2,)), conditions.normal(whole[jnp.array([7, 3])], (2,))
        )
    own = [np.asarray(conditions.normal(k[:1], (4,))) for k in keys]
    assert len(np.unique(np.stack(own))) == 4 * len(own)


def made(batch, rates, past=smallest.PAST, vae=None, norms=NORMS):
    """The inputs of a batch, with grey latents of 7 and 0.5."""
    keys = conditions.sample_keys(jax.random.key(1), jnp.arange(len(batch["face"])))
    grey = jnp.full((smallest.SIDE, smallest.SIDE, 4), 7.0)
    return conditions.prepared(
        batch,
        keys,
        conditions.moments(batch, past, vae, frames=2),
        scaling=0.5,
        rates=rates,
        grey=(grey, jnp.zeros_like(grey)),
        norms=norms,
        null_emotion=9,
    )


def test_dropped_is_zero_null_and_grey():
    batch = smallest.batch(3)
    kept = made(batch, DropRates(0, 0, 0, 0))
    gone = made(batch, DropRates(1, 1, 1, 1))
    assert np.array_equal(kept.emotion, np.repeat(batch["emotion"][:, None], NORMS, axis=1))
    assert np.array_equal(kept.audio, batch["audio"])
    assert np.all(gone.emotion == 9) and np.all(gone.audio == 0)
    assert np.all(gone.images[:, 0] == 0) and np.all(gone.images[:, 1:] == 3.5)
    for name in ("latents", "noise", "sigma", "face"):
        assert np.array_equal(getattr(kept, name), getattr(gone, name))


def test_the_null_branch_lacks_what_guidance_drops_and_keeps_the_past():
    batch = smallest.batch(3)
    none, null = DropRates(0, 0, 0, 0), DropRates(0, 0, 0, 0, null=1)
    kept, gone = made(batch, none), made(batch, null)
    assert kept.use_reference is None and not np.any(gone.use_reference)
    assert np.all(gone.face == 0) and np.any(kept.face != 0)
    assert np.all(gone.emotion == 9) and np.all(gone.audio == 0)
    assert np.array_equal(gone.images[:, 1:], kept.images[:, 1:])


def test_the_null_branchs_share_leaves_the_other_draws_as_they_were(keys):
    published = conditions.drops(keys.drop, DropRates(), NORMS)
    more = conditions.drops(keys.drop, DropRates(null=0.1), NORMS)
    null = np.asarray(more.null)
    assert abs(null.mean() - 0.1) < 5 * np.sqrt(0.1 * 0.9 / MANY)
    assert np.array_equal(table(more)[~null], table(published)[~null])
    # The past has draws of its own.
    assert np.array_equal(more.past, published.past)
    assert np.all(np.delete(table(more)[null], 2, axis=1) == 1)


def test_latents_are_samples_of_the_stored_posterior():
    batch = smallest.batch(3)
    inputs = made(batch, DropRates(0, 0, 0, 0), past=2)
    assert inputs.images.shape[1] == 3
    wanted = {
        "latents": inputs.latents,
        "reference": inputs.images[:, 0],
        "past": inputs.images[:, 1:],
    }
    for name, got in wanted.items():
        cut = slice(-2, None) if name == "past" else slice(None)
        mean, std = (batch[f"{name}_{m}"] for m in ("mean", "std"))
        if name == "past":
            mean, std = mean[:, cut], std[:, cut]
        eps = (np.asarray(got) / 0.5 - mean) / std
        assert abs(eps.mean()) < 0.2 and abs(eps.std() - 1) < 0.15
    assert not np.allclose(inputs.images[:, 0], inputs.latents[:, 0])


def test_a_batch_with_too_short_a_past():
    with pytest.raises(ValueError, match="has 3 past frames, the step takes 4"):
        made(smallest.batch(), DropRates(), past=4)


def test_pictures_are_encoded_as_stored_latents_would_be(model):
    vae = model.modules["vae"]
    batch = smallest.batch(2, form="images")
    stored = {k: v for k, v in batch.items() if k in ("audio", "emotion", "face")}
    names = ("frames", "past", "reference")
    pictures = np.concatenate([batch[name].reshape(-1, 8, 8, 3) for name in names])
    mean, logvar = jax.jit(vae.encode)(pictures.astype(np.float32) / np.float32(127.5) - 1)
    for name in names:
        shape = (*batch[name].shape[:-3], *mean.shape[1:])
        n = np.prod(shape[:-3])
        own = "latents" if name == "frames" else name
        stored |= {f"{own}_mean": mean[:n].reshape(shape)}
        stored |= {f"{own}_std": jnp.exp(logvar[:n] / 2).reshape(shape)}
        mean, logvar = mean[n:], logvar[n:]
    # 2 frames, the reference and 2 past ones: slices of two, the last one not full.
    pairs = zip(
        jax.tree.leaves(jax.jit(lambda b: made(b, DropRates(), past=2, vae=vae))(batch)),
        jax.tree.leaves(made(stored, DropRates(), past=2)),
        strict=True,
    )
    assert all(relative_error(got, want) <= 1e-5 for got, want in pairs)


def test_the_null_branch_sees_nothing_of_the_portrait(model):
    """Its loss is the same for any portrait, face, sound and emotion, and another's is not."""
    batch, other = smallest.batch(3), smallest.batch(3, seed=1)
    told = ("reference_mean", "reference_std", "face", "audio", "emotion")
    strange = batch | {name: other[name] for name in told}
    for null in (1, 0):
        rates = DropRates(0, 0, 0, 0, null=null)
        norms = model.modules["diffusion_net"].emotion_norms
        inputs = [made(one, rates, norms=norms) for one in (batch, strange)]
        ours, theirs = (kept_loss(model.modules, one, None)[1].losses for one in inputs)
        assert np.array_equal(ours, theirs) == bool(null)


def test_the_loss_in_the_velocity_is_the_one_in_z_0_by_the_levels_square(model):
    norms = model.modules["diffusion_net"].emotion_norms
    inputs = made(smallest.batch(3), DropRates(0, 0, 0, 0), norms=norms)
    losses = kept_loss(model.modules, inputs, None)[1].losses
    for threshold in (None, float(np.median(losses))):
        _, told = kept_loss(model.modules, inputs, threshold)
        assert int(told.kept.sum()) == (3 if threshold is None else 2)
        total, again = kept_loss(model.modules, inputs, threshold, loss="velocity")
        assert np.array_equal(told.losses, again.losses) and np.array_equal(told.kept, again.kept)
        wanted = np.where(told.kept, told.losses / np.asarray(inputs.sigma) ** 2, 0).sum()
        assert total == pytest.approx(wanted, rel=1e-4)
