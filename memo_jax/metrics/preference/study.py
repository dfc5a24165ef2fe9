"""Pairs of videos, in whose order and on which side each rater sees them, and where votes go."""

import csv
import errno
import hashlib
import io
import os
import re
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memo_jax.errors import UserError
from memo_jax.io.paths import fail
from memo_jax.metrics.preference.votes import COLUMNS, QUESTIONS, read_votes, sides, whole
from memo_jax.metrics.videos import list_videos, name_of

RATER = re.compile(r"[\w .-]{1,40}")


@dataclass(frozen=True)
class Pair:
    """Two videos of one name."""

    name: str
    a: Path
    b: Path


def pairs_of(a: Path, b: Path) -> list[Pair]:
    """Videos that are in both folders under one name.

    Raises:
      UserError: a folder without videos, or none in common.
    """
    first = {name_of(path, Path(a)): path for path in list_videos(a, "A")}
    second = {name_of(path, Path(b)): path for path in list_videos(b, "B")}
    common = [Pair(name, path, second[name]) for name, path in first.items() if name in second]
    if not common:
        raise UserError(
            f"no video of {str(a)!r} has one of its name in {str(b)!r}; expected pairs of one name"
        )
    return common


class Study:
    """Pairs, and a file to which votes are appended, so that none is lost.

    Who made which video is told nowhere: left and right, and the pairs' order, follow from the
    seed, the rater and the pair.
    """

    def __init__(self, pairs: Sequence[Pair], votes: Path, names: tuple[str, str], seed: int = 0):
        """`names` are those of A and B. A file of votes that is there is gone on with.

        Raises:
          UserError: the file cannot be written, or holds something else or another study's votes.
        """
        self.pairs, self.votes, self.names, self.seed = list(pairs), Path(votes), names, seed
        self.key = secrets.token_urlsafe(16)  # of the page: other pages cannot vote
        self._lock = threading.Lock()
        self._answered: dict[tuple[str, str], set[str]] = {}
        if names[0] == names[1]:
            raise UserError(f"both folders are called {names[0]!r}; rename one, votes tell them so")
        try:
            if self.votes.exists() and self.votes.stat().st_size:
                self._go_on()
            else:
                self.votes.parent.mkdir(parents=True, exist_ok=True)
                self._append([COLUMNS])
        except OSError as error:
            raise fail(f"votes {str(votes)!r} cannot be written", error) from error

    def _go_on(self) -> None:
        """Takes up a file of votes; what is left of an unfinished row goes."""
        known = sides(self.votes)
        if known not in (None, self.names):
            assert known is not None
            raise UserError(
                f"votes {str(self.votes)!r} are on {known[0]} as A and {known[1]} as B; give those "
                "folders in that order, or another file"
            )
        for row in read_votes(self.votes):
            self._answered.setdefault((row["rater"], row["pair"]), set()).add(row["question"])
        with self.votes.open("rb+") as file:
            file.truncate(whole(file.read()))

    def a_is_left(self, rater: str, pair: str) -> bool:
        """Which side A is on, always the same for a rater and a pair, and a coin toss over them."""
        return self._drawn("side", rater, pair)[0] % 2 == 0

    def left_to_do(self, rater: str) -> list[int]:
        """The pairs that a rater has not answered yet, in the order that is this rater's own."""
        with self._lock:
            done = {p for (who, p), asked in self._answered.items() if who == rater and _all(asked)}
        at = [i for i, pair in enumerate(self.pairs) if pair.name not in done]
        return sorted(at, key=lambda i: self._drawn("order", rater, self.pairs[i].name))

    def _drawn(self, *parts: str) -> bytes:
        return hashlib.sha256("\0".join((str(self.seed), *parts)).encode()).digest()

    def vote(self, rater: object, pair: object, answers: object) -> None:
        """One rater's answers to all questions on a pair, by what is on the left and right.

        Raises:
          UserError: not a vote, or it cannot be written.
        """
        who = rater_named(rater)
        if not isinstance(pair, int) or not 0 <= pair < len(self.pairs):
            raise UserError(f"no pair {pair!r}; expected a number below {len(self.pairs)}")
        if (
            not isinstance(answers, dict)
            or set(answers) != set(QUESTIONS)
            or not set(answers.values()) <= {"left", "right", "same"}
        ):
            raise UserError(f"expected left, right or same for each of {', '.join(QUESTIONS)}")
        name = self.pairs[pair].name
        left, right = ("a", "b") if self.a_is_left(who, name) else ("b", "a")
        meant = {"left": left, "right": right, "same": "same"}
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        rows = [(now, who, name, q, meant[answers[q]], left, *self.names) for q in QUESTIONS]
        with self._lock:
            try:
                self._append(rows)
            except OSError as error:
                raise fail(f"votes {str(self.votes)!r} cannot be written", error) from error
            self._answered[who, name] = set(QUESTIONS)

    def _append(self, rows: Sequence[Sequence[str]]) -> None:
        """All rows in one write, on the disk before anybody is told that they are."""
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        content = text.getvalue().encode("utf-8")
        with self.votes.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                if file.write(content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)  # whole or not at all
                raise

    def video(self, pair: int, rater: str, side: str) -> Path:
        """The file on a side; raises KeyError where there is none."""
        if not 0 <= pair < len(self.pairs) or side not in ("left", "right"):
            raise KeyError(side)
        one = self.pairs[pair]
        return one.a if (side == "left") == self.a_is_left(rater, one.name) else one.b


def rater_named(rater: object) -> str:
    """The name that a rater may have; raises UserError."""
    if not isinstance(rater, str) or not RATER.fullmatch(rater):
        raise UserError("expected a name of up to 40 letters, digits, spaces, dots and dashes")
    return rater


def _all(asked: set[str]) -> bool:
    return asked >= set(QUESTIONS)
