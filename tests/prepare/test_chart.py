"""The histograms of a set: every value is in one bar, and the sheet is drawn."""

import numpy as np
import pytest

from memo_jax.prepare.stats.chart import Bars, drawn, histogram


@pytest.mark.parametrize(
    "values", [[127.0], [0.0, 0.0], [1e-4, 2e-4, 3e-4], list(range(1000)), [-0.3, 0.001, 0.3]]
)
def test_every_value_is_counted_under_a_name_of_its_own(values):
    bars = histogram("x", values)
    assert sum(count for _, count in bars.counts) == len(values)
    assert len({label for label, _ in bars.counts}) == len(bars.counts) == 16


def test_a_sheet_shows_a_bar_for_each_count():
    one = np.asarray(drawn([Bars("x", [("a", 3), ("b", 0)])], "set"))
    two = np.asarray(drawn([Bars("x", [("a", 3), ("b", 3)])], "set"))
    blue = [(sheet == (70, 110, 170)).all(axis=2).sum() for sheet in (one, two)]
    assert blue[1] == pytest.approx(2 * blue[0], rel=0.03) and blue[0] > 5000
    assert drawn([Bars("none", [])] * 7, "set").size == (3 * 360, 3 * 220 + 56)
