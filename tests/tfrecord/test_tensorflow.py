"""TensorFlow's own TFRecords, read here and through tensorflow-io: the same, to the byte.

MEMO_JAX_TENSORFLOW_IO names an environment that `python -m tools.tfrecord_import.environment` made.
"""

import functools
import http.server
import io
import os
import subprocess
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from tfrecord import writing
from tfrecord.writing import FPS, RATE, SIZE

from memo_jax.data.loader import Loader
from memo_jax.data.record import decode
from memo_jax.data.store import Store
from memo_jax.data.windows import WindowConfig
from memo_jax.errors import UserError
from tools.tfrecord_import.environment import clean_environment, interpreter
from tools.tfrecord_import.sources import Bridge, Files

VARIABLE = "MEMO_JAX_TENSORFLOW_IO"
pytestmark = pytest.mark.skipif(
    VARIABLE not in os.environ,
    reason=f"{VARIABLE} names no environment of tensorflow-io (1.5 GB; tools/tfrecord_import)",
)
ENVIRONMENT = Path(os.environ.get(VARIABLE, "/nonexistent"))

NAMES = {"names": ["neutral", "happy", "sad"]}
LABEL = {"emotion": {"feature": "label", **NAMES}}
PICTURES = {"images": {"feature": "frames"}, **LABEL}
MAPS = {
    "wav": PICTURES | {"fps": {"feature": "fps"}, "audio": {"feature": "sound"}},
    "sequence": PICTURES
    | {
        "fps": {"value": FPS},
        "audio": {"feature": "sound", "form": "int16"},
        "audio_rate": {"feature": "rate"},
    },
    "video": {"video": {"feature": "video"}, **LABEL},
}
DECODED = MAPS["wav"] | {"audio": {"feature": "sound", "form": "tensorflow-io"}}
SAMPLES = np.stack([writing.tone(k, 0.8) for k in range(4)])
FRAMES = np.stack([[writing.picture(k, i) for i in range(20)] for k in range(4)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder whose in/*.tfrecord are TensorFlow's."""
    folder = tmp_path_factory.mktemp("tensorflow")
    # The first sample says the label, which is no sound worth speaking of.
    samples = SAMPLES.copy()
    samples[:, 0] = [0, 1, 2, 0]
    np.savez(folder / "values.npz", frames=FRAMES, samples=samples)
    for k in range(2):
        (folder / f"{k}.mp4").write_bytes(writing.mp4(list(FRAMES[k]), SAMPLES[k]))
    script = Path(__file__).with_name("tensorflow_writer.py")
    command = [str(interpreter(ENVIRONMENT)), str(script), str(folder)]
    subprocess.run(command, env=clean_environment(), check=True)
    return folder


def records(folder):
    store = Store(folder)
    return [store[i] for i in range(len(store))]


@pytest.mark.parametrize("kind", MAPS)
def test_both_ways_give_the_same_records(kind, made, command, tmp_path):
    pattern = str(made / "in" / f"{kind}*.tfrecord")
    options = {"record_map": MAPS[kind], "pattern": pattern}
    here = command(output=tmp_path / "here", **options)
    there = command("--tensorflow", ENVIRONMENT, output=tmp_path / "there", **options)
    assert records(here) == records(there)
    assert len(records(here)) == {"wav": 12, "sequence": 4, "video": 2}[kind]


def test_what_tensorflow_wrote_comes_out_of_the_loader(made, command):
    command(record_map=MAPS["wav"], pattern=str(made / "in" / "wav*.tfrecord"))
    window = WindowConfig(frames=4, past_frames=0, still_past=0, audio_edge=0)
    loader = Loader(Store(command.output), window, batch_size=12, seed=0)
    batch = next(loader)
    loader.close()
    assert sorted(batch["record"].tolist()) == list(range(12))
    for row, number in enumerate(batch["record"].tolist()):
        start = int(batch["frames"][row, 0, 0, 0, 0]) // 8
        np.testing.assert_array_equal(batch["frames"][row], FRAMES[number % 4, start : start + 4])


def test_every_record_and_feature_is_the_same_both_ways(made):
    here = Files()
    with Bridge(ENVIRONMENT) as there:
        pattern = [str(made / "in" / "*.tfrecord")]
        files = here.inputs(pattern)
        assert there.inputs(pattern) == files
        for file in files:
            for ours, theirs in zip(here.read(file, 1), there.read(file, 1), strict=True):
                assert (ours.number, ours.position) == (theirs.number, theirs.position)
                assert list(ours.features) == list(theirs.features)
                for name, feature in ours.features.items():
                    other = theirs.features[name]
                    assert (feature.kind, feature.steps) == (other.kind, other.steps)
                    np.testing.assert_array_equal(feature.values, other.values)


def sound_of(record):
    with av.open(io.BytesIO(decode(record).sound)) as file:
        return np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])


def encoded(samples, codec, form, container):
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=RATE, layout="mono")
        stream.codec_context.format = form
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        for part in av.AudioResampler(form, "mono", RATE).resample(frame):
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3"])
def test_sound_that_tensorflow_io_decodes(kind, command, tmp_path):
    """Lossless kinds to the sample."""
    coded = {
        "wav": lambda s: writing.wav(s),
        "flac": lambda s: encoded(s, "flac", "s16", "flac"),
        "mp3": lambda s: encoded(s, "libmp3lame", "s16p", "mp3"),
    }[kind]
    examples = [
        writing.example(
            writing.clip(k, wav=None, label=k, sound=coded(SAMPLES[k]))
        )
        for k in range(2)
    ]  # fmt: skip
    writing.write(tmp_path / "a.tfrecord", examples)
    command("--tensorflow", ENVIRONMENT, record_map=DECODED)
    for k, record in enumerate(records(command.output)):
        heard = sound_of(record)
        if kind == "mp3":
            assert len(heard) == len(SAMPLES[k])
            assert np.corrcoef(heard, SAMPLES[k])[0, 1] > 0.999
        else:
            np.testing.assert_array_equal(heard, SAMPLES[k])


def test_damage_is_named_the_same_both_ways(command, tmp_path):
    path = writing.write(
        tmp_path / "a.tfrecord", [writing.example(writing.clip(k)) for k in range(4)]
    )
    data = bytearray(path.read_bytes())
    data[len(data) // 4 + 500] ^= 1
    path.write_bytes(data[:-2])
    here = command("--bad-share", 0.5, output=tmp_path / "here")
    there = command("--bad-share", 0.5, "--tensorflow", ENVIRONMENT, output=tmp_path / "there")
    unused = (here / "unused.txt").read_text()
    assert unused == (there / "unused.txt").read_text()
    assert "a.tfrecord[1]\tchecksum" in unused
    assert "a.tfrecord[3]\ttruncated" in unused
    assert records(here) == records(there)


def test_sound_that_cannot_be_decoded_and_files_that_are_none(command, tmp_path):
    clips = [writing.clip(0, wav=None, sound=s, label=0) for s in (b"noise" * 99, SAMPLES[0])]
    clips.append(writing.clip(0, wav=None, sound=writing.wav(SAMPLES[0]), label=0))
    writing.write(tmp_path / "a.tfrecord", map(writing.example, clips))
    command("--tensorflow", ENVIRONMENT, "--bad-share", 0.7, record_map=DECODED)
    lines = (command.output / "unused.txt").read_text().splitlines()
    assert "sound: tensorflow-io cannot decode it" in lines[0]
    assert "sound: feature 'sound' holds no sound file" in lines[1]
    (tmp_path / "b.tfrecord").write_text("this is a text, and no more than that")
    with pytest.raises(UserError, match=r"b\.tfrecord is no TFRecord file"):
        command("--tensorflow", ENVIRONMENT, "--bad-share", 0.7, record_map=DECODED)
    with pytest.raises(UserError, match="TensorFlow cannot read it"):
        command("--tensorflow", ENVIRONMENT, pattern="nosuch://bucket/*", record_map=DECODED)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


def test_a_file_system_of_tensorflow_io(command, tmp_path):
    """http:// is one that a test can serve."""
    writing.write(tmp_path / "a.tfrecord", [writing.example(writing.clip(k)) for k in range(3)])
    here = command(output=tmp_path / "here")
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        pattern = f"http://127.0.0.1:{server.server_port}/a.tfrecord"
        there = command("--tensorflow", ENVIRONMENT, pattern=pattern, output=tmp_path / "there")
        server.shutdown()
    assert records(here) == records(there)
    assert len(records(there)) == 3
    assert decode(records(there)[0]).size == SIZE
