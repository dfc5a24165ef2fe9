"""What training computes again in the backward pass rather than keeps from the forward one."""

from collections.abc import Callable
from typing import Any, Literal, ParamSpec, TypeVar

import jax

# "none" keeps all; "dots" keeps the results of dense layers and convolutions alone; "module" keeps
# what enters each resnet, transformer, audio and motion module; "layer" keeps what enters a layer
# of these, and computes each of its modules anew once more, so that never more than one module's
# inside exists. Whole levels would keep no less: what passes between the layers of the contracting
# side is kept anyway, for the expanding one.
Remat = Literal["none", "dots", "module", "layer"]

Given = ParamSpec("Given")
Made = TypeVar("Made")


def around_module(call: Callable[Given, Made], remat: Remat) -> Callable[Given, Made]:
    """`call`, one module's, with what `remat` says about modules."""
    if remat == "none":
        return call
    return jax.checkpoint(call, policy=_matmuls if remat == "dots" else None)


def around_layer(call: Callable[Given, Made], remat: Remat) -> Callable[Given, Made]:
    """`call`, a whole layer's, with what `remat` says about layers."""
    return jax.checkpoint(call) if remat == "layer" else call


def _matmuls(primitive: Any, *args: Any, **params: Any) -> bool:
    """Whether to keep a result: those of matrices of weights, not scores of attention, whose
    batch axes make them many and large."""
    if primitive is jax.lax.conv_general_dilated_p:
        return True
    return jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *args, **params)
