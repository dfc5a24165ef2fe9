"""Many videos from one file of jobs: one JSON object a line, whose keys are options."""

import argparse
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

import jax

from memo_jax.errors import UserError, one_line

Job = TypeVar("Job")
Loaded = TypeVar("Loaded")
Made = TypeVar("Made")

POLL = 0.2  # seconds between looks for results

OPTIONS: dict[str, tuple[type, ...]] = {
    "image": (str,),
    "audio": (str,),
    "output": (str,),
    "seed": (int,),
    "emotion": (str, type(None)),
    "crop": (str,),
    "face": (str,),
    "paste_back": (bool,),
    "vocals": (str,),
    "crf": (int,),
}
"""What a job may say for itself, with the types it is said in; `output` it must say."""


def read_jobs(path: str, defaults: argparse.Namespace) -> list[argparse.Namespace]:
    """The jobs of a file, each with the command's own options for what it leaves unsaid.

    Empty lines mean nothing.

    Raises:
      UserError: the file cannot be read, or a line is no job; it names the line.
    """
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--batch {path!r} cannot be read: {one_line(error)}") from error
    jobs: list[argparse.Namespace] = []
    outputs: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        fields = _fields(line, f"--batch {path!r}, line {number}")
        output = os.path.realpath(fields["output"])
        if output in outputs:
            raise UserError(
                f"--batch {path!r}: lines {outputs[output]} and {number} both write "
                f"{fields['output']!r}; give each its own output"
            )
        outputs[output] = number
        jobs.append(argparse.Namespace(**{**vars(defaults), **fields}))
    if not jobs:
        raise UserError(
            f'--batch {path!r} has no jobs; expected lines such as {{"image": "a.png", '
            '"audio": "a.wav", "output": "a.mp4"}'
        )
    return jobs


def _fields(line: str, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where} is no JSON: {one_line(error)}") from error
    if not isinstance(fields, dict):
        raise UserError(f"{where} is no JSON object; expected options in braces")
    for name, value in fields.items():
        if name not in OPTIONS:
            raise UserError(f"{where}: no option {name!r} of a job; expected {', '.join(OPTIONS)}")
        right = OPTIONS[name]
        if not isinstance(value, right) or (isinstance(value, bool) and bool not in right):
            raise UserError(f"{where}: {name} is {value!r}, expected {right[0].__name__}")
    if "output" not in fields:
        raise UserError(f"{where} does not say its output; expected the video to write")
    return fields


class Stopped(Exception):
    """Raised in a job when the whole batch is stopped."""


def on_devices(
    jobs: Iterable[Job],
    load: Callable[[], Loaded],
    make: Callable[[Loaded, Job, Callable[[], None]], Made],
    devices: Sequence[jax.Device],
) -> Iterator[tuple[Job, Made | UserError]]:
    """Every job with what it gave, or why it failed, as they end.

    Each device has a worker with what `load` gave there, which takes the next job when it is
    free. `make` calls its last argument now and then, which raises `Stopped` where the others were
    stopped: by an exception that is no UserError, or because nobody asks for more results.
    """
    stop, waiting, lock = threading.Event(), iter(jobs), threading.Lock()
    results: deque[tuple[Job, Made | UserError]] = deque()

    def check() -> None:
        if stop.is_set():
            raise Stopped

    def work(device: jax.Device) -> None:
        with jax.default_device(device):
            loaded = load()
            while True:
                check()
                with lock:
                    job = next(waiting, None)
                if job is None:
                    return
                try:
                    results.append((job, make(loaded, job, check)))
                except UserError as error:
                    results.append((job, error))

    with ThreadPoolExecutor(len(devices)) as pool:
        try:
            working = {pool.submit(work, device) for device in devices}
            while working or results:
                while results:
                    yield results.popleft()
                done, working = wait(working, timeout=POLL, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
        finally:
            stop.set()
