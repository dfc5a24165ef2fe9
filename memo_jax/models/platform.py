"""What programs are traced for: what this process has, or other machines."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


@contextlib.contextmanager
def on_platform(platform: str) -> Iterator[None]:
    """Within the block, programs are traced for "tpu", "gpu" or "cpu", rather than for what this
    process has; compiling ahead for other machines needs it."""
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def platform() -> str:
    """That programs are traced for now."""
    return _platform.get() or jax.default_backend()
