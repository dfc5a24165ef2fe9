"""Stopping, killing and going on: what is done stays, and the end is the same."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
from signalled import heeds_ctrl_c
from tfrecord import writing
from tfrecord.writing import ROOT

from memo_jax.data.clip import BFLOAT16, Clip
from memo_jax.data.record import decode, encode
from memo_jax.data.store import Store
from memo_jax.errors import UserError
from tools.tfrecord_import.importing import import_set
from tools.tfrecord_import.reasons import Unusable
from tools.tfrecord_import.sources import Files

COUNTS = (7, 5, 0, 4)


def record(found, where):
    """A clip whose source says which record it is of."""
    number = found["n"].values[0]
    if number < 0:
        raise Unusable("video", "it is none")
    clip = Clip(
        images=(writing.png(writing.picture(0, 0)),) * 2,
        size=writing.SIZE,
        fps=25.0,
        audio=np.full((2, 1, 1), number, BFLOAT16),
        emotion=np.zeros(2, np.int8),
        emotions=("neutral",),
        face=np.zeros(3, np.float32),
        identity=where,
    )
    return encode(clip)


@pytest.fixture
def files(tmp_path):
    """Files of 7, 5, 0 and 4 records, numbered through."""
    numbers = iter(range(100))
    for i, count in enumerate(COUNTS):
        examples = [writing.example({"n": n}) for n in itertools.islice(numbers, count)]
        writing.write(tmp_path / "in" / f"{i}.tfrecord", examples, ["", "GZIP"][i % 2])
    return tmp_path / "in"


def run(files, output, convert=record, plan="a", shard_size=3, **options):
    source = Files()
    inputs = source.inputs([str(files / "*")])
    return import_set(
        output, source, inputs, convert, {"map": plan}, shard_size=shard_size, quiet=True,
        **options,
    )  # fmt: skip


def content(folder):
    store = Store(folder)
    return [store[i] for i in range(len(store))]


def numbers(folder):
    return [int(decode(data).audio[0, 0, 0]) for data in content(folder)]


def left(folder):
    """Files that are no part of a finished import."""
    index = json.loads((folder / "dataset.json").read_text())
    named = {shard["file"] for shard in index["shards"]} | {"dataset.json", ".import"}
    return {path.name for path in folder.iterdir()} - named


def test_all_records_in_the_order_of_files(files, tmp_path):
    run(files, tmp_path / "out")
    assert numbers(tmp_path / "out") == list(range(16))
    assert len(Store(tmp_path / "out")) == 16
    assert left(tmp_path / "out") == set()


@pytest.mark.parametrize("at", range(16))
def test_stopped_at_any_record_the_next_run_does_only_what_is_missing(at, files, tmp_path):
    run(files, tmp_path / "whole")
    converted = []

    def failing(found, where):
        if found["n"].values[0] == at:
            raise KeyboardInterrupt
        return record(found, where)

    def counted(found, where):
        converted.append(int(found["n"].values[0]))
        return record(found, where)

    with pytest.raises(KeyboardInterrupt):
        run(files, tmp_path / "out", failing, threads=1)
    assert not list((tmp_path / "out").glob(".*.*"))
    assert not (tmp_path / "out" / "dataset.json").exists()
    run(files, tmp_path / "out", counted)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    in_file = next(i for i, end in enumerate(itertools.accumulate(COUNTS)) if at < end)
    first = sum(COUNTS[:in_file])
    assert sorted(converted) == list(range(first + (at - first) // 3 * 3, 16))
    converted.clear()
    run(files, tmp_path / "out", counted)
    assert converted == []


KILLED = """
import sys, time
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
from tfrecord import test_restart
def convert(found, where):
    if found["n"].values[0] == {at}:
        print("here", flush=True)
        while not Path({go!r}).exists():
            time.sleep(0.01)
    return test_restart.record(found, where)
def main(arguments):
    test_restart.run(Path({files!r}), Path({output!r}), convert, threads=1)
