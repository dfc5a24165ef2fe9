"""The suite's bookkeeping, its tables and the command, with videos that cost nothing."""

import dataclasses
import json
import sys

import numpy as np
import pytest
from PIL import Image

from memo_jax.errors import UserError
from memo_jax.evaluate import __main__ as command
from memo_jax.evaluate import suite as suites
from memo_jax.evaluate.report import page, table
from memo_jax.evaluate.studies import MAIN, OTHER_TRAININGS, STUDIES, Study, Variant
from memo_jax.evaluate.suite import Suite, Trained
from memo_jax.io.video import VideoWriter
from memo_jax.puppets.clips import PuppetSet
from memo_jax.puppets.world import render

STUDY = Study(
    "Which?",
    (Variant("plain"), Variant("brief", sampler={"steps": 2}), Variant("other", "cross")),
    ("lips", "emotion", "kept"),
    people=2,
    seconds=1.0,
    per_second=True,
)


class Still:
    """In the place of `Together`: the portrait stands still."""

    made = 0

    def __init__(self, model, sampler, motion):
        self.sampler = sampler

    def __call__(self, portraits, sounds, emotions, seed):
        Still.made += 1
        frames = len(sounds[0]) * self.sampler.fps // 16000
        yield np.repeat(portraits[:, None], frames, axis=1)


@pytest.fixture
def suite(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(suites, "Together", Still)
    monkeypatch.setattr(Still, "made", 0)
    models = {MAIN: Trained(tiny, "abc")}
    return Suite(tmp_path, models, seeds=2, share=1.0, long_seconds=2.0)


def make_all(suite, studies, advance=lambda frames: None):
    for job in suite.missing(studies):
        suite.make(job, advance)


def test_each_video_once(suite):
    told = []
    same = dataclasses.replace(STUDY, variants=(Variant("under another name"),))
    make_all(suite, [STUDY, same], told.append)
    assert Still.made == 4 and sum(told) == 4 * 2 * 25  # two variants, two seeds; none of `cross`
    assert not suite.missing([STUDY, same])
    plain, brief = ([suite.read(job) for job in suite.jobs(STUDY, v)] for v in STUDY.variants[:2])
    assert [len(videos) for videos in plain] == [2, 2]
    assert plain[0][0].identity > 0.99 and brief == plain  # nothing depends on steps here
    assert plain[0] != plain[1]
    again = [suite.read(job) for job in suite.jobs(same, same.variants[0])]
    assert again == plain


def test_it_goes_on_where_it_stopped(suite):
    first = suite.missing([STUDY])[0]
    suite.make(first, lambda frames: None)
    assert first.key not in {job.key for job in suite.missing([STUDY])}
    assert len(suite.missing([STUDY])) == 3


def test_other_weights_are_other_videos(suite, tiny):
    make_all(suite, [STUDY])
    suite.models = {MAIN: Trained(tiny, "def")}
    assert len(suite.missing([STUDY])) == 4


def test_a_contact_sheet_has_the_portrait_and_frames(suite):
    make_all(suite, [STUDY])
    job = suite.jobs(STUDY, STUDY.variants[0])[0]
    with Image.open(suite.sheet(job)) as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape == (2 * 64, (1 + suites.SHOWN_FRAMES) * 64, 3)
    assert np.array_equal(pixels[:, :64], pixels[:, 64:128])


def test_tables_say_what_was_not_run(suite):
    make_all(suite, [STUDY])
    found = {v.name: [suite.read(job) for job in suite.jobs(STUDY, v)] for v in STUDY.variants[:2]}
    lines = table(STUDY, found).splitlines()
    assert lines[0] == "|  | lips | emotion, % | identity kept |" and len(lines) == 5
    assert lines[2].startswith("| plain | ") and lines[2].count("±") == 3
    assert lines[4] == "| other | not run: no model 'cross' given |  |  |"
    text = page({"it": STUDY}, {"it": found}, "About.")
    assert "## Which?" in text and OTHER_TRAININGS["cross"] in text


def test_studies_ask_for_what_there_is(tiny):
    for study in STUDIES.values():
        names = [variant.name for variant in study.variants]
        assert len(set(names)) == len(names) > 1
        for variant in study.variants:
            assert variant.model in {MAIN, *OTHER_TRAININGS}
            dataclasses.replace(tiny.spec.sampler, **variant.sampler)
            dataclasses.replace(tiny.spec.parts["diffusion_net"].config.motion, **variant.motion)


def test_the_command(suite, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(command.STUDIES, "lips", STUDY)
    monkeypatch.setenv("MEMO_JAX_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    arguments = "--suite", "puppets", "--studies", "lips", "--seeds", "1", "--output", str(out)
    command.main(arguments)
    text = capsys.readouterr().out
    assert (out / "tables.md").read_text() == text[:-1] and "| plain |" in text
    with Image.open(out / "lips.png") as plot:
        assert plot.size[0] > 300 and np.asarray(plot).std() > 10
    sheets = json.loads((out / "sheets.json").read_text())
    assert all((out / one).is_file() for sheet in sheets["lips"].values() for one in sheet)
    made = Still.made
    command.main(arguments)
    assert Still.made == made


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--studies", "lips,jokes"], "expected some of main"),
        (["--seeds", "0"], "at least 1 seed"),
        (["--share", "2"], "share above 0"),
        (["--against", "nobody=tiny"], "expected NAME=MODEL"),
        (["--against", "cross"], "expected NAME=MODEL"),
        (["--model", "nothing-of-that-name"], "nothing-of-that-name"),
        (["--real", "a", "--generated", "b"], "give either --suite"),
    ],
)
def test_mistakes_are_told_in_a_line(tmp_path, arguments, told):
    with pytest.raises(UserError, match=told) as error:
        command.main(["--suite", "puppets", "--output", str(tmp_path / "o"), *arguments])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "asked", [["--suite", "puppets"], ["--real", "none", "--generated", "none"]], ids=" ".join
)
def test_plots_that_cannot_be_drawn_are_told_before_anything_is_measured(
    tmp_path, monkeypatch, asked
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install 'memo_jax\[evaluate\]'"):
        command.main([*asked, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_voice_that_is_not_there_is_told_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("memo_jax.puppets.espeak.shutil.which", lambda name: None)
    monkeypatch.setattr(Suite, "make", lambda *_: pytest.fail("made a video"))
    out = tmp_path / "out"
    with pytest.raises(UserError, match="espeak-ng is not installed"):
        command.main(["--suite", "puppets", "--studies", "main", "--output", str(out)])


def test_two_folders_of_videos(tmp_path, capsys):
    for name in ("real", "made"):
        (tmp_path / name).mkdir()
        with VideoWriter(tmp_path / name / "a.mp4", 64, 64, 25) as writer:
            writer.write(render(PuppetSet(1, held_out=True, seconds=1.0).take(0).truth, 64))
    folders = "--real", str(tmp_path / "real"), "--generated", str(tmp_path / "made")
    command.main([*folders, "--output", str(tmp_path / "out"), "--faces", "portrait", "--quiet"])
    assert "# Generated videos against real ones" in capsys.readouterr().out
    assert {"report.html", "table.md", "table.json"} <= {
        p.name for p in (tmp_path / "out").iterdir()
    }
    with pytest.raises(UserError, match="give either"):
        command.main([*folders[:2], "--output", str(tmp_path / "out")])
