"""memo_jax: talking-portrait video (MEMO, arXiv:2412.04448) in JAX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memo_jax.pipeline import Pipeline

__all__ = ["Pipeline"]


def __getattr__(name: str) -> Any:
    """`memo_jax.Pipeline`, imported when it is first asked for."""
    if name == "Pipeline":
        from memo_jax.pipeline import Pipeline

        return Pipeline
    raise AttributeError(f"module 'memo_jax' has no attribute {name!r}")
