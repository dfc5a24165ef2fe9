"""Weights: to and from PyTorch's names and layouts, and the native model folder."""

from memo_jax.weights.components import load_torch, to_torch

__all__ = ["load_torch", "to_torch"]
