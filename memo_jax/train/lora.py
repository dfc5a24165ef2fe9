"""Low-rank changes of frozen kernels (LoRA, arXiv:2106.09685): kernel + scale * A B.

The factors of the kernel at `<path>/kernel` are `<path>/lora_a` [in, rank] and `<path>/lora_b`
[rank, out]. B starts at zero, and with it the change.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from memo_jax.errors import UserError
from memo_jax.sharding import FSDP
from memo_jax.weights.components import component
from memo_jax.weights.rules import torch_names

A, B = "lora_a", "lora_b"


def targets(patterns: Sequence[str], shapes: Mapping[str, Any]) -> list[str]:
    """Paths, without `/kernel`, of the dense layers that some pattern matches whole.

    Raises:
      UserError: a pattern matches none.
    """
    dense = [
        path.removesuffix("/kernel")
        for path, leaf in shapes.items()
        if path.endswith("/kernel") and len(leaf.shape) == 2
    ]
    for pattern in patterns:
        if not any(re.fullmatch(pattern, path) for path in dense):
            raise UserError(
                f"lora_targets has {pattern!r}, which matches none of the model's {len(dense)} "
                "dense layers; give a pattern of whole paths, say diffusion_net/.*/(to_q|to_v)"
            )
    return [path for path in dense if any(re.fullmatch(pattern, path) for pattern in patterns)]


def start(
    paths: Sequence[str], shapes: Mapping[str, Any], rank: int, seed: int
) -> dict[str, np.ndarray]:
    """Factors to begin with, float32: A normal with variance 1 / in, B zero."""
    rng = np.random.default_rng(seed)
    factors: dict[str, np.ndarray] = {}
    for path in paths:
        d_in, d_out = shapes[f"{path}/kernel"].shape
        a = rng.standard_normal((d_in, rank), np.float32) / np.sqrt(d_in, dtype=np.float32)
        factors |= {f"{path}/{A}": a, f"{path}/{B}": np.zeros((rank, d_out), np.float32)}
    return factors


def merged(
    params: Mapping[str, Array], factors: Mapping[str, Array], scale: float
) -> dict[str, Array]:
    """`params` with the changes added to their kernels, in float32."""
    changed = dict(params)
    for path in _paths(factors):
        kernel = jnp.asarray(params[f"{path}/kernel"], jnp.float32)
        changed[f"{path}/kernel"] = kernel + _own(change(factors, path, scale), kernel.shape)
    return changed


def _own(x: Float[Array, "d_in d_out"], shape: tuple[int, ...]) -> Array:
    """The part of `x` that belongs to this device's part of a kernel, which has this shape."""
    for axis, own in enumerate(shape):
        if own != x.shape[axis]:
            start = jax.lax.axis_index(FSDP) * own
            x = jax.lax.dynamic_slice_in_dim(x, start, own, axis)
    return x


def change(factors: Mapping[str, Array], path: str, scale: float) -> Float[Array, "d_in d_out"]:
    """What is added to one kernel."""
    return scale * jnp.matmul(factors[f"{path}/{A}"], factors[f"{path}/{B}"])


def to_peft(
    name: str, config: Any, factors: Mapping[str, Any], scale: float, rank: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """A component's factors as PEFT names and lays them, and its `adapter_config.json`.

    Args:
      name: the component; factors of others are left out.
      config: the component's.
      factors: by whole path.
      scale: of the change; PEFT has it as lora_alpha / r.
      rank: r.
    """
    rules = component(name).rules(config)
    tensors: dict[str, np.ndarray] = {}
    for path in _paths(factors):
        if not path.startswith(f"{name}/"):
            continue
        (kernel,) = torch_names(name, rules, [f"{path.removeprefix(f'{name}/')}/kernel"])
        layer = f"base_model.model.{kernel.removesuffix('.weight')}"
        tensors[f"{layer}.lora_A.weight"] = np.ascontiguousarray(
            np.asarray(factors[f"{path}/{A}"]).T
        )
        tensors[f"{layer}.lora_B.weight"] = np.ascontiguousarray(
            np.asarray(factors[f"{path}/{B}"]).T
        )
    layers = {key.split("base_model.model.")[1].rsplit(".lora_", 1)[0] for key in tensors}
    return tensors, {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(layers),
    }


def _paths(factors: Mapping[str, Any]) -> list[str]:
    return [path.removesuffix(f"/{A}") for path in factors if path.endswith(f"/{A}")]
