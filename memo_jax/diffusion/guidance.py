"""Classifier-free guidance: one null branch drops face, reference, audio and emotion together."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped


def guided(guidance: float) -> bool:
    """Whether there is a null branch: at 1 or less it could not change the result."""
    return guidance > 1.0


def both_branches(
    null: Shaped[Array, "b ..."], condition: Shaped[Array, "b ..."]
) -> Shaped[Array, "2*b ..."]:
    """The batch [null..., condition...], in the order the release runs them."""
    return jnp.concatenate([null, condition])


def attends_to_reference(batch: int) -> Bool[np.ndarray, " 2*{batch}"]:
    """Which samples of `both_branches` see their portrait: known before tracing, so that the null
    branch's share is never computed."""
    return np.repeat([False, True], batch)


def combine(velocity: Float[Array, "branches ..."], guidance: float) -> Float[Array, "b ..."]:
    """null + guidance (condition - null), of `both_branches`."""
    null, condition = jnp.split(velocity, 2)
    return guide(null, condition, guidance)


def guide(
    null: Float[Array, "b ..."], condition: Float[Array, "b ..."], guidance: float
) -> Float[Array, "b ..."]:
    """null + guidance (condition - null)."""
    return null + guidance * (condition - null)
