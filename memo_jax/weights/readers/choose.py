"""Which of a checkpoint's dictionaries is the state dict."""

from pathlib import Path
from typing import Any

from memo_jax.errors import UserError
from memo_jax.weights.readers.machine import shown

# Training frameworks put the state dict under one of these; a state dict has no such entry
# that is itself a dictionary of tensors, so that a stray tensor beside it does no harm.
NESTED = ("state_dict", "model", "model_state_dict", "params", "module", "ema")
MAX_LISTED = 20


def state_dict(content: object, tensor: type, path: Path) -> dict[str, Any]:
    """The entries of type `tensor` of the first dictionary that has some; the rest is left out.

    Raises UserError: no such dictionary, or tensors under something other than names.
    """
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no dictionary of tensors; save the model's state_dict()")
    for found in (*(content.get(key) for key in NESTED), content):
        if not isinstance(found, dict):
            continue
        tensors = {name: value for name, value in found.items() if isinstance(value, tensor)}
        if strangers := [name for name in tensors if not isinstance(name, str)]:
            raise UserError(
                f"{path}: a tensor lies under {shown(strangers[0])} of type "
                f"{type(strangers[0]).__name__}; expected names only"
            )
        if tensors:
            return tensors
    keys = [shown(getattr(key, "name", key)) for key in list(content)[:MAX_LISTED]]
    listed = ", ".join(keys) + (", ..." if len(content) > MAX_LISTED else "")
    raise UserError(
        f"{path} has no tensors at its top or under {', '.join(NESTED)}; it has: "
        f"{listed or 'nothing'}; save the model's state_dict()"
    )
