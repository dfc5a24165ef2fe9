"""Weight files as mappings from name to numpy view: safetensors and PyTorch's, without torch."""

from memo_jax.weights.readers.folders import is_weights, open_tensors
from memo_jax.weights.readers.tensors import Tensors

__all__ = ["Tensors", "is_weights", "open_tensors"]
