"""What the commands share: one-line errors, exit codes, experiment configs, a compilation cache,
and memory that stays level.
"""

import argparse
import contextlib
import ctypes
import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import jax
import ml_collections

from memo_jax.errors import UserError, one_line
from memo_jax.weights.cache import cache_folder
from memo_jax.weights.rules import ConversionError

USAGE = 2
INTERRUPTED = 130
UNREAD = 141  # as if by SIGPIPE

M_ARENA_MAX = -8  # from glibc's malloc.h


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line: what was wrong and where to look."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {one_line(message)}; see {self.prog} --help\n")


def run(name: str, main: Callable[[Sequence[str]], None]) -> NoReturn:
    """Run a command and exit: 0 on success, 2 with one line for the user's own mistake.

    Ctrl-C and SIGTERM end it by an exception, so that unfinished files are removed.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        main(sys.argv[1:])
    except UserError as error:
        text = error.summary if isinstance(error, ConversionError) else str(error)
        print(f"{name}: {one_line(text)}", file=sys.stderr)
        sys.exit(USAGE)
    except BrokenPipeError:  # who reads the output, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing to flush into
        sys.exit(UNREAD)
    except KeyboardInterrupt:
        print(f"{name}: interrupted; nothing was left behind", file=sys.stderr)
        sys.exit(INTERRUPTED)
    sys.exit(0)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a second one must not stop the removing
    sys.exit(128 + number)


def read_config(source: str) -> ml_collections.ConfigDict:
    """The config of `file.py` or `file.py:argument`: what its `get_config(argument)` returns.

    Raises:
      UserError: there is no such file, or it is no config.
    """
    file, _, argument = source.partition(":")
    path = Path(file)
    if not os.path.isfile(path) or path.suffix != ".py":  # Path.is_file raises at long names
        raise UserError(f"config {file!r} does not exist or is no .py file; expected a path")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # .py files always have a loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(argument)
    except AttributeError as error:
        raise UserError(f"config {file!r} has no get_config(argument): {error}") from error
    except Exception as error:  # whatever the user's file does wrong is theirs to read
        raise UserError(f"config {file!r} fails: {type(error).__name__}: {error}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(f"config {file!r}: get_config must return a ConfigDict, got {config!r}")
    return config


def with_config(
    parser: argparse.ArgumentParser, arguments: Sequence[str], field: str = "config"
) -> Any:
    """Parsed arguments, those not given filled from the config that `--config` names.

    Raises:
      UserError: the config has a field that is no option.
      SystemExit: 2, after one line, where an option cannot have its value.
    """
    args = parser.parse_args(arguments)
    source = getattr(args, field)
    if source is None:
        return args
    config = read_config(source).to_dict()
    unknown = sorted(set(config) - set(vars(args)) | {field} & set(config))
    if unknown:
        raise UserError(f"config {source!r} sets {', '.join(unknown)}, which is no option")
    # As if typed before the rest, so that argparse checks them, and what is typed wins.
    return parser.parse_args([*_typed(config), *arguments])


def _typed(config: dict[str, Any]) -> list[str]:
    """A config's fields as command line options; None and False are options left out."""
    flags = {name: f"--{name.replace('_', '-')}" for name in config}
    return [
        flags[name] if value is True else f"{flags[name]}={value}"
        for name, value in config.items()
        if value is not None and value is not False
    ]


def keep_compilations() -> None:
    """Keep compiled programs in the user's cache, so that a second run starts at once.

    MEMO_JAX_CACHE and JAX_COMPILATION_CACHE_DIR name other folders; an unwritable one is said and
    done without.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    cache = cache_folder() / "compilations"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"no compilation cache: {one_line(error)}", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(cache))


def share_one_arena() -> bool:
    """Have all threads take memory from one place, so that a long video's stays level.

    By itself glibc gives each thread an arena of its own. In which thread XLA takes its working
    memory is chance, so resident memory rises by that much whenever one more arena has held it.

    Returns:
      whether it does; not where the user's environment has a limit of its own, nor without glibc.
    """
    told = "MALLOC_ARENA_MAX" in os.environ or "arena_max" in os.environ.get("GLIBC_TUNABLES", "")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return not told and mallopt is not None and mallopt(M_ARENA_MAX, 1) == 1


class Stop:
    """Whether the user, or the machine that is to be taken away, has asked to stop."""

    asked: int = 0


@contextlib.contextmanager
def stopping(message: str) -> Iterator[Stop]:
    """Within the block the first SIGINT or SIGTERM only sets `asked` to its number and prints the
    message; a second one interrupts at once."""
    stop = Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = number
        print(f"\n{message}", file=sys.stderr)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