from memo_jax.command import run
run("tfrecord_import", main)
"""


def started(files, tmp_path, at):
    """A process that waits at record `at` until the file `go` is there."""
    code = KILLED.format(
        root=str(ROOT), tests=str(ROOT / "tests"), at=at, go=str(tmp_path / "go"),
        files=str(files), output=str(tmp_path / "out"),
    )  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heeds_ctrl_c,
    )
    assert process.stdout.readline() == "here\n"
    return process


def test_killed_within_a_part_nothing_is_lost_and_nothing_twice(files, tmp_path):
    run(files, tmp_path / "whole")
    process = started(files, tmp_path, 4)
    with pytest.raises(UserError, match="another import writes"):
        run(files, tmp_path / "out")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    # As if it had been killed later still: a shard that is there and not noted yet.
    (tmp_path / "out" / "clips-0000000000000000-00009.array_record").write_bytes(b"x")
    (tmp_path / "out" / ".dataset.json.1").write_text("{")
    run(files, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert left(tmp_path / "out") == set()


def test_ctrl_c_ends_it_and_leaves_no_unfinished_file(files, tmp_path):
    process = started(files, tmp_path, 4)
    process.send_signal(signal.SIGINT)
    (tmp_path / "go").touch()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert not list((tmp_path / "out").glob(".*.*"))
    assert len(list((tmp_path / "out").glob("clips-*"))) == 1


def test_new_files_are_added_and_changed_ones_refused(files, tmp_path):
    run(files, tmp_path / "out")
    writing.write(files / "9.tfrecord", [writing.example({"n": 50})])
    run(files, tmp_path / "out")
    assert numbers(tmp_path / "out") == [*range(16), 50]
    writing.write(files / "9.tfrecord", [writing.example({"n": 51}), writing.example({"n": 52})])
    with pytest.raises(UserError, match="has changed since"):
        run(files, tmp_path / "out")
    (files / "9.tfrecord").unlink()
    with pytest.raises(UserError, match="does not match"):
        run(files, tmp_path / "out")


def test_another_map_is_refused_unless_nothing_was_made_by_the_first(files, tmp_path):
    run(files, tmp_path / "out")
    with pytest.raises(UserError, match="another map"):
        run(files, tmp_path / "out", plan="b")

    def wrong(found, where):
        raise Unusable("feature", "there is none")

    with pytest.raises(UserError, match="12 of 12 records make no clip"):
        run(files, tmp_path / "second", wrong)
    run(files, tmp_path / "second", plan="b")
    assert numbers(tmp_path / "second") == list(range(16))


def test_a_folder_of_something_else_is_refused(files, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        run(files, tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").exists()


def many(folder, count, bad):
    """A file of many records, the first `bad` of which make no clip."""
    examples = [writing.example({"n": -1 if n < bad else n}) for n in range(count)]
    writing.write(folder / "0.tfrecord", examples)
    return folder


def test_up_to_one_in_a_hundred_may_be_bad_and_each_is_named(tmp_path):
    tally = run(many(tmp_path / "in", 200, 2), tmp_path / "out")
    assert str(tally).startswith("2 of 200 records make no clip: 2 video (a video that cannot be")
    path = str(tmp_path / "in" / "0.tfrecord")
    lines = (tmp_path / "out" / "unused.txt").read_text().splitlines()
    assert lines == [f"{path}[0]\tvideo: it is none", f"{path}[1]\tvideo: it is none"]
    assert numbers(tmp_path / "out") == list(range(2, 200))


def test_more_bad_ones_stop_it_early(tmp_path):
    many(tmp_path / "in", 1000, 11)
    converted = itertools.count()
    lock = threading.Lock()

    def counted(found, where):
        with lock:
            next(converted)
        return record(found, where)

    with pytest.raises(UserError, match=r"11 of 40 records make no clip.*0.tfrecord\[0\]"):
        run(tmp_path / "in", tmp_path / "out", counted, shard_size=40)
    assert next(converted) < 100
    assert not (tmp_path / "out" / "dataset.json").exists()
    run(tmp_path / "in", tmp_path / "out", bad_share=0.02, shard_size=40)
    assert len(Store(tmp_path / "out")) == 989


def test_damage_is_counted_and_named(tmp_path):
    folder = many(tmp_path / "in", 30, 0)
    whole = (folder / "0.tfrecord").read_bytes()
    damaged = bytearray(whole)
    damaged[15 * len(whole) // 30 + 14] ^= 255  # in the bytes of record 15
    (folder / "0.tfrecord").write_bytes(damaged)
    (folder / "1.tfrecord").write_bytes(whole[:-3])
    with pytest.raises(UserError, match=r"2 of 60 records make no clip: 1 checksum .* 1 truncated"):
        run(folder, tmp_path / "out")
    tally = run(folder, tmp_path / "out", bad_share=0.1)
    assert len(Store(tmp_path / "out")) == 58
    assert [name.rsplit("/", 1)[1] for name, _ in tally.names] == [
        "0.tfrecord[15]", "1.tfrecord[29]"
    ]  # fmt: skip
