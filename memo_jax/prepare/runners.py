"""Beam's runners: their names, their options, and what is wrong with them in one line."""

import contextlib
import importlib.util
import io
import logging
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from memo_jax.errors import UserError, one_line

RUNNERS = {
    "direct": "FnApiRunner",  # Beam's "DirectRunner" may hand over to a server it downloads
    "dataflow": "DataflowRunner",
    "flink": "FlinkRunner",
    "spark": "SparkRunner",
}
"""Beam's name of each runner."""

NEEDS = {
    "dataflow": "Dataflow needs pip install 'apache-beam[gcp]', and --project, --region and "
    "--temp_location",
    "flink": "Flink's job server needs Java, and is downloaded once unless --flink_job_server_jar "
    "names it",
    "spark": "Spark's job server needs Java, and is downloaded once unless --spark_job_server_jar "
    "names it",
}
"""What must be there besides Beam itself."""


def beam() -> Any:
    """The library; raises UserError where it is not installed."""
    try:
        with quietly():  # it warns of clouds that nobody asked for
            import apache_beam
    except ImportError as error:
        raise UserError(
            "preparing needs Apache Beam, which is not installed: pip install memo_jax[prepare]"
        ) from error
    return apache_beam


def options(runner: str, given: Sequence[str] = (), workers: int = 1) -> Any:
    """Beam's options.

    Args:
      runner: one of RUNNERS, or Beam's own name of another.
      given: Beam's, as on its command lines; they win over what is set here.
      workers: processes of the local runner.

    Returns:
      PipelineOptions. Other runners than the local one are handed what Beam does not know, since
      it may be their own.

    Raises:
      UserError: Beam is not installed, an option has a value that it cannot have, or the local
        runner is given one that Beam does not know.
    """
    beam()
    from apache_beam.options.pipeline_options import PipelineOptions

    flags = [f"--runner={RUNNERS.get(runner, runner)}"]
    if runner == "direct":
        mode = "multi_processing" if workers > 1 else "in_memory"
        flags += [f"--direct_running_mode={mode}", f"--direct_num_workers={workers}"]
    complaint = io.StringIO()
    try:
        with quietly(), contextlib.redirect_stderr(complaint):
            made = PipelineOptions([*flags, *given])
            known = set(made.get_all_options())
            more = set(made.get_all_options(retain_unknown_options=True))
    except SystemExit as error:  # argparse's, after its usage
        text = complaint.getvalue().rpartition("error: ")[2]
        raise UserError(f"Beam refuses an option: {one_line(text)}") from error
    if runner == "direct" and (wrong := _unknown(given, more - known)):
        raise UserError(
            f"no option {wrong!r}, neither here nor of Beam's local runner; see "
            "memo_jax.prepare --help"
        )
    return made


@contextmanager
def told(runner: str) -> Iterator[None]:
    """Within it, what a runner finds wrong is a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # each runner, and each library below it, has its own
        text = f"--runner {runner} fails: {type(error).__name__}: {one_line(error)}"
        raise UserError("; ".join([text, *filter(None, [_missing(runner, error)])])) from error


def _unknown(given: Sequence[str], names: set[str]) -> str:
    """The first word that is no option's: none at all, of one dash, or one of these names."""
    for i, word in enumerate(given):
        flag = word.partition("=")[0]
        if (i == 0 and not word.startswith("-")) or re.match("-[A-Za-z]", word):
            return flag
        if word.startswith("--") and flag[2:].replace("-", "_") in names:
            return flag
    return ""


def _missing(runner: str, error: Exception) -> str:
    """What to do about it, if something that the runner needs is not here."""
    known = {name.lower(): short for short, name in RUNNERS.items()}
    short = known.get(runner.lower(), runner.lower())
    absent = isinstance(error, ImportError | FileNotFoundError) or (
        not shutil.which("java") if short in ("flink", "spark") else not _has_google()
    )
    return NEEDS.get(short, "") if absent else ""


def _has_google() -> bool:
    try:
        return importlib.util.find_spec("google.cloud.dataflow") is not None
    except ImportError:  # of google.cloud itself
        return False


@contextmanager
def quietly() -> Iterator[None]:
    """Without the warnings that libraries log."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
