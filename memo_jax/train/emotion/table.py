"""The paper's table: accuracy on each corpus and over all, ours beside a linear head's."""

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Int

from memo_jax.train.emotion.examples import TEST, Examples

OVERALL = "overall"
# The paper's own, over its 25 corpora: weighted accuracy in per cent.
PAPER = {"linear": 68.78, "mlp": 78.26}


@dataclass(frozen=True)
class Row:
    """Accuracies on one corpus's test side, in per cent.

    Weighted accuracy is the share of examples that are right; unweighted the mean of the classes'
    own, over classes that occur. `train` counts all examples that are not tested with.
    """

    corpus: str
    language: str
    split: str
    train: int
    test: int
    linear_weighted: float
    linear_unweighted: float
    mlp_weighted: float
    mlp_unweighted: float


def accuracies(
    predicted: Int[np.ndarray, "n"], labels: Int[np.ndarray, "n"]
) -> tuple[float, float]:
    """Weighted and unweighted accuracy in per cent; nan of nothing."""
    if not len(labels):
        return float("nan"), float("nan")
    right = predicted == labels
    recalls = [right[labels == label].mean() for label in np.unique(labels)]
    return 100 * float(right.mean()), 100 * float(np.mean(recalls))


def table(examples: Examples, predicted: Mapping[str, Int[np.ndarray, "n"]]) -> list[Row]:
    """A row for each corpus and one over all; `predicted` of "linear" and "mlp" are for the test
    side, in its order."""
    side = examples.sides == TEST
    labels, corpora = examples.labels[side], examples.corpora[side]
    rows = []
    for i in [*range(len(examples.parts)), None]:
        own = np.ones(len(labels), bool) if i is None else corpora == i
        measured = [
            value
            for name in ("linear", "mlp")
            for value in accuracies(predicted[name][own], labels[own])
        ]
        part = None if i is None else examples.parts[i]
        total = len(examples.labels) if part is None else len(part.labels)
        rows.append(
            Row(
                part.title if part else OVERALL,
                part.language if part else "",
                part.how if part else "",
                total - int(own.sum()),
                int(own.sum()),
                *measured,
            )
        )
    return rows


def as_text(rows: list[Row]) -> str:
    """The table for people."""
    head = ("corpus", "language", "split by", "train", "test", "linear", "", "MLP", "")
    second = ("", "", "", "", "", "WA", "UA", "WA", "UA")
    body = [
        (
            *(row.corpus, row.language, row.split, str(row.train), str(row.test)),
            *(f"{value:.2f}" for value in _measured(row)),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(head, second, *body, strict=True)]

    def line(cells: tuple[str, ...]) -> str:
        parts = [
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(parts).rstrip()

    rule = "-" * (sum(widths) + 2 * len(widths) - 2)
    lines = [line(head), line(second), rule, *map(line, body[:-1]), rule, line(body[-1])]
    lines.append(
        f"paper, overall over its 25 corpora: linear {PAPER['linear']}, MLP {PAPER['mlp']}"
    )
    return "\n".join(lines) + "\n"


def as_csv(rows: list[Row]) -> str:
    """The same for spreadsheets."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(asdict(rows[0])), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: round(v, 4) if isinstance(v, float) else v for k, v in row_of(row)})
    return out.getvalue()


def row_of(row: Row) -> list[tuple[str, object]]:
    """A row's cells by name; an accuracy of nothing is None, as JSON has no nan."""
    return [(k, None if v != v else v) for k, v in asdict(row).items()]


def _measured(row: Row) -> tuple[float, ...]:
    return (row.linear_weighted, row.linear_unweighted, row.mlp_weighted, row.mlp_unweighted)
