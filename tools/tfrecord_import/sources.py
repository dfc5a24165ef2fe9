"""Where records come from: files read here, or through the environment of tensorflow-io."""

import contextlib
import glob
import importlib
import itertools
import os
import subprocess
from collections.abc import Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from memo_jax.errors import UserError, one_line
from tools.tfrecord_import.environment import bridge_command, clean_environment, is_made
from tools.tfrecord_import.example import parse_example
from tools.tfrecord_import.framing import NoTFRecord, records
from tools.tfrecord_import.wire import Feature, receive, send

ENVIRONMENT = "python -m tools.tfrecord_import.environment DIR"


class Input(NamedTuple):
    """A file: its name, its bytes, and when it was written (s)."""

    path: str
    size: int
    written: int


class Entry(NamedTuple):
    """A record's features, or why it has none.

    `number` is its place in the file, `position` how many of the file's bytes are read, `code`,
    `text` and `lost` are as in `framing.Record`.
    """

    number: int
    position: int
    features: dict[str, Feature] | None
    code: str = ""
    text: str = ""
    lost: int = 0


Entries = Generator[Entry, None, None]


class Source(Protocol):
    """Whatever lists files and reads them."""

    def inputs(self, patterns: Sequence[str]) -> list[Input]:
        """The files of patterns, in the order of their names.

        Raises:
          UserError: a pattern without any, or files that cannot be asked for.
        """

    def read(self, file: Input, skip: int = 0, count: int | None = None) -> Entries:
        """A file's records from number `skip` on, all or `count` of them.

        Raises:
          UserError: the file cannot be read, or is no TFRecord file.
        """

    def close(self) -> None:
        """End what was started."""


class Files:
    """Files of this machine, without TensorFlow."""

    def __init__(self) -> None:
        """Raises UserError where what checks the checksums is not installed."""
        try:
            importlib.import_module("google_crc32c")
        except ImportError as error:
            raise UserError(
                "TFRecords' checksums need google-crc32c; pip install 'memo_jax[tfrecord]'"
            ) from error

    def inputs(self, patterns: Sequence[str]) -> list[Input]:
        """As `Source` says."""
        names: set[str] = set()
        for pattern in patterns:
            if "://" in pattern:
                raise UserError(
                    f"--input {pattern!r} is no local file; give --tensorflow DIR, which "
                    f"`{ENVIRONMENT}` makes"
                )
            matches = glob.glob(pattern, recursive=True)
            names |= _some([os.path.abspath(n) for n in matches if os.path.isfile(n)], pattern)
        stats = {name: os.stat(name) for name in sorted(names)}
        return [Input(name, stat.st_size, int(stat.st_mtime)) for name, stat in stats.items()]

    def read(self, file: Input, skip: int = 0, count: int | None = None) -> Entries:
        """As `Source` says."""
        try:
            with open(file.path, "rb", buffering=0) as stream:
                for record in itertools.islice(records(stream, file.size, skip), count):
                    place = record.number, record.position
                    if record.data is None:
                        yield Entry(*place, None, record.code, record.text, record.lost)
                        continue
                    try:
                        yield Entry(*place, parse_example(record.data))
                    except ValueError as error:
                        yield Entry(*place, None, "example", str(error), 1)
        except NoTFRecord as error:
            raise UserError(_none(file.path, error)) from error
        except OSError as error:
            raise UserError(f"{file.path} cannot be read ({error.strerror or error})") from error

    def close(self) -> None:
        """There is nothing to end."""


class Bridge:
    """Files of any file system, and sound, that tensorflow-io reads, in its own environment."""

    def __init__(self, environment: Path, audio: str | None = None) -> None:
        """Starts nothing before the first question.

        Args:
          environment: the folder that `environment.make` made.
          audio: the feature whose sound tensorflow-io is to decode.

        Raises:
          UserError: the folder is no such environment.
        """
        if not is_made(environment):
            raise UserError(
                f"--tensorflow {str(environment)!r} is no environment of this version; make one "
                f"by `{ENVIRONMENT}`"
            )
        self._environment, self._audio = environment, audio
        self._process: subprocess.Popen[bytes] | None = None

    def inputs(self, patterns: Sequence[str]) -> list[Input]:
        """As `Source` says."""
        found: dict[str, Input] = {}
        for pattern in patterns:
            pattern = pattern if "://" in pattern else os.path.abspath(pattern)
            header, _ = self._ask({"op": "list", "pattern": pattern}, pattern)
            found |= {name: Input(name, size, written) for name, size, written in header["files"]}
            _some([row[0] for row in header["files"]], pattern)
        return [found[name] for name in sorted(found)]

    def read(self, file: Input, skip: int = 0, count: int | None = None) -> Entries:
        """As `Source` says."""
        request = {"op": "read", "path": file.path, "size": file.size, "skip": skip}
        request |= {"count": count, "audio": self._audio}
        header, features = self._ask(request, file.path)
        whole = False
        try:
            while "end" not in header:
                code = header.get("code", "")
                damage = (code, header.get("text", ""), header.get("lost", 0))
                place = header["number"], header["position"]
                yield Entry(*place, None if code else features, *damage)
                header, features = self._answer(file.path)
            whole = True
        finally:
            if not whole:  # what it still wants to say is not wanted any more
                self.close()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, request: dict[str, Any], what: str) -> tuple[dict[str, Any], dict[str, Feature]]:
        if self._process is None:
            self._process = subprocess.Popen(
                bridge_command(self._environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=clean_environment(),
                start_new_session=True,  # Ctrl-C is for the importer alone
            )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # why it ended, the answer will say
            send(self._process.stdin, request)
        return self._answer(what)

    def _answer(self, what: str) -> tuple[dict[str, Any], dict[str, Feature]]:
        assert self._process is not None and self._process.stdout is not None
        message = receive(self._process.stdout)
        if message is None:
            status = self._process.wait()
            self.close()
            raise UserError(
                f"{what}: the environment of tensorflow-io ended with status {status}; see the "
                "lines above, or make it anew"
            )
        if "error" in message[0]:
            text = one_line(message[0]["error"])[:300]
            raise UserError(f"{what}: TensorFlow cannot read it ({text})")
        if "no_tfrecord" in message[0]:
            raise UserError(_none(what, message[0]["no_tfrecord"]))
        return message


def _some(names: list[str], pattern: str) -> set[str]:
    if not names:
        raise UserError(f"--input {pattern!r} matches no file; quote it, and check the path")
    return set(names)


def _none(path: str, why: object) -> str:
    return f"{path} is no TFRecord file ({why}); leave it out of --input"
