"""The command: video in, a data set out that training reads; killed and run again, the same."""

import json
import shutil

import numpy as np
import prepare_kills as kills
import prepare_videos as videos
import pytest

from memo_jax.data.loader import Loader
from memo_jax.data.store import Store
from memo_jax.data.windows import WindowConfig
from memo_jax.errors import UserError
from memo_jax.prepare import run as running
from memo_jax.prepare.__main__ import main, parser, settings
from memo_jax.prepare.folder import Folder
from memo_jax.prepare.inspect.__main__ import main as inspect
from memo_jax.prepare.settings import Settings
from memo_jax.prepare.stats.__main__ import main as stats

CODES = {"zero.mp4": "empty", "two-heads.mp4": "two-heads"}


@pytest.fixture(scope="module")
def source(tmp_path_factory, people):
    folder = tmp_path_factory.mktemp("in")
    for case in videos.cases():
        if case.name in kills.NAMES:
            case.make(folder / case.name, *people)
    return folder


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """A run that was left alone."""
    output = tmp_path_factory.mktemp("whole") / "set"
    done = kills.run(source, output)
    assert done.returncode == 0, done.stderr
    assert "5 clips" in done.stdout and "2 lines in rejects.jsonl" in done.stdout
    assert "Traceback" not in done.stderr and "6/6" in done.stderr
    assert "offline defaults: cuts by histogram, heads by OpenCV's cascades" in done.stderr
    return output


def test_training_reads_what_the_command_writes(whole):
    store = Store(whole)
    assert store.layout.size == 64 and store.layout.audio == (4, 32)
    config = WindowConfig(frames=16, past_frames=16, form="images")
    loader = Loader(store, config, batch_size=4, seed=0)
    seen = set()
    for _ in range(8):
        batch = next(loader)
        assert batch["frames"].shape == (4, 16, 64, 64, 3)
        assert batch["audio"].shape == (4, 16, 5, 4, 32)
        seen |= set(batch["record"].tolist())
    loader.close()
    assert len(seen) == 5 and loader.report.bad == 0


def test_every_video_has_clips_or_a_line(whole):
    lines = [json.loads(line) for line in (whole / "rejects.jsonl").read_text().splitlines()]
    assert {line["video"]: line["code"] for line in lines} == CODES
    receipts = Folder(whole).receipts().values()
    assert {r["video"] for r in receipts if r["clips"]} == set(kills.NAMES) - set(CODES)


MOMENTS = {
    "a video is done": lambda out: len(list(out.glob(".prepare/done/*.json"))) >= 1,
    "a part is being written": lambda out: (
        len(list(out.glob(".prepare/done/*.json"))) >= 2
        and bool(list(out.glob(".prepare/parts/.*")))
    ),
    "shards are planned": lambda out: (out / ".prepare/plans/000.json").exists(),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_it_goes_on_to_the_same_end(moment, source, whole, tmp_path):
    output = tmp_path / "set"
    kills.killed(source, output, lambda: MOMENTS[moment](output))
    again = kills.run(source, output)
    assert again.returncode == 0, again.stderr
    assert kills.result(output) == kills.result(whole)


def test_two_workers_write_the_same(source, whole, tmp_path):
    done = kills.run(source, tmp_path / "set", "--workers", "2", "--quiet")
    assert done.returncode == 0, done.stderr
    assert kills.result(tmp_path / "set") == kills.result(whole)


def test_a_second_run_does_only_what_is_missing(source, whole, tmp_path, capsys, monkeypatch):
    output = tmp_path / "set"
    shutil.copytree(whole, output)
    arguments = kills.command(source, output, "--quiet")[3:]
    asked = []
    monkeypatch.setattr(running, "clips", lambda *a, **k: asked.append(a) or iter(()))
    main(arguments)
    assert "5 clips" in capsys.readouterr().out and not asked
    new = tmp_path / "more"
    shutil.copytree(source, new)
    shutil.copy(source / "late.mp4", new / "later.mp4")
    monkeypatch.undo()
    main(kills.command(new, output, "--quiet")[3:])
    assert "6 clips" in capsys.readouterr().out
    assert kills.result(output)[0][:5] == kills.result(whole)[0]


def test_latents_make_a_second_set(source, whole, tmp_path):
    output = tmp_path / "set"
    shutil.copytree(whole, output)
    main([*kills.command(source, output, "--quiet")[3:], "--latents", str(tmp_path / "latents")])
    store = Store(tmp_path / "latents")
    assert len(store) == 5 and store.layout.latents is not None and store.layout.images


def test_a_program_error_is_one_line_and_tried_again(source, tmp_path, monkeypatch):
    item = running.Input(str(source / "late.mp4"), "late.mp4", "0" * 16)
    folder = Folder(tmp_path / "set")
    folder.prepare({})
    work = running.Prepare(str(tmp_path / "set"), Settings(size=64))

    def fails(*_):
        raise ZeroDivisionError("of\nmine")

    monkeypatch.setattr(running, "clips", fails)
    monkeypatch.setattr(running, "tools", lambda settings: None)
    reject = work(item)
    assert (reject.code, reject.text) == ("failed", "ZeroDivisionError: of mine")
    assert not folder.is_done(item.key)
    monkeypatch.setattr(running, "clips", lambda *_: iter(()))
    assert work(item) is None and folder.is_done(item.key)


def test_a_clip_is_a_video_again(whole, tmp_path, capsys):
    from memo_jax.io.sound import read_recording
    from memo_jax.io.video import probe, read_video

    path = tmp_path / "clip.mp4"
    inspect([str(whole), "--clip", "cut.mp4@3.200", "--output", str(path)])
    assert "cut.mp4@3.200: 80 frames, 3.20 s at 25.000 fps, 64 pixels" in capsys.readouterr().out
    info = probe(path)
    assert (info.frames, info.fps, info.width) == (80, 25, 64)
    assert info.audio_seconds == pytest.approx(3.2, abs=0.01)
    assert np.abs(read_recording(path).samples).max() > 0.05
    assert read_video(path)[0].std() > 10


@pytest.mark.parametrize("which", ["5", "nobody.mp4@0.000"])
def test_a_clip_that_is_not_there_is_said(whole, which):
    with pytest.raises(UserError, match="no clip"):
        inspect([str(whole), "--clip", which])


def test_stats_say_hours_rates_scores_and_rejects(whole, tmp_path, capsys):
    stats([str(whole), "--png", str(tmp_path / "stats.png")])
    said = capsys.readouterr().out
    assert "5 clips, 0.004 hours" in said and "fps: 25.00 80%, 24.00 20%" in said
    assert "mouth_loudness: 5 %" in said and "rejected 1 two-heads: more than one head" in said
    assert "hours of video through one core in an hour: all " in said and "heads" in said
    from PIL import Image

    with Image.open(tmp_path / "stats.png") as image:
        assert np.asarray(image).std() > 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input", "none/*.mp4"], "matches no file"),
        (["--size", "8"], "expected 32 to 4096"),
        (["--no-such", "1"], "no option '--no-such'"),
        (["--shortest", "5", "--longest", "1"], "expected 0.1 at least and rising"),
        (["--cuts", "transnet"], "give --transnet FILE"),
        (["--syncnet", "none.model"], "none.model"),
        (["--model", "tini"], "did you mean 'tiny'"),
        (["--workers", "0"], "--workers 0"),
        (["--review", "none.csv"], "review 'none.csv' cannot be read"),
        (["--corpus", "hdtf"], "none of .* files is one of hdtf's"),
    ],
)
def test_bad_options_are_one_line(options, message, source, tmp_path):
    given = ["--input", str(source), "--output", str(tmp_path / "set"), "--cuts", "histogram"]
    with pytest.raises(UserError, match=message) as error:
        main([*given, *options])
    assert "\n" not in str(error.value)


def test_defaults_are_those_of_the_steps():
    given = settings(parser().parse_args(["--input", "x", "--output", "y"]))
    assert given == Settings()
