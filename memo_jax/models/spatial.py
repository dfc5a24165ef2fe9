"""The spatial transformer: self-attention that can also see a portrait, then face tokens."""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx, struct
from jaxtyping import Array, Float

from memo_jax.models import exchange
from memo_jax.models.attention import attend
from memo_jax.models.layers import (
    FeedForward,
    group_norm,
    layer_norm,
    linear,
    normed,
    normed_frames,
)
from memo_jax.models.types import Dtype, Rngs


@struct.dataclass
class SpatialCache:
    """Keys and values of one spatial transformer that no denoising step changes.

    `reference_*` are those of the portrait, of every sample that a frame may choose; None in the
    Reference Net itself.
    """

    face_k: Float[Array, "b t heads d"]
    face_v: Float[Array, "b t heads d"]
    reference_k: Float[Array, "samples s heads d"] | None = None
    reference_v: Float[Array, "samples s heads d"] | None = None


class Attention(nnx.Module):
    """Projections of a multi-head attention; queries from one width, keys from another."""

    def __init__(
        self,
        width: int,
        kv_width: int,
        heads: int,
        *,
        inner: int | None = None,
        dtype: Dtype,
        rngs: Rngs,
    ):
        inner = inner or width
        self.heads = heads
        self.to_q = linear(width, inner, bias=False, dtype=dtype, rngs=rngs)
        self.to_k = linear(kv_width, inner, bias=False, dtype=dtype, rngs=rngs)
        self.to_v = linear(kv_width, inner, bias=False, dtype=dtype, rngs=rngs)
        self.to_out = linear(inner, width, dtype=dtype, rngs=rngs)

    def queries(self, x: Float[Array, "*n c"]) -> Float[Array, "*n heads d"]:
        return split_heads(self.to_q(x), self.heads)

    def keys_values(
        self, x: Float[Array, "*n c"]
    ) -> tuple[Float[Array, "*n heads d"], Float[Array, "*n heads d"]]:
        return split_heads(self.to_k(x), self.heads), split_heads(self.to_v(x), self.heads)

    def out(self, x: Float[Array, "*n heads d"]) -> Float[Array, "*n c"]:
        return self.to_out(merge_heads(x))

    def over_self(self, x: Float[Array, "n s c"]) -> Float[Array, "n s c"]:
        """Plain self-attention."""
        return self.out(attend(self.queries(x), *self.keys_values(x)))


def split_heads(x: Float[Array, "*n c"], heads: int) -> Float[Array, "*n heads d"]:
    """Channels as heads."""
    return rearrange(x, "... (heads d) -> ... heads d", heads=heads)


def merge_heads(x: Float[Array, "*n heads d"]) -> Float[Array, "*n c"]:
    """Heads as channels."""
    return rearrange(x, "... heads d -> ... (heads d)")


class SpatialBlock(nnx.Module):
    """Self-attention, attention to face tokens, feed-forward; layer norms before, residuals
    around (manifest: `attentions.*.transformer_blocks.0`)."""

    def __init__(self, width: int, cross_dim: int, heads: int, *, dtype: Dtype, rngs: Rngs):
        self.norm1 = layer_norm(width, rngs=rngs)
        self.attn1 = Attention(width, width, heads, dtype=dtype, rngs=rngs)
        self.norm2 = layer_norm(width, rngs=rngs)
        self.attn2 = Attention(width, cross_dim, heads, dtype=dtype, rngs=rngs)
        self.norm3 = layer_norm(width, rngs=rngs)
        self.ff = FeedForward(width, dtype=dtype, rngs=rngs)

    def cache(
        self,
        face_tokens: Float[Array, "b t c_face"],
        reference_tokens: Float[Array, "samples s c"] | None = None,
    ) -> SpatialCache:
        """What every step reuses; `reference_tokens` are already normalised."""
        face_k, face_v = self.attn2.keys_values(face_tokens)
        if reference_tokens is None:
            return SpatialCache(face_k, face_v)
        return SpatialCache(face_k, face_v, *self.attn1.keys_values(reference_tokens))

    def __call__(
        self,
        x: Float[Array, "b f s c"],
        cache: SpatialCache,
        *,
        use_reference: np.ndarray | Array | None = None,
        mixed_rows: bool = False,
    ) -> tuple[Float[Array, "b f s c"], Float[Array, "b f s c"]]:
        """The block's output, and the normalised tokens that entered its self-attention."""
        frames = x.shape[1]
        tokens = normed(self.norm1, x)
        x = x + self.attn1.out(self._self_attention(tokens, cache, use_reference, mixed_rows))
        q = rearrange(self.attn2.queries(normed(self.norm2, x)), "b f s n d -> b (f s) n d")
        faces = attend(q, cache.face_k, cache.face_v)
        x = x + self.attn2.out(rearrange(faces, "b (f s) n d -> b f s n d", f=frames))
        return x + self.ff(normed(self.norm3, x)), tokens

    def _self_attention(
        self,
        tokens: Float[Array, "b f s c"],
        cache: SpatialCache,
        use_reference: np.ndarray | Array | None,
        mixed_rows: bool,
    ) -> Float[Array, "b f s heads d"]:
        b, f = tokens.shape[:2]
        q, (k, v) = self.attn1.queries(tokens), self.attn1.keys_values(tokens)
        if cache.reference_k is None or cache.reference_v is None:
            return _rows_attend(q, k, v)

        # Which sample's portrait each frame sees: the release takes row b*F + f modulo b.
        samples = cache.reference_k.shape[0]
        own = np.broadcast_to(np.arange(b)[:, None], (b, f))
        source = exchange.rows(b, f) % samples if mixed_rows else own
        seen_k, seen_v = (
            jnp.take(leaf, source, axis=0, mode="clip").astype(k.dtype)
            for leaf in (cache.reference_k, cache.reference_v)
        )
        if exchange.branches_apart() and use_reference is not None:
            # The null branch's device waits for the other's. Its own keys, seen twice, give what
            # they give once, in as many operations: both run one program.
            chosen = use_reference[:, None, None, None, None]
            seen_k, seen_v = jnp.where(chosen, seen_k, k), jnp.where(chosen, seen_v, v)
            use_reference = None
        with_k = jnp.concatenate([k, seen_k], axis=2)
        with_v = jnp.concatenate([v, seen_v], axis=2)
        if use_reference is None:
            return _rows_attend(q, with_k, with_v)
        if isinstance(use_reference, jax.core.Tracer):
            # Not known until it runs: compute both and choose.
            chosen = use_reference[:, None, None, None, None]
            return jnp.where(chosen, _rows_attend(q, with_k, with_v), _rows_attend(q, k, v))

        # Known now: every sample is computed once, the null branch over its own tokens only.
        seeing = np.flatnonzero(use_reference)
        blind = np.flatnonzero(~np.asarray(use_reference, bool))
        parts = []
        if blind.size:
            parts.append(_rows_attend(q[blind], k[blind], v[blind]))
        if seeing.size:
            parts.append(_rows_attend(q[seeing], with_k[seeing], with_v[seeing]))
        order = np.argsort(np.concatenate([blind, seeing]), kind="stable")
        out = jnp.concatenate(parts)
        return out if np.array_equal(order, np.arange(b)) else out[order]


