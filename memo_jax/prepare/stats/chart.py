"""Histograms, drawn with Pillow."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT, MARGIN, COLUMNS = 360, 220, 28, 3
INK, BAR, PAPER, GREY = (30, 30, 30), (70, 110, 170), (255, 255, 255), (190, 190, 190)


@dataclass(frozen=True)
class Bars:
    """One histogram: a title, and for each bar what is written under it and its count."""

    title: str
    counts: Sequence[tuple[str, float]]


def histogram(title: str, values: Sequence[float], bins: int = 16) -> Bars:
    """Values counted in bins of equal width."""
    counts, edges = np.histogram(np.asarray(values, np.float64), bins)
    # As many digits as tell neighbouring edges apart.
    digits = max(0, 1 - math.floor(math.log10(edges[1] - edges[0])))
    named = [f"{edge:.{digits}f}" for edge in edges[:-1]]
    return Bars(title, list(zip(named, counts.tolist(), strict=True)))


def drawn(charts: Sequence[Bars], heading: str) -> Image.Image:
    """All histograms on one sheet."""
    rows = -(-len(charts) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * WIDTH, rows * HEIGHT + 2 * MARGIN), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN / 2), heading, INK)
    for i, chart in enumerate(charts):
        left = i % COLUMNS * WIDTH + MARGIN
        top = i // COLUMNS * HEIGHT + 2 * MARGIN
        _bars(pen, chart, left, top)
    return sheet


def _bars(pen: ImageDraw.ImageDraw, chart: Bars, left: float, top: float) -> None:
    wide, high = WIDTH - 2 * MARGIN, HEIGHT - 3 * MARGIN
    pen.text((left, top), chart.title, INK)
    foot = top + 16 + high
    pen.line((left, foot, left + wide, foot), GREY)
    most = max((count for _, count in chart.counts), default=0.0) or 1.0
    step = wide / max(1, len(chart.counts))
    every = -(-len(chart.counts) * 44 // wide)  # labels that fit side by side
    for k, (label, count) in enumerate(chart.counts):
        x = left + k * step
        pen.rectangle((x + 1, foot - high * count / most, x + step - 1, foot), BAR)
        if k % every == 0:
            pen.text((x, foot + 3), label[: max(6, int(step // 6))], INK)
    pen.text((left + wide - 40, top), f"{most:g}", GREY)
