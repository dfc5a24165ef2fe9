"""Which of two videos people prefer: a page with pairs side by side, and what the votes say.

The page is served to this machine alone, by Python's own server. Who made which video is not in
it: left and right are drawn for each rater and pair.
"""

import argparse
import csv
import hashlib
import json
import math
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import NormalDist
from typing import Any
from urllib.parse import parse_qs, urlsplit

from memo_jax.errors import UserError
from memo_jax.io.paths import fail
from memo_jax.metrics.preference_page import PAGE
from memo_jax.metrics.videos import list_videos, name_of

HOST = "127.0.0.1"
# The five things that the paper's raters compared (arXiv:2412.04448).
QUESTIONS = {
    "overall": "Which video is better overall?",
    "motion": "In which one is the motion smoother?",
    "expression": "In which one does the expression fit the voice better?",
    "lips": "In which one do the lips fit the sound better?",
    "identity": "In which one does the face stay more the same person?",
}
ANSWERS = ("a", "b", "same")
COLUMNS = ("time", "rater", "pair", "question", "answer", "left")
RATER = re.compile(r"[\w .-]{1,40}")
MOST_BYTES = 4096  # of a vote
BLOCK = 2**18
TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm", ".mov": "video/quicktime"}


@dataclass(frozen=True)
class Pair:
    """Two videos of one name."""

    name: str
    a: Path
    b: Path


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


def pairs_of(a: Path, b: Path) -> list[Pair]:
    """Videos that are in both folders under one name.

    Raises:
      UserError: a folder without videos, or none in common.
    """
    first = {name_of(path, Path(a)): path for path in list_videos(a, "--a")}
    second = {name_of(path, Path(b)): path for path in list_videos(b, "--b")}
    common = [Pair(name, path, second[name]) for name, path in first.items() if name in second]
    if not common:
        raise UserError(
            f"no video of {str(a)!r} has one of its name in {str(b)!r}; expected pairs of one name"
        )
    return common


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


def tally(votes: Path) -> dict[str, Share]:
    """Question -> share, from a file of votes; of one rater's votes on a question of a pair the
    last one counts.

    Raises:
      UserError: no such file, or one of other columns.
    """
    latest: dict[tuple[str, str, str], str] = {}
    try:
        with Path(votes).open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames is None or set(COLUMNS) - set(rows.fieldnames):
                raise UserError(f"votes {str(votes)!r} have not the columns {', '.join(COLUMNS)}")
            for row in rows:
                if row["answer"] in ANSWERS:
                    latest[row["rater"], row["pair"], row["question"]] = row["answer"]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise fail(f"votes {str(votes)!r} cannot be read", error) from error
    found = {}
    for question in QUESTIONS:
        answers = [answer for (_, _, asked), answer in latest.items() if asked == question]
        a, b = answers.count("a"), answers.count("b")
        low, high = wilson(a, a + b)
        share = a / (a + b) if a + b else math.nan
        found[question] = Share(a, b, answers.count("same"), share, low, high)
    return found


def to_markdown(shares: dict[str, Share]) -> str:
    """Shares as a Markdown table."""
    lines = ["| question | A | B | same | A preferred | 95 % |", "|---|---|---|---|---|---|"]
    for question, one in shares.items():
        share = f"{one.share:.0%}" if one.a + one.b else "–"
        lines.append(
            f"| {QUESTIONS[question]} | {one.a} | {one.b} | {one.same} | {share} | "
            f"{one.low:.0%} to {one.high:.0%} |"
        )
    return "\n".join(lines) + "\n"


def a_is_left(rater: str, pair: str) -> bool:
    """Which side A is on, always the same for a rater and a pair, and a coin toss over them."""
    return hashlib.sha256(f"{rater}\0{pair}".encode()).digest()[0] % 2 == 0


class Study:
    """Pairs, and a file to which votes are appended line by line, so that none is lost."""

    def __init__(self, pairs: Sequence[Pair], votes: Path):
        """Raises UserError where the file cannot be written or holds something else."""
        self.pairs, self.votes = list(pairs), Path(votes)
        self.key = secrets.token_urlsafe(16)  # of the page: other pages cannot vote
        self._lock = threading.Lock()
        if self.votes.exists() and self.votes.stat().st_size:
            tally(self.votes)
        else:
            try:
                self.votes.parent.mkdir(parents=True, exist_ok=True)
                self._append(COLUMNS)
            except OSError as error:
                raise fail(f"votes {str(votes)!r} cannot be written", error) from error

    def vote(self, rater: object, pair: object, answers: object) -> None:
        """One rater's answers to all questions on a pair, by what is on the left and right.

        Raises:
          UserError: not a vote.
        """
        if not isinstance(rater, str) or not RATER.fullmatch(rater):
            raise UserError("expected a name of up to 40 letters, digits, spaces, dots and dashes")
        if not isinstance(pair, int) or not 0 <= pair < len(self.pairs):
            raise UserError(f"no pair {pair!r}; expected a number below {len(self.pairs)}")
        sides = {"left", "right", "same"}
        if (
            not isinstance(answers, dict)
            or set(answers) != set(QUESTIONS)
            or not set(answers.values()) <= sides
        ):
            raise UserError(f"expected left, right or same for each of {', '.join(QUESTIONS)}")
        name = self.pairs[pair].name
        left = "a" if a_is_left(rater, name) else "b"
        right = "b" if left == "a" else "a"
        meant = {"left": left, "right": right, "same": "same"}
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with self._lock:
            for question in QUESTIONS:
                self._append((now, rater, name, question, meant[answers[question]], left))

    def _append(self, row: Sequence[str]) -> None:
        with self.votes.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(row)
            file.flush()
            os.fsync(file.fileno())

    def video(self, pair: int, rater: str, side: str) -> Path:
        """The file on a side; raises KeyError where there is none."""
        if not 0 <= pair < len(self.pairs) or side not in ("left", "right"):
            raise KeyError(side)
        one = self.pairs[pair]
        return one.a if (side == "left") == a_is_left(rater, one.name) else one.b


