"""Types that constructors share."""

from typing import Any, Protocol

import jax

Dtype = Any


class Rngs(Protocol):
    """What a constructor needs of `nnx.Rngs`."""

    def params(self) -> jax.Array: ...
