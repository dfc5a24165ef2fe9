"""The page of a study, served to this machine alone by Python's own server."""

import json
import re
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from memo_jax.errors import UserError
from memo_jax.io.paths import fail
from memo_jax.metrics.preference.page import PAGE
from memo_jax.metrics.preference.study import Study, rater_named
from memo_jax.metrics.preference.votes import QUESTIONS

HOST = "127.0.0.1"
MOST_BYTES = 4096  # of a vote
BLOCK = 2**18
TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".webm": "video/webm", ".mov": "video/quicktime"}


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
            settings = {"key": self.study.key, "questions": QUESTIONS}
            text = PAGE.replace("SETTINGS", json.dumps(settings).replace("<", "\\u003c"))
            self._send(HTTPStatus.OK, "text/html; charset=utf-8", text.encode())
        elif url.path == "/pairs":
            try:
                left = self.study.left_to_do(rater_named(_rater(url.query)))
            except UserError as error:
                return self._fail(HTTPStatus.BAD_REQUEST, str(error))
            self._send(HTTPStatus.OK, "application/json", json.dumps(left).encode())
        elif match := re.fullmatch(r"/video/(\d{1,9})/(left|right)", url.path):
            try:
                self._file(self.study.video(int(match[1]), _rater(url.query), match[2]))
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


def _rater(query: str) -> str:
    return parse_qs(query).get("rater", [""])[0]


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