def server(study: Study, port: int = 0) -> ThreadingHTTPServer:
    """A server of the page on 127.0.0.1; port 0 takes a free one. It is not started.

    Raises:
      UserError: the port is taken.
    """
    handler = type("Handler", (_Handler,), {"study": study})
    try:
        return ThreadingHTTPServer((HOST, port), handler)
    except (OSError, OverflowError) as error:
        raise fail(f"port {port} cannot be had; choose another one", error) from error


class _Handler(BaseHTTPRequestHandler):
    study: Study
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if not self._is_ours():
            return
        url = urlsplit(self.path)
        if url.path == "/":
            settings = {
                "key": self.study.key,
                "pairs": len(self.study.pairs),
                "questions": QUESTIONS,
            }
            text = PAGE.replace("SETTINGS", json.dumps(settings).replace("<", "\\u003c"))
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", text.encode())
        elif url.path == "/results":
            text = to_markdown(tally(self.study.votes))
            self._send(HTTPStatus.OK, "text/plain; charset=utf-8", text.encode())
        elif match := re.fullmatch(r"/video/(\d{1,9})/(left|right)", url.path):
            rater = parse_qs(url.query).get("rater", [""])[0]
            try:
                self._file(self.study.video(int(match[1]), rater, match[2]))
            except KeyError:
                self._fail(HTTPStatus.NOT_FOUND, "no such video")
        else:
            self._fail(HTTPStatus.NOT_FOUND, "no such page")

    def do_POST(self) -> None:
        if not self._is_ours():
            return
        length = self.headers.get("Content-Length", "")
        if self.path != "/vote" or not length.isdecimal() or int(length) > MOST_BYTES:
            self.close_connection = True  # what was sent is not read
            return self._fail(HTTPStatus.BAD_REQUEST, "expected a vote")
        try:
            content = json.loads(self.rfile.read(int(length)))
            if not isinstance(content, dict) or content.get("key") != self.study.key:
                return self._fail(HTTPStatus.FORBIDDEN, "open the page anew and vote there")
            self.study.vote(content.get("rater"), content.get("pair"), content.get("answers"))
        except (ValueError, RecursionError):
            return self._fail(HTTPStatus.BAD_REQUEST, "expected a vote as JSON")
        except UserError as error:
            return self._fail(HTTPStatus.BAD_REQUEST, str(error))
        self._send(HTTPStatus.OK, "application/json", b"{}")

    def _is_ours(self) -> bool:
        """Whether the address asked for is this machine's: another name that was made to point
        here is a page elsewhere that wants to read along."""
        host = self.headers.get("Host", "").rsplit(":", 1)[0]
        if host in (HOST, "localhost"):
            return True
        self._fail(HTTPStatus.FORBIDDEN, "this page is for this machine alone")
        return False

    def _file(self, path: Path) -> None:
        """A video, or the part of it that a player asks for."""
        try:
            size = path.stat().st_size
            start, end = _range(self.headers.get("Range", ""), size)
            with path.open("rb") as file:
                whole = (start, end) == (0, size)
                status = HTTPStatus.OK if whole else HTTPStatus.PARTIAL_CONTENT
                self.send_response(status)
                kind = TYPES.get(path.suffix.lower(), "application/octet-stream")
                self.send_header("Content-Type", kind)
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("Cache-Control", "no-store")
                self.send_header("Content-Length", str(end - start))
                if not whole:
                    self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
                self.end_headers()
                file.seek(start)
                for block in _blocks(file, end - start):
                    self.wfile.write(block)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # players drop what they no longer need
        except OSError:
            self._fail(HTTPStatus.NOT_FOUND, "the video cannot be read")

    def _fail(self, status: HTTPStatus, text: str) -> None:
        self._send(status, "text/plain; charset=utf-8", text.encode())

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal says where the page is, and no more."""


def _range(asked: str, size: int) -> tuple[int, int]:
    """First byte and the one after the last; all where the question is none that we answer."""
    match = re.fullmatch(r"bytes=(\d{0,15})-(\d{0,15})", asked)
    if not match or match.groups() == ("", ""):
        return 0, size
    if not match[1]:
        start, end = max(size - int(match[2]), 0), size
    else:
        start, end = int(match[1]), min(int(match[2] or size) + 1, size)
    return (start, end) if start < end else (0, size)


def _blocks(file: Any, left: int) -> Iterator[bytes]:
    while left > 0 and (block := file.read(min(BLOCK, left))):
        left -= len(block)
        yield block


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a study of preference."""
    group = parser.add_argument_group("asking people which of two videos they prefer")
    group.add_argument("--a", metavar="DIR", help="videos of one model")
    group.add_argument("--b", metavar="DIR", help="videos of another, by the same names")
    group.add_argument("--votes", metavar="CSV", default="votes.csv", help="where votes go")
    group.add_argument("--port", type=int, default=8321, help="of the page; 0 for a free one")


def serve(a: Path, b: Path, votes: Path, port: int) -> None:
    """Serves the page until it is interrupted; raises UserError where it cannot."""
    study = Study(pairs_of(a, b), votes)
    with server(study, port) as running:
        where = f"http://{HOST}:{running.server_address[1]}/"
        print(f"{len(study.pairs)} pairs at {where}; results so far at {where}results; Ctrl-C ends")
        running.serve_forever()
