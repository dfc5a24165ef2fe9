"""Types that constructors share."""

from typing import Any

Dtype = Any

# `nnx.Rngs`, or anything else that gives keys through `.params()`: Flax's own layers need no more.
Rngs = Any
