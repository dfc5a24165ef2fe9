"""What training carries from step to step."""

from typing import Any

from flax import struct
from jaxtyping import Array, Float, Int

# {"<component>/<path>": array}: parameters of all networks in one dict.
Params = dict[str, Array]


@struct.dataclass
class TrainState:
    """All that a step changes. Frozen parameters are no part of it.

    Attributes:
      step: updates made.
      trained: the trained parameters, float32.
      opt_state: optax's, of `trained` alone.
      ema: a running average of `trained`, float32, or None.
    """

    step: Int[Array, ""]
    trained: dict[str, Float[Array, "..."]]
    opt_state: Any
    ema: dict[str, Float[Array, "..."]] | None
