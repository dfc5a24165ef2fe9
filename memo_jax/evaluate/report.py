"""Tables and plots of studies."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from memo_jax.evaluate.figures import Figures, summary
from memo_jax.evaluate.studies import MAIN, OTHER_TRAININGS, Study, Variant
from memo_jax.metrics import plotting

HEADS = {
    "lips": "lips",
    "lag": "lag, frames",
    "lips_at_once": "lips, no shift",
    "loudness": "lips to loudness",
    "emotion": "emotion, %",
    "identity": "identity",
    "jitter": "jitter, 1e-3",
    "sway": "sway, 1e-3",
    "seams": "seams",
    "kept": "identity kept",
}
SCALES = {"emotion": 100.0, "jitter": 1000.0, "sway": 1000.0}
DIGITS = {"emotion": 1, "lag": 2, "jitter": 1, "sway": 1, "seams": 2}

Found = Mapping[str, Sequence[Sequence[Figures]]]
"""Variant -> seed -> video; variants whose model was not given are missing."""


def table(study: Study, found: Found) -> str:
    """A study as a Markdown table: means over all videos ± the spread of the seeds' means."""
    heads = ["", *(HEADS[name] for name in study.columns)]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for variant in study.variants:
        cells = _cells(study, variant, found)
        lines.append(f"| {' | '.join([variant.name, *cells])} |")
    return "\n".join(lines)


def _cells(study: Study, variant: Variant, found: Found) -> list[str]:
    if variant.name not in found:
        return [f"not run: no model {variant.model!r} given"] + [""] * (len(study.columns) - 1)
    values = summary(found[variant.name])
    cells = []
    for name in study.columns:
        mean, spread = (x * SCALES.get(name, 1.0) for x in values[name])
        digits = DIGITS.get(name, 3)
        several = len(found[variant.name]) > 1
        cells.append(f"{mean:.{digits}f}" + (f" ± {spread:.{digits}f}" if several else ""))
    return cells


def plot(path: Path, study: Study, found: Found) -> None:
    """Curves over seconds where the study has them, a bar for each variant and column otherwise.

    Raises:
      UserError: matplotlib is not installed.
    """
    pyplot = plotting.pyplot()
    if study.per_second:
        figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
        for name, seeds in found.items():
            curves = np.array([one.by_second for videos in seeds for one in videos])
            mean, spread = curves.mean(axis=0), curves.std(axis=0)
            seconds = np.arange(1, len(mean) + 1)
            (line,) = axes.plot(seconds, mean, label=name)
            axes.fill_between(
                seconds, mean - spread, mean + spread, alpha=0.12, color=line.get_color()
            )
        axes.set_xlabel("second")
        axes.set_ylabel("cosine with the portrait")
        axes.legend(fontsize="small")
        axes.set_title(study.question)
    else:
        figure, panels = pyplot.subplots(
            1, len(study.columns), figsize=(2.2 * len(study.columns), 3.6), layout="constrained"
        )
        names = list(found)
        for axes, column in zip(np.atleast_1d(panels), study.columns, strict=True):
            values = [summary(found[name])[column] for name in names]
            scale = SCALES.get(column, 1.0)
            axes.bar(
                range(len(names)),
                [scale * mean for mean, _ in values],
                yerr=[scale * spread for _, spread in values],
                color=[f"C{i}" for i in range(len(names))],
            )
            axes.set_xticks(range(len(names)), names, rotation=90, fontsize="small")
            axes.set_title(HEADS[column], fontsize="medium")
        figure.suptitle(study.question)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def page(studies: Mapping[str, Study], found: Mapping[str, Found], about: str) -> str:
    """All studies' tables, one Markdown text."""
    parts = [f"# The puppet suite\n\n{about}\n"]
    for name, study in studies.items():
        parts.append(f"## {study.question}\n\n{table(study, found[name])}\n\n![]({name}.png)\n")
        needed = {variant.model for variant in study.variants if variant.name not in found[name]}
        for model in sorted(needed - {MAIN}):
            parts.append(f"`{model}` is {OTHER_TRAININGS[model]}.\n")
    return "\n".join(parts)