def _rows_attend(q: Array, k: Array, v: Array) -> Array:
    fold = "b f s n d -> (b f) s n d"
    out = attend(rearrange(q, fold), rearrange(k, fold), rearrange(v, fold))
    return rearrange(out, "(b f) s n d -> b f s n d", f=q.shape[1])


class NormOnly(nnx.Module):
    """The last transformer of the Reference Net: nothing after its first norm is ever used."""

    def __init__(self, width: int, *, rngs: Rngs):
        self.norm1 = layer_norm(width, rngs=rngs)


class SpatialTransformer(nnx.Module):
    """A spatial block between group norm and projections (manifest: `attentions.*`).

    `final` ends after the block's first norm, as the Reference Net's last one does.
    """

    def __init__(
        self,
        width: int,
        cross_dim: int,
        heads: int,
        groups: int,
        *,
        final: bool = False,
        dtype: Dtype,
        rngs: Rngs,
    ):
        self.norm = group_norm(width, groups, 1e-6, rngs=rngs)
        self.proj_in = linear(width, width, dtype=dtype, rngs=rngs)
        self.transformer_blocks: nnx.List = nnx.List([])
        if final:
            self.transformer_blocks.append(NormOnly(width, rngs=rngs))
        else:
            self.transformer_blocks.append(
                SpatialBlock(width, cross_dim, heads, dtype=dtype, rngs=rngs)
            )
            self.proj_out = linear(width, width, dtype=dtype, rngs=rngs)

    def cache(
        self,
        face_tokens: Float[Array, "b t c_face"],
        reference_tokens: Float[Array, "samples s c"] | None = None,
    ) -> SpatialCache:
        """What every step reuses."""
        return self.transformer_blocks[0].cache(face_tokens, reference_tokens)

    def __call__(
        self,
        x: Float[Array, "b f h w c"],
        cache: SpatialCache,
        *,
        use_reference: np.ndarray | Array | None = None,
        mixed_rows: bool = False,
    ) -> tuple[Float[Array, "b f h w c"], Float[Array, "b f s c"]]:
        """The transformer's output and the normalised tokens of its self-attention."""
        h = self._enter(x)
        h, tokens = self.transformer_blocks[0](
            h, cache, use_reference=use_reference, mixed_rows=mixed_rows
        )
        return x + rearrange(self.proj_out(h), "b f (h w) c -> b f h w c", h=x.shape[2]), tokens

    def tokens_only(self, x: Float[Array, "b f h w c"]) -> Float[Array, "b f s c"]:
        """The normalised tokens that would enter self-attention."""
        return normed(self.transformer_blocks[0].norm1, self._enter(x))

    def _enter(self, x: Float[Array, "b f h w c"]) -> Float[Array, "b f s c"]:
        return rearrange(self.proj_in(normed_frames(self.norm, x)), "b f h w c -> b f (h w) c")
