"""The file of votes: what its rows are, and the share that preferred A with its interval."""

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

from memo_jax.errors import UserError
from memo_jax.io.paths import fail

# The five things that the paper's raters compared (arXiv:2412.04448).
QUESTIONS = {
    "overall": "Which video is better overall?",
    "motion": "In which one is the motion smoother?",
    "expression": "In which one does the expression fit the voice better?",
    "lips": "In which one do the lips fit the sound better?",
    "identity": "In which one does the face stay more the same person?",
}
ANSWERS = ("a", "b", "same")
COLUMNS = ("time", "rater", "pair", "question", "answer", "left", "a", "b")
"""`answer` is one of `ANSWERS`, `left` says which of both was there; `a` and `b` are the folders'
names, so that nobody's votes are counted for the other."""


@dataclass(frozen=True)
class Share:
    """How often A was preferred, of the votes that preferred one.

    Attributes:
      a: votes for A.
      b: votes for B.
      same: votes for neither.
      share: of A, nan without votes for either.
      low: of Wilson's interval.
      high: of it.
    """

    a: int
    b: int
    same: int
    share: float
    low: float
    high: float


def read_votes(votes: Path) -> Iterator[dict[str, str]]:
    """The rows of a file of votes; what a stopped machine left of the last row is passed over.

    Raises:
      UserError: no such file, or one of other columns.
    """
    try:
        content = Path(votes).read_bytes()
        text = content[: whole(content)].decode("utf-8")
        rows = csv.DictReader(io.StringIO(text, newline=""))
        if rows.fieldnames is None or set(COLUMNS) - set(rows.fieldnames):
            raise UserError(f"votes {str(votes)!r} have not the columns {', '.join(COLUMNS)}")
        yield from (row for row in rows if row["answer"] in ANSWERS)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise fail(f"votes {str(votes)!r} cannot be read", error) from error


def whole(content: bytes) -> int:
    """How many bytes of a file of votes are whole rows, which all end their line."""
    return content.rfind(b"\n") + 1


def tally(votes: Path) -> dict[str, Share]:
    """Question -> share, from a file of votes; of one rater's votes on a question of a pair the
    last one counts.

    Raises:
      UserError: no such file, or one of other columns.
    """
    latest = {(r["rater"], r["pair"], r["question"]): r["answer"] for r in read_votes(votes)}
    found = {}
    for question in QUESTIONS:
        answers = [answer for (_, _, asked), answer in latest.items() if asked == question]
        a, b = answers.count("a"), answers.count("b")
        low, high = wilson(a, a + b)
        share = a / (a + b) if a + b else math.nan
        found[question] = Share(a, b, answers.count("same"), share, low, high)
    return found


def sides(votes: Path) -> tuple[str, str] | None:
    """The names of A and B in a file of votes; None where there are none yet.

    Raises:
      UserError: no such file, one of other columns, or votes on several pairs of folders.
    """
    found = {(row["a"], row["b"]) for row in read_votes(votes)}
    if len(found) > 1:
        raise UserError(
            f"votes {str(votes)!r} are on {len(found)} pairs of folders; expected those of one "
            "study in a file"
        )
    return found.pop() if found else None


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a binomial share (E. B. Wilson, 1927); all of [0, 1] without trials.

    Raises:
      ValueError: more successes than trials, or a confidence that is none.
    """
    if not 0 <= successes <= trials or not 0 < confidence < 1:
        raise ValueError(f"{successes} of {trials} at confidence {confidence}")
    if not trials:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, extra = successes / trials, z * z / trials
    middle = share + extra / 2
    half = z * math.sqrt(share * (1 - share) / trials + extra / (4 * trials))
    low, high = (middle - half) / (1 + extra), (middle + half) / (1 + extra)
    # At the ends the two sides are equal but for rounding.
    return (0.0 if successes == 0 else low), (1.0 if successes == trials else high)


def to_markdown(votes: Path) -> str:
    """What a file of votes says, as a Markdown table.

    Raises:
      UserError: no such file, or one that is none of one study.
    """
    named = sides(votes)
    lines = [f"A is {named[0]}, B is {named[1]}.", ""] if named else ["No votes yet.", ""]
    lines += ["| question | A | B | same | A preferred | 95 % |", "|---|---|---|---|---|---|"]
    for question, one in tally(votes).items():
        share = f"{one.share:.0%}" if one.a + one.b else "–"
        lines.append(
            f"| {QUESTIONS[question]} | {one.a} | {one.b} | {one.same} | {share} | "
            f"{one.low:.0%} to {one.high:.0%} |"
        )
    return "\n".join(lines) + "\n"
