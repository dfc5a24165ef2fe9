"""Small networks around the big ones: face tokens, audio tokens, emotion classes."""

from itertools import pairwise

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from memo_jax.config import AudioProjectionConfig, EmotionClassifierConfig, ImageProjectionConfig
from memo_jax.models.layers import layer_norm, linear, normed
from memo_jax.models.types import Dtype, Rngs


class ImageProjection(nnx.Module):
    """Face embedding -> face tokens (manifest: image_proj)."""

    def __init__(self, config: ImageProjectionConfig, *, dtype: Dtype = jnp.float32, rngs: Rngs):
        self.config = config
        width = config.cross_attention_dim
        self.proj = linear(config.embedding_dim, config.tokens * width, dtype=dtype, rngs=rngs)
        self.norm = layer_norm(width, rngs=rngs)

    def __call__(self, embedding: Float[Array, "b e"]) -> Float[Array, "b t c"]:
        tokens = rearrange(self.proj(embedding), "b (t c) -> b t c", t=self.config.tokens)
        return normed(self.norm, tokens)


class AudioProjection(nnx.Module):
    """A window of hidden states -> audio tokens, frame by frame (manifest: audio_proj)."""

    def __init__(self, config: AudioProjectionConfig, *, dtype: Dtype = jnp.float32, rngs: Rngs):
        self.config = config
        d_in, hidden = config.window * config.layers * config.channels, config.hidden_dim
        self.proj1 = linear(d_in, hidden, dtype=dtype, rngs=rngs)
        self.proj2 = linear(hidden, hidden, dtype=dtype, rngs=rngs)
        self.proj3 = linear(hidden, config.tokens * config.out_dim, dtype=dtype, rngs=rngs)
        self.norm = layer_norm(config.out_dim, rngs=rngs)

    def __call__(self, hidden: Float[Array, "b f window layers d"]) -> Float[Array, "b f m c"]:
        x = rearrange(hidden, "b f window layers d -> b f (window layers d)")
        x = self.proj3(jax.nn.relu(self.proj2(jax.nn.relu(self.proj1(x)))))
        return normed(self.norm, rearrange(x, "b f (m c) -> b f m c", m=self.config.tokens))


class EmotionClassifier(nnx.Module):
    """emotion2vec features -> class probabilities (manifest: audio_emotion_classifier)."""

    def __init__(self, config: EmotionClassifierConfig, *, dtype: Dtype = jnp.float32, rngs: Rngs):
        self.config = config
        inner = [config.channels] * (config.layers - 1)
        widths = [config.in_features, *inner, config.num_emotions]
        self.layers = nnx.List(
            [linear(d_in, d_out, dtype=dtype, rngs=rngs) for d_in, d_out in pairwise(widths)]
        )

    def __call__(self, features: Float[Array, "b e"]) -> Float[Array, "b classes"]:
        x = features
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return jax.nn.softmax(self.layers[-1](x).astype(jnp.float32), axis=-1)
