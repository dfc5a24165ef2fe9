"""The command: whatever the user does wrong is one line and status 2."""

import shutil
import sys

import numpy as np
import pytest
from tfrecord import writing
from tfrecord.writing import MAP

from memo_jax.data.clip import read_frame
from memo_jax.data.record import decode
from memo_jax.data.store import Store
from memo_jax.errors import UserError
from memo_jax.puppets.clips import portrait
from tools.tfrecord_import.__main__ import main
from tools.tfrecord_import.environment import make


def written(folder, *clips):
    return writing.write(folder / "a.tfrecord", [writing.example(clip) for clip in clips])


def refused(command, **options):
    with pytest.raises(UserError) as raised:
        command(**options)
    text = str(raised.value)
    assert "\n" not in text
    return text


def test_status_2_and_one_line(command, tmp_path):
    written(tmp_path, writing.clip(0))
    process = command.start(*command.arguments(record_map=MAP | {"fps": {"feature": "fsp"}}))
    out, errors = process.communicate(timeout=250)
    assert (process.returncode, out) == (2, "")
    assert [line for line in errors.splitlines() if "fsp" in line] == errors.splitlines()[-1:]
    assert "did you mean 'fps'? it has fps, frames, label, speaker, wav" in errors
    assert "Traceback" not in errors
    assert not command.output.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --describe"),
        (["--input", "x", "--describe", "x"], "give either --describe"),
        (["--input", "x"], "needs --map FILE and --output DIR"),
        (["--describe", "/no/such/*"], "matches no file"),
        (["--describe", "gs://bucket/*"], "tfrecord_import.environment DIR"),
        (["--describe", "x", "--tensorflow", "/no/such"], "is no environment"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(UserError, match=message):
        main(arguments)


def test_what_no_map_can_mend_is_said_before_anything_is_written(command, tmp_path):
    written(tmp_path, writing.clip(0))
    named = MAP | {"emotion": {"feature": "label", "names": {"happy": "hapy"}}}
    assert "did you mean 'happy'?" in refused(command, record_map=named)
    constant = MAP | {"emotion": {"value": "glad"}}
    assert "no emotion 'glad'" in refused(command, record_map=constant)
    tfio = MAP | {"audio": {"feature": "wav", "form": "tensorflow-io"}}
    assert "needs --tensorflow DIR" in refused(command, record_map=tfio)
    assert not command.output.exists()


def test_without_the_extra_it_says_how_to_get_it(command, tmp_path, monkeypatch):
    written(tmp_path, writing.clip(0))
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    assert "pip install 'memo_jax[tfrecord]'" in refused(command)


def test_a_file_that_is_no_tfrecord(command, tmp_path):
    (tmp_path / "a.tfrecord").write_bytes(b"this is a text, and no more than that")
    assert "a.tfrecord is no TFRecord file" in refused(command)


NOISE = bytes(range(256)) * 40
BAD = {
    "a label that is no class": ({"label": "glad"}, "emotion: no emotion 'glad'"),
    "no label": ({"label": None}, "feature: there is no feature 'label'"),
    "several labels": ({"label": ["sad", "sad"]}, "feature: emotion has 2 values"),
    "a rate of nothing": ({"fps": 0.0}, "feature: fps is '0.0', expected a number above 0"),
    "no picture": ({"frames": [NOISE] * 20}, "image: picture 0 is no JPEG, PNG, WEBP"),
    "a picture cut short": (
        {"frames": [writing.png(writing.picture(0, 0))[:90]] * 20},
        "image: picture 0 cannot be decoded",
    ),
    "pictures of two sizes": (
        {"frames": [writing.png(writing.picture(0, 0, s)) for s in (32, 48) * 10]},
        "image: pictures of (32, 32) and (48, 48) pixels",
    ),
    "pictures that are numbers": ({"frames": [1, 2, 3]}, "feature: images are int"),
    "no sound file": ({"wav": NOISE}, "sound: recording 'sound' is not media"),
    "sound that is a number": ({"wav": 7}, "feature: audio is 1 int"),
    "too short": ({"frames": [writing.png(writing.picture(0, 0))] * 9}, "short: 9 frames"),
    "a name that is no text": ({"speaker": b"\xff\xfe"}, "feature: identity is no text"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_a_record_that_makes_no_clip_is_named_with_its_reason(change, message, command, tmp_path):
    written(tmp_path, writing.clip(0), writing.clip(1, **change))
    command("--bad-share", 0.5)
    assert len(Store(command.output)) == 1
    (line,) = (command.output / "unused.txt").read_text().splitlines()
    assert line.startswith(f"{tmp_path}/a.tfrecord[1]\t{message}")
    assert "/tmp" not in line.split("\t")[1]


SAMPLES = {
    "not finite": ({"wav": np.array([0, np.nan] * 8000, np.float32)}, "not finite"),
    "of another scale": ({"wav": np.full(16000, 900.0, np.float32)}, "is its form int16?"),
    "a file": ({}, "audio is bytes, expected numbers"),
}


@pytest.mark.parametrize(("change", "message"), SAMPLES.values(), ids=SAMPLES)
def test_samples_that_are_none(change, message, command, tmp_path):
    written(tmp_path, writing.clip(0, **change))
    sound = {"audio": {"feature": "wav", "form": "float"}, "audio_rate": {"value": 16000}}
    assert message in refused(command, record_map=MAP | sound)


VIDEO = {"video": {"feature": "wav"}, "emotion": {"value": "sad"}}


def test_videos_that_are_none(command, tmp_path):
    written(tmp_path, {"wav": NOISE}, {"wav": writing.wav(writing.tone(0, 1))})
    text = refused(command, record_map=VIDEO)
    assert "video: video 'video' is not media" in text
    assert "video: video 'video' has no pictures" in text


def test_face_crops_put_the_head_in_the_picture(command, tmp_path):
    """A drawn head small in a wide picture fills the crop; noise has no face."""
    head = portrait(3, 160, np.random.default_rng(0), "neutral")
    scene = np.full((240, 400, 3), 90, np.uint8)
    scene[60:220, 30:190] = head
    blank = np.full((240, 400, 3), 90, np.uint8)
    written(
        tmp_path,
        writing.clip(0, frames=[writing.png(scene)] * 20),
        writing.clip(0, frames=[writing.png(blank)] * 20),
    )
    command("--crop", "face", "--bad-share", 0.5, "--size", 96)
    assert "face: no face found" in (command.output / "unused.txt").read_text()
    (data,) = [Store(command.output)[0]]
    crop = read_frame(decode(data), 0).astype(int)
    assert crop.shape == (96, 96, 3)
    grey = np.abs(crop - 90).max(axis=-1) < 3
    assert grey[:, :24].mean() < 0.9  # the head stands far left in the whole picture
    assert (np.abs(np.diff(crop[:, 24:72], axis=0)).mean()) > 1


def test_an_environment_is_made_with_a_python_that_tensorflow_io_has(tmp_path):
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho 3 14\n")
    other.chmod(0o755)
    with pytest.raises(UserError, match=r"is Python 3.14.*expected 3.10 to 3.12"):
        make(tmp_path / "env", str(other))
    with pytest.raises(UserError, match="does not run"):
        make(tmp_path / "env", str(tmp_path / "nothing"))
    (tmp_path / "full").mkdir()
    with pytest.raises(UserError, match="give a new folder"):
        make(tmp_path / "full", shutil.which("python3"))
    assert not (tmp_path / "env").exists()
