"""Weights between PyTorch and memo_jax: `python -m tools.convert_weights --help`."""
