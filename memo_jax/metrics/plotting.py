"""matplotlib, which only those who look at plots have to install."""

from typing import Any

from memo_jax.errors import UserError


def pyplot() -> Any:
    """`matplotlib.pyplot`, drawing into files alone. Commands that plot at their end ask for it at
    their beginning, too: nobody should wait for figures that cannot be drawn.

    Raises:
      UserError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise UserError(
            "plots need matplotlib, which is not installed; pip install 'memo_jax[evaluate]'"
        ) from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot
