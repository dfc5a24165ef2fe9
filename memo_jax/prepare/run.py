"""Over folders: one Beam element for each video, whatever the runner."""

import contextlib
import glob
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from memo_jax.errors import UserError, one_line
from memo_jax.prepare import corpora, runners
from memo_jax.prepare.folder import Folder, video_key
from memo_jax.prepare.reasons import Rejected
from memo_jax.prepare.settings import Settings, tools
from memo_jax.prepare.video import Times, clips

SUFFIXES = frozenset(".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .mts .flv .wmv".split())
"""Of the files that are taken where a folder is given."""

POLL = 2.0  # seconds between looks at what is done


@dataclass(frozen=True)
class Input:
    """A video to prepare: where it is, what records call it, and what it is known by."""

    path: str
    name: str
    key: str


def inputs(patterns: Sequence[str], corpus: str) -> tuple[list[Input], int]:
    """The videos that patterns or folders name, in the order of their names, and how many files
    the corpus's layout does not know.

    Names are relative to the part of the pattern before its first wildcard.

    Raises:
      UserError: a pattern that matches nothing.
    """
    found: dict[str, Input] = {}
    passed = 0
    for pattern in patterns:
        root, paths = _matched(pattern)
        if not paths:
            raise UserError(f"--input {pattern!r} matches no file; check it, or quote the pattern")
        for path in paths:
            try:
                corpora.facts(corpus, Path(path))
            except corpora.NotOfCorpus:
                passed += 1
                continue
            name = path[len(root) :].lstrip("/") if path.startswith(root) else path
            if name in found and found[name].path != path:
                raise UserError(f"two inputs are called {name!r}; give one pattern for both")
            key = video_key(path if _remote(path) else name, Path(path))
            found[name] = Input(path, name, key)
    if not found:
        raise UserError(f"none of {passed} files is one of {corpus}'s; see docs/preparing.md")
    return [found[name] for name in sorted(found)], passed


@dataclass(frozen=True)
class Prepare:
    """What a worker does with a video; calling it again does no harm.

    Attributes:
      folder: of the run, seen by all workers.
      settings: of the run.
    """

    folder: str
    settings: Settings

    def __call__(self, item: Input) -> Rejected | None:
        """None when the video is done, or what went wrong with the program."""
        folder = Folder(self.folder)
        if folder.is_done(item.key):
            return None
        try:
            with _local(item.path) as path:
                facts = corpora.facts(self.settings.corpus, Path(item.path))
                times = Times()
                made = clips(path, item.name, facts, self.settings, tools(self.settings), times)
                folder.finish(item.key, item.name, made, times)
        except Exception as error:  # one video in a hundred thousand must not end the run
            text = f"{type(error).__name__}: {one_line(error)}"
            return Rejected(item.name, 0.0, 0.0, "failed", text)
        return None


def run(
    videos: Sequence[Input],
    folder: Folder,
    settings: Settings,
    runner: str = "direct",
    options: Sequence[str] = (),
    workers: int = 1,
    quiet: bool = False,
) -> list[Rejected]:
    """Prepare all videos that are not done yet; returns those that the program failed at.

    Args:
      videos: all of the input.
      folder: of the run, prepared.
      settings: of the run.
      runner: one of `runners.RUNNERS`, or Beam's own name of another.
      options: Beam's, as on its command lines.
      workers: processes of the local runner.
      quiet: no progress bar.

    Raises:
      UserError: Beam is not installed, or the runner or its options do not work.
    """
    missing = [video for video in videos if not folder.is_done(video.key)]
    if not missing:
        return []
    work = Prepare(str(folder.path), settings)
    beam = runners.beam()
    chosen = runners.options(runner, options, workers)
    failures = Path(tempfile.mkdtemp(dir=folder.path / ".prepare", prefix="failed-"))
    try:
        with _progress(folder, missing, quiet):
            with runners.told(runner):
                pipeline = beam.Pipeline(options=chosen)
            done = (
                pipeline
                | "videos" >> beam.Create(missing)
                | "spread" >> beam.Reshuffle()
                | "prepare" >> beam.Map(work)
                | "failed" >> beam.Filter(bool)
                | "lines" >> beam.Map(_line)
            )
            done | "write" >> beam.io.WriteToText(str(failures / "failed"))
            with runners.told(runner) if runner != "direct" else contextlib.nullcontext():
                pipeline.run().wait_until_finish()
        lines = [
            line for path in sorted(failures.iterdir()) for line in path.read_text().splitlines()
        ]
        return [_unlined(line) for line in lines]
    finally:
        shutil.rmtree(failures, ignore_errors=True)


def _line(reject: Rejected) -> str:
    return f"{reject.video}\t{reject.text}"


def _unlined(line: str) -> Rejected:
    video, _, text = line.partition("\t")
    return Rejected(video, 0.0, 0.0, "failed", text)


def _matched(pattern: str) -> tuple[str, list[str]]:
    """The part before the wildcards, and the files, of a pattern, a folder or a file."""
    root = os.path.dirname(glob.escape(pattern).split("[")[0]) if glob.has_magic(pattern) else ""
    if _remote(pattern):
        return root, _remote_files(pattern)
    path = Path(pattern)
    if path.is_dir():
        files = [p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()]
        return str(path), sorted(map(str, files))
    if not glob.has_magic(pattern):
        return str(path.parent), [pattern] if path.exists() else []
    found = (p for p in glob.glob(pattern, recursive=True) if os.path.isfile(p))
    return root, sorted(found)


def _remote(path: str) -> bool:
    return "://" in path


def _remote_files(pattern: str) -> list[str]:
    """Files of a bucket, by Beam's file systems."""
    try:
        from apache_beam.io.filesystems import FileSystems

        (match,) = FileSystems.match([pattern])
        return sorted(found.path for found in match.metadata_list)
    except Exception as error:  # a file system's own, or none for the scheme
        raise UserError(
            f"{pattern!r} cannot be listed: {one_line(error)}; buckets need apache-beam[gcp] or "
            "[aws], or mount the bucket"
        ) from error


@contextmanager
def _local(path: str) -> Iterator[Path]:
    """The file itself, or a bucket's for the time of the block."""
    if not _remote(path):
        yield Path(path)
        return
    from apache_beam.io.filesystems import FileSystems

    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "video" + Path(path).suffix)
        with FileSystems.open(path) as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        yield copy


@contextmanager
def _progress(folder: Folder, missing: Sequence[Input], quiet: bool) -> Iterator[None]:
    """A bar that follows what is done, whoever does it."""
    stop = threading.Event()
    keys = [video.key for video in missing]

    def follow() -> None:
        with tqdm(total=len(keys), unit="video") as bar:
            while True:
                ended = stop.wait(POLL)
                if more := folder.count(keys) - bar.n:
                    bar.update(more)
                if ended:
                    return

    thread = threading.Thread(target=follow, daemon=True)
    if not quiet:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if thread.is_alive():
            thread.join()
