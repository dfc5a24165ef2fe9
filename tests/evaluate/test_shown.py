"""Emotion accuracy of drawn faces, whose emotions are known: the row of the table, its fall as more
frames show another emotion, and what it says where something is missing."""

import argparse
import dataclasses
import json

import numpy as np
import pytest

from memo_jax.errors import UserError
from memo_jax.evaluate.shown import PuppetEmotions
from memo_jax.io.video import VideoWriter
from memo_jax.metrics.compare import Settings, add_options, compare, emotion_judge
from memo_jax.metrics.emotion import read_asked
from memo_jax.puppets.clips import PuppetSet
from memo_jax.puppets.emotion import number
from memo_jax.puppets.world import render

NAMES = ("ann", "bob", "cy")
SHOWS = ("happy", "angry", "surprised")


@pytest.fixture(scope="module")
def judge():
    return PuppetEmotions()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three real puppets who show an emotion of their own for two seconds; of the generated ones
    the second turns sad after a second, the third is sad throughout."""
    puppets = PuppetSet(clips=3, size=96, seconds=2, beds=0, silent=0, per_identity=1)
    folder = tmp_path_factory.mktemp("shown")
    for i, (name, shows) in enumerate(zip(NAMES, SHOWS, strict=True)):
        n = len(puppets.take(i).truth)
        for key, from_ in (("real", n), ("generated", (n, 25, 0)[i])):
            classes = np.where(np.arange(n) < from_, number(shows), number("sad"))
            truth = dataclasses.replace(
                puppets.take(i).truth, emotion=classes.astype(np.int8), intensity=np.ones(n)
            )
            (folder / key).mkdir(exist_ok=True)
            with VideoWriter(folder / key / f"{name}.mp4", 96, 96, 25, crf=10) as writer:
                writer.write(render(truth, 96))
    rows = [f"{name},{shows}" for name, shows in zip(NAMES, SHOWS, strict=True)]
    (folder / "asked.csv").write_text("name,emotion\n" + "\n".join(rows) + "\n")
    return folder


def table(folders, tmp_path, **options):
    settings = Settings(faces="portrait", keep=False)
    return compare(
        *(folders / "real", folders / "generated", tmp_path / "out"),
        weights={},
        settings=settings,
        quiet=True,
        **options,
    )


def test_the_row_has_a_number(folders, tmp_path, judge):
    """Real puppets show what is asked; of the generated ones all frames, half and none of them."""
    row = table(folders, tmp_path, judge=judge, asked=folders / "asked.csv").row("emotion accuracy")
    assert row.real > 0.95 and row.better == "higher" and row.group == "paper"
    assert row.generated == pytest.approx(0.5, abs=0.05)
    assert row.counted == "3 and 3 videos" and "by the judge given" in row.note
    lines = (tmp_path / "out" / "videos.jsonl").read_text().splitlines()
    share = {(x["set"], x["name"]): x["emotion"] for x in map(json.loads, lines)}
    ann, bob, cy = (share["generated", name] for name in NAMES)
    assert ann > bob + 0.3 and bob > cy + 0.3 and cy < 0.05


def test_what_is_missing_is_said(folders, tmp_path, judge):
    row = table(folders, tmp_path).row("emotion accuracy")
    assert row.generated is None and "--emotion-judge" in row.note
    row = table(folders, tmp_path, judge=judge).row("emotion accuracy")
    assert row.generated is None and "--emotions" in row.note
    some = tmp_path / "some.csv"
    some.write_text("name,emotion\nann,happy\nelsewhere,sad\n")
    row = table(folders, tmp_path, judge=judge, asked=some).row("emotion accuracy")
    assert row.generated > 0.95 and "generated: 2 without: no emotion asked of it" in row.note
    with pytest.raises(UserError, match="no judge of them"):
        table(folders, tmp_path, asked=some)
    some.write_text("name,emotion\nelsewhere,sad\n")
    with pytest.raises(UserError, match="are of no video; expected names such as 'ann'"):
        table(folders, tmp_path, judge=judge, asked=some)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a,b\n", "have not the columns name, emotion"),
        ("name,emotion\nann,hapy\n", r"ask 'hapy' of 'ann'.*did you mean 'happy'"),
        ("name,emotion\nann\n", "ask '' of 'ann'"),
        ("name,emotion\nann,happy\nann,sad\n", "ask two of 'ann'"),
        ("name,emotion\n,sad\n", "a row without a name"),
        (None, "cannot be read"),
    ],
)
def test_emotions_that_cannot_be_asked(tmp_path, text, told):
    path = tmp_path / "asked.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=told) as error:
        read_asked(path, PuppetEmotions.classes)
    assert "\n" not in str(error.value)


def test_options():
    parser = argparse.ArgumentParser()
    add_options(parser)
    assert emotion_judge(parser.parse_args([])) is None
    assert emotion_judge(parser.parse_args(["--emotion-judge", "puppets"])) is None
    with pytest.raises(UserError, match="are of a file"):
        emotion_judge(parser.parse_args(["--emotion-classes", "a,b"]))
    with pytest.raises(UserError, match="emotion judge 'absent' does not exist"):
        emotion_judge(parser.parse_args(["--emotion-judge", "absent", "--emotion-classes", "a,b"]))
