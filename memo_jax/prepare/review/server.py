"""Serves the page, the sampled clips as video, and takes decisions; to this machine alone."""

import json
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from memo_jax.data.record import decode
from memo_jax.data.store import Store
from memo_jax.errors import UserError
from memo_jax.prepare.inspect.render import write_clip
from memo_jax.prepare.listing import name_of
from memo_jax.prepare.review.filter import DROP, KEEP, read_review, write_review
from memo_jax.prepare.review.page import PAGE

HOST = "127.0.0.1"
LONGEST = 10_000  # bytes of a decision


class Review:
    """A sample of a data set and what was decided.

    Attributes:
      clips: what the page shows: number, name, scores and decision of each.
    """

    def __init__(self, store: Store, csv: Path, sample: int, seed: int):
        """Draws the sample; decisions that the file holds already are kept and shown.

        Raises:
          UserError: a file that is no list of decisions.
        """
        self._store, self._csv, self._lock = store, csv, Lock()
        self._decisions = read_review(csv) if csv.exists() else {}
        rng = np.random.default_rng(seed)
        numbers = sorted(rng.permutation(len(store))[:sample].tolist())
        self.clips: list[dict[str, Any]] = []
        for number in numbers:
            clip = decode(store[number])
            name = name_of(clip)
            said = self._decisions.get(name, "")
            about = {"number": number, "name": name, "scores": dict(clip.scores)}
            self.clips.append(about | {"decision": said})

    def decide(self, clip: str, decision: str) -> None:
        """Note a decision and write the file; raises KeyError for a clip that is not shown."""
        if decision not in (KEEP, DROP):
            raise KeyError(decision)
        with self._lock:
            shown = next((about for about in self.clips if about["name"] == clip), None)
            if shown is None:
                raise KeyError(clip)
            shown["decision"] = self._decisions[clip] = decision
            write_review(self._csv, self._decisions)

    def video(self, number: int) -> bytes:
        """A clip of the sample as mp4; raises KeyError for another one."""
        if number not in {about["number"] for about in self.clips}:
            raise KeyError(number)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "clip.mp4")
            write_clip(decode(self._store[number]), path)
            return path.read_bytes()


def server(review: Review, port: int) -> ThreadingHTTPServer:
    """A server of this machine alone, not yet serving; port 0 takes a free one.

    Raises:
      UserError: the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        """Answers the page's requests."""

        def do_GET(self) -> None:
            """The page, the list of clips, or a clip."""
            path = urlsplit(self.path).path
            if not self._local():
                self._answer(403, b"this machine alone", "text/plain")
            elif path == "/":
                self._answer(200, PAGE.encode(), "text/html; charset=utf-8")
            elif path == "/clips":
                self._answer(200, json.dumps(review.clips).encode(), "application/json")
            elif path.startswith("/clip/") and path.removesuffix(".mp4")[6:].isdecimal():
                try:
                    data = review.video(int(path.removesuffix(".mp4")[6:]))
                    self._answer(200, data, "video/mp4")
                except KeyError:
                    self._answer(404, b"no such clip", "text/plain")
            else:
                self._answer(404, b"nothing here", "text/plain")

        def do_POST(self) -> None:
            """A decision."""
            length = int(self.headers.get("Content-Length") or 0)
            kind = self.headers.get("Content-Type", "")
            # A page elsewhere can send forms here, but not JSON.
            if not self._local() or kind != "application/json" or not 0 < length <= LONGEST:
                self._answer(403, b"not from the page", "text/plain")
                return
            try:
                said = json.loads(self.rfile.read(length))
                review.decide(said["clip"], said["decision"])
            except (ValueError, KeyError, TypeError):
                self._answer(400, b"no decision", "text/plain")
                return
            self._answer(200, b"{}", "application/json")

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the page says what matters."""

        def _local(self) -> bool:
            """Whether the request was meant for this machine: names may point here by design."""
            return urlsplit(f"//{self.headers.get('Host', '')}").hostname in (HOST, "localhost")

        def _answer(self, status: int, data: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise UserError(f"port {port} cannot be had ({error.strerror}); give --port") from error
