"""The map and --describe: what is wrong is one clear line, what is proposed is taken."""

import json

import numpy as np
import pytest
from tfrecord import writing

from memo_jax.errors import UserError
from tools.tfrecord_import.__main__ import main
from tools.tfrecord_import.mapping import make_map, read_map

VIDEO = {"video": {"feature": "v"}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "expected an object"),
        ({}, "either video or images"),
        ({**VIDEO, "images": {"feature": "i"}}, "either video or images"),
        ({"images": {"feature": "i"}}, "give audio and fps"),
        ({"vidoe": {"feature": "v"}}, "no field 'vidoe'; did you mean 'video'?"),
        ({"video": "v"}, "video: expected an object of feature, value"),
        ({"video": {"feature": "v", "value": 1}}, "either feature or value"),
        ({"video": {"feature": ""}}, "expected a name"),
        ({"video": {"value": "x"}}, "expected a feature"),
        ({**VIDEO, "fps": {"value": "25"}}, "expected a number"),
        ({**VIDEO, "identity": {"value": None}}, "expected text or a number"),
        ({**VIDEO, "audio": {"feature": "a", "form": "int61"}}, "did you mean 'int16'?"),
        ({**VIDEO, "audio": {"feature": "a", "form": ["x"]}}, "no audio form"),
        ({**VIDEO, "audio": {"feature": "a", "form": "int16"}}, "give audio_rate"),
        ({**VIDEO, "emotion": {"feature": "e", "names": 3}}, "emotion names"),
        ({**VIDEO, "fps": {"feature": "f", "form": "x"}}, "fps: expected an object"),
    ],
)
def test_what_is_wrong_with_a_map_is_said(data, message):
    with pytest.raises(UserError) as raised:
        make_map(data)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_names_may_be_a_list(tmp_path):
    path = tmp_path / "map.json"
    path.write_text(json.dumps({**VIDEO, "emotion": {"feature": "e", "names": ["sad", "happy"]}}))
    assert read_map(path).names == {"0": "sad", "1": "happy"}


@pytest.mark.parametrize("text", [None, "{", "[" * 100_000])
def test_a_map_that_cannot_be_read(text, tmp_path):
    path = tmp_path / "map.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=r"map .*cannot be read|map .*no JSON"):
        read_map(path)


def described(folder, capsys, examples):
    writing.write(folder / "set.tfrecord", examples)
    main(["--describe", str(folder / "*.tfrecord"), "--map", str(folder / "map.json")])
    return capsys.readouterr().out, json.loads((folder / "map.json").read_text())


def test_describe_names_types_lengths_and_contents(tmp_path, capsys):
    examples = [writing.example(writing.clip(i, 16 + i)) for i in range(3)]
    printed, proposed = described(tmp_path, capsys, examples)
    lines = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line}
    assert lines["frames"] == ["bytes", "16", "to", "18", "3/3", "png", "picture"]
    assert lines["label"] == ["bytes", "1", "3/3", "happy,", "sad"]
    assert lines["fps"] == ["float", "1", "3/3", "25"]
    assert proposed == writing.MAP | {"licence": {"value": ""}}
    make_map(proposed)


def test_describe_sees_samples_labels_and_sequences(tmp_path, capsys):
    context = {"pcm": writing.tone(0, 1), "sample_rate": 16000, "video_fps": 25, "emotion": "anger"}
    examples = [writing.sequence_example(context, {"image/encoded": [b"\xff\xd8\xff..."] * 25})]
    printed, proposed = described(tmp_path, capsys, examples)
    assert "bytes sequence" in printed
    assert proposed == {
        "images": {"feature": "image/encoded"},
        "audio": {"feature": "pcm", "form": "int16"},
        "fps": {"feature": "video_fps"},
        "audio_rate": {"feature": "sample_rate"},
        "emotion": {"feature": "emotion", "names": {"anger": "angry"}},
        "licence": {"value": ""},
    }
    make_map(proposed)


def test_describe_says_what_it_guesses(tmp_path, capsys):
    samples = np.zeros(5000, np.float32)
    printed, proposed = described(
        tmp_path, capsys, [writing.example({"clip": b"....ftypisom", "wave": samples, "label": 3})]
    )
    assert proposed["video"] == {"feature": "clip"}
    assert proposed["audio"] == {"feature": "wave", "form": "float"}
    assert proposed["audio_rate"] == {"value": 16000}
    assert proposed["emotion"] == {"feature": "label", "names": {"3": ""}}
    assert "16000 Hz is a guess" in printed
    make_map(proposed)


def test_a_proposal_overwrites_no_map(tmp_path):
    (tmp_path / "map.json").write_text("{}")
    writing.write(tmp_path / "set.tfrecord", [writing.example({"a": 1})])
    with pytest.raises(UserError, match="exists already"):
        main(["--describe", str(tmp_path / "*.tfrecord"), "--map", str(tmp_path / "map.json")])
