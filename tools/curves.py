"""Loss curves of training runs, side by side.

    python tools/curves.py VAE STAGE1 STAGE2A STAGE2B --output docs/tiny_curves.png

Needs matplotlib (pip install 'memo_jax[evaluate]').
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np

from memo_jax.train.log import read_metrics

SMOOTHED = 10  # logged steps of the running mean


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(args.runs), figsize=(3.2 * len(args.runs), 3), layout="constrained"
    )
    for axes, run in zip(np.atleast_1d(panels), args.runs, strict=True):
        lines = read_metrics(run)
        steps = np.array([line["step"] for line in lines])
        losses = np.array([float(line["loss"]) for line in lines])
        axes.plot(steps, losses, alpha=0.25, linewidth=0.7)
        if len(losses) > SMOOTHED:
            kernel = np.ones(SMOOTHED) / SMOOTHED
            axes.plot(steps[SMOOTHED - 1 :], np.convolve(losses, kernel, "valid"), color="C0")
        axes.set_title(run.name)
        axes.set_xlabel("step")
        axes.set_yscale("log")
    np.atleast_1d(panels)[0].set_ylabel("loss")
    figure.savefig(args.output, dpi=110)
    print(args.output)


if __name__ == "__main__":
    main()
