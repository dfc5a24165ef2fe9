"""From a batch to what the networks take: latents, noise and its level, conditions kept or dropped.

All chance comes from one key for each sample, so that a sample's draws do not depend on which
others it is computed with, nor where.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from memo_jax.diffusion import flow
from memo_jax.models.vae import VAE
from memo_jax.train.config import DropRates

Moments = tuple[Float[Array, "*n h w z"], Float[Array, "*n h w z"]]


@struct.dataclass
class Inputs:
    """Some samples as the networks take them.

    Attributes:
      latents: what is to be learnt, times the VAE's scaling factor.
      noise: as large.
      sigma: each sample's level.
      images: latents of the reference and the past frames, oldest first.
      face: embeddings.
      audio: windows of hidden states; None where nothing is heard.
      emotion: a label for each emotion norm; None where nothing is heard.
      use_reference: whose frames attend to the reference; None where all do.
    """

    latents: Float[Array, "b f h w z"]
    noise: Float[Array, "b f h w z"]
    sigma: Float[Array, " b"]
    images: Float[Array, "b images h w z"]
    face: Float[Array, "b e"]
    audio: Float[Array, "b f window layers d"] | None
    emotion: Int[Array, "b norms"] | None
    use_reference: Bool[Array, " b"] | None = None


@struct.dataclass
class Drops:
    """Which conditions of which samples are dropped; emotion in each norm on its own. `null` are
    the samples that guidance's null branch is taught by."""

    reference: Bool[Array, " b"]
    audio: Bool[Array, " b"]
    past: Bool[Array, " b"]
    emotion: Bool[Array, "b norms"]
    null: Bool[Array, " b"]


class Keys(NamedTuple):
    """A key of each sample for each thing drawn; names are meanings."""

    latents: PRNGKeyArray
    reference: PRNGKeyArray
    past: PRNGKeyArray
    noise: PRNGKeyArray
    sigma: PRNGKeyArray
    drop: PRNGKeyArray


def sample_keys(key: PRNGKeyArray, rows: Int[Array, " b"]) -> Keys:
    """The keys of the samples in these rows of the whole batch."""
    drawn = jax.vmap(lambda row: jax.random.split(jax.random.fold_in(key, row), len(Keys._fields)))
    return Keys(*jnp.moveaxis(drawn(rows), 1, 0))


def drops(keys: PRNGKeyArray, rates: DropRates, norms: int) -> Drops:
    """The drops of the samples with these keys: each condition independent of the others, but for
    samples of the null branch, which lack all that it lacks."""

    def one(key: PRNGKeyArray) -> Drops:
        k_reference, k_audio, k_past, k_emotion = jax.random.split(key, 4)
        null = jax.random.bernoulli(jax.random.fold_in(key, 4), float(rates.null))
        return Drops(
            reference=jax.random.bernoulli(k_reference, float(rates.reference)) | null,
            audio=jax.random.bernoulli(k_audio, float(rates.audio)) | null,
            past=jax.random.bernoulli(k_past, float(rates.past)),
            emotion=jax.random.bernoulli(k_emotion, float(rates.emotion), (norms,)) | null,
            null=null,
        )

    return jax.vmap(one)(keys)


def sigmas(keys: PRNGKeyArray, mean: float = 0.0) -> Float[Array, " b"]:
    """Logit-normal(mean, 1) noise levels among the training's."""
    u = jax.nn.sigmoid(jax.vmap(jax.random.normal)(keys) - mean)  # 1 - sigma
    index = (flow.TRAIN_LEVELS * u).astype(jnp.int32)
    # u may round to 1.
    return jnp.asarray(flow.train_sigmas())[jnp.minimum(index, flow.TRAIN_LEVELS - 1)]


def sampled(keys: PRNGKeyArray, moments: Moments) -> Float[Array, "b *n h w z"]:
    """A sample of the VAE's posterior from its mean and standard deviation."""
    mean, std = moments
    return mean.astype(jnp.float32) + std.astype(jnp.float32) * normal(keys, mean.shape[1:])


def normal(keys: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, "b ..."]:
    """Normal noise of this shape for each key, float32."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, jnp.float32))(keys)


def encoded(vae: VAE, images: UInt8[Array, "b n H W 3"], frames: int) -> Moments:
    """The posterior's mean and standard deviation of pictures in 0 to 255.

    `frames` pictures of every sample at a time: what the autoencoder needs for one picture is many
    times the picture. Samples stay together, because they lie on different devices.
    """
    n = images.shape[1]
    frames = min(frames, n)
    padded = jnp.pad(images, ((0, 0), (0, -n % frames), (0, 0), (0, 0), (0, 0)))

    def some(pictures: UInt8[Array, "b k H W 3"]) -> Moments:
        x = rearrange(pictures, "b k h w c -> (b k) h w c").astype(jnp.float32) / 127.5 - 1
        mean, logvar = vae.encode(x)
        unfold = "(b k) h w z -> b k h w z"
        std = jnp.exp(0.5 * logvar)
        return rearrange(mean, unfold, k=frames), rearrange(std, unfold, k=frames)

    slices = jax.lax.map(some, rearrange(padded, "b (s k) h w c -> s b k h w c", k=frames))
    mean, std = (rearrange(part, "s b k h w z -> b (s k) h w z")[:, :n] for part in slices)
    return mean, std


def moments(
    batch: Mapping[str, Array], past_frames: int, vae: VAE | None, frames: int
) -> tuple[Moments, Moments, Moments]:
    """Of the target frames, the reference and the last `past_frames` past frames: as stored in the
    batch, or of its pictures.

    Raises:
      ValueError: the batch has fewer past frames.
    """
    stored = batch["past" if "past" in batch else "past_mean"].shape[1]
    if stored < past_frames:
        raise ValueError(f"the batch has {stored} past frames, the step takes {past_frames}")
    start = stored - past_frames
    if vae is None:
        target, reference, past = (
            (batch[f"{name}_mean"], batch[f"{name}_std"])
            for name in ("latents", "reference", "past")
        )
        return target, reference, (past[0][:, start:], past[1][:, start:])
    parts = (batch["frames"], batch["reference"][:, None], batch["past"][:, start:])
    mean, std = encoded(vae, jnp.concatenate(parts, axis=1), frames)
    f = batch["frames"].shape[1]
    return (
        (mean[:, :f], std[:, :f]),
        (mean[:, f], std[:, f]),
        (mean[:, f + 1 :], std[:, f + 1 :]),
    )


def prepared(
    batch: Mapping[str, Array],
    keys: Keys,
    found: tuple[Moments, Moments, Moments],
    *,
    scaling: float,
    rates: DropRates,
    grey: Moments | None,
    norms: int,
    null_emotion: int,
    levels: Callable[[PRNGKeyArray], Float[Array, " b"]] = sigmas,
) -> Inputs:
    """The inputs of some samples.

    Args:
      batch: their rows; `emotion`, `face` and `audio` are read.
      keys: theirs.
      found: what `moments` gives.
      scaling: the VAE's scaling factor.
      rates: of the drops.
      grey: the posterior of a picture in mid-grey, which stands for dropped past frames; None
        where there are no past frames.
      norms: how many emotion norms there are; none where nothing is heard.
      null_emotion: the class of a dropped label.
      levels: the noise levels of samples with these keys.
    """
    dropped = drops(keys.drop, rates, norms)
    target, reference, past = found
    if grey is not None:
        mean, std = (_where(dropped.past, g, m) for g, m in zip(grey, past, strict=True))
        past = mean, std
    images = scaling * jnp.concatenate(
        [
            _where(dropped.reference, jnp.float32(0), sampled(keys.reference, reference))[:, None],
            sampled(keys.past, past),
        ],
        axis=1,
    )
    latents = scaling * sampled(keys.latents, target)
    audio = emotion = None
    if norms:
        audio = _where(dropped.audio, jnp.zeros((), batch["audio"].dtype), batch["audio"])
        emotion = jnp.where(dropped.emotion, null_emotion, batch["emotion"][:, None])
    return Inputs(
        latents=latents,
        noise=normal(keys.noise, latents.shape[1:]),
        sigma=levels(keys.sigma),
        images=images,
        face=_where(dropped.null, jnp.zeros((), batch["face"].dtype), batch["face"]),
        audio=audio,
        emotion=emotion,
        use_reference=~dropped.null if rates.null else None,
    )


def _where(which: Bool[Array, " b"], then: Array, otherwise: Float[Array, "b ..."]) -> Array:
    """For each sample one or the other; `then` may lack leading axes."""
    chosen = jnp.expand_dims(which, tuple(range(1, otherwise.ndim)))
    return jnp.where(chosen, jnp.broadcast_to(then, otherwise.shape), otherwise)
