"""The command, from files to a file: what it makes, what it refuses, and what it leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import jax
import numpy as np
import pytest
from PIL import Image
from small_model import quick_compilation
from sounds import tone, write_wav

from memo_jax import sample
from memo_jax.command import run
from memo_jax.errors import UserError
from memo_jax.io.video import probe, read_video
from memo_jax.pipeline import Pipeline, pipeline
from memo_jax.weights.sources import load_model

CONFIG = Path(__file__).parents[1] / "configs" / "sample.py"
PORTRAIT = sample.ASSETS / "portrait.png"
RECORDING = sample.ASSETS / "recording.wav"


@pytest.fixture(autouse=True, scope="module")
def _alone():
    """The command must not move the tests' compilation cache."""
    with pytest.MonkeyPatch.context() as patch, quick_compilation():
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(jax.config.jax_compilation_cache_dir))
        yield


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny", jax.numpy.float32)


@pytest.fixture(scope="module")
def pipe(tiny):
    """The one pipeline of this file: its programs are compiled once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "load_model", lambda *source: tiny)
        return Pipeline.load("tiny", steps=2)


@pytest.fixture
def make(pipe, monkeypatch, tmp_path, capsys):
    """`make(*arguments)` runs the command and gives the path of the video it wrote, its stdout and
    stderr. Loading is replaced, so that nothing is compiled twice."""

    def make(*arguments, output="out.mp4"):
        monkeypatch.setattr(Pipeline, "load", lambda model, **options: pipe)
        path = tmp_path / "made" / output
        path.parent.mkdir(exist_ok=True)
        sample.main([*map(str, arguments), "--output", str(path), "--steps", "2"])
        assert not [p for p in path.parent.iterdir() if p.name.startswith(".")]
        return path, *capsys.readouterr()

    return make


@pytest.fixture
def sound(tmp_path):
    """`sound(seconds)` is a wav file."""
    return lambda seconds, rate=16000: write_wav(
        tmp_path / f"{seconds}.wav", tone(seconds, rate), rate
    )


class TestVideos:
    @pytest.mark.parametrize(
        ("seconds", "rate"), [(0.1, 16000), (0.35, 44100), (1.0, 8000), (2.53, 48000)]
    )
    def test_a_playable_video_of_the_right_length(self, make, sound, seconds, rate):
        path, out, _ = make("--audio", sound(seconds, rate))
        info = probe(path)
        assert (info.video_codec, info.audio_codec) == ("h264", "aac")
        assert (info.width, info.height, info.fps) == (64, 64, 25)
        assert info.frames == -(-Fraction(str(seconds)) * 25 // 1)
        assert abs(info.video_seconds - seconds) < 1 / 25
        assert abs(info.video_seconds - info.audio_seconds) < 1 / 25
        frames, _ = read_video(path)
        assert frames.shape == (info.frames, 64, 64, 3) and frames.std() > 5
        assert out.startswith(f"{path}: {info.frames / 25:.2f} s, {info.frames} frames of 64x64")
        assert "s/frame model" in out and "compiling" in out and out.count("\n") == 1

    def test_it_says_what_it_is(self, make, sound, tiny):
        path, _, err = make("--audio", sound(0.1))
        with av.open(str(path)) as video:
            tags = {k.lower(): v for k, v in video.metadata.items()}
        sampler = tiny.spec.sampler
        assert tags["comment"] == (
            "AI-generated talking portrait; model=tiny seed=0 steps=2 "
            f"guidance={sampler.guidance:g} noise_span={sampler.noise_span} exact"
        )
        assert "note: " in err and "frame" in err

    def test_same_seed_same_frames(self, make, sound):
        arguments = "--audio", sound(0.1), "--seed", 5, "--quiet"
        (first, _, err), (again, _, _) = (make(*arguments, output=f"{i}.mp4") for i in "ab")
        assert np.array_equal(read_video(first)[0], read_video(again)[0])
        assert err == ""

    def test_mp3_and_the_sound_of_a_video(self, make, sound, tmp_path):
        samples = tone(0.5, 44100)
        with av.open(str(tmp_path / "a.mp3"), "w") as output:
            stream = output.add_stream("libmp3lame", rate=44100, layout="mono")
            stream.codec_context.format = "s16p"
            for start in range(0, len(samples), 1152):
                part = samples[None, start : start + 1152]
                frame = av.AudioFrame.from_ndarray(part, format="s16p", layout="mono")
                frame.sample_rate, frame.pts = 44100, start
                frame.time_base = Fraction(1, 44100)
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        spoken, _, _ = make("--audio", tmp_path / "a.mp3", output="first.mp4")
        assert 12 <= probe(spoken).frames <= 15  # mp3 adds silence at its ends
        again, _, _ = make("--audio", spoken, output="again.mkv")
        for path in (spoken, again):
            info = probe(path)
            assert abs(info.video_seconds - info.audio_seconds) < 1 / 25
        assert abs(probe(again).frames - probe(spoken).frames) <= 1

    def test_a_face_somewhere_in_a_photograph_pasted_back(self, make, sound, tmp_path):
        photo = np.full((900, 1300, 3), 100, np.uint8)
        photo[450:706, 800:1056] = np.array(Image.open(PORTRAIT).convert("RGB").resize((256, 256)))
        Image.fromarray(photo).save(tmp_path / "photo.jpg", quality=95)
        path, _, _ = make(
            *("--image", tmp_path / "photo.jpg", "--paste-back", "--crf", 0),
            *("--audio", sound(0.1)),
        )
        frames, _ = read_video(path)
        assert frames.shape == (3, 900, 1300, 3)
        changed = np.abs(frames.astype(int) - photo).mean(axis=(0, 3)) > 12
        rows, columns = np.nonzero(changed)
        assert changed.sum() > 5000
        assert rows.min() > 250 and columns.min() > 600  # around the face, and nowhere else
        assert not changed[:, :600].any()

    def test_compiling_only(self, pipe, monkeypatch, tmp_path, capsys):
        """The program is there afterwards, for a sound of another length too; no video is."""
        programs = {}
        monkeypatch.setattr(pipe, "_chunks", programs)
        monkeypatch.setattr(Pipeline, "load", lambda model, **options: pipe)
        sample.main(["--compile-only", "--output", str(tmp_path / "o.mp4"), "--quiet"])
        assert capsys.readouterr().out.startswith("compiled for ")
        assert len(programs) == 1 and not (tmp_path / "o.mp4").exists()

    def test_many_videos_by_one_line(self, make, sound, tmp_path, capsys):
        """What is there is skipped, what fails is told and stops nobody, each has its options."""
        made, jobs = tmp_path / "made", tmp_path / "jobs.jsonl"
        made.mkdir()
        (made / "old.mp4").write_bytes(b"as it was")
        lines = [
            {"output": "old.mp4"},
            {"output": "lost.mp4", "audio": str(tmp_path / "no such file.wav")},
            {"output": "one.mp4", "seed": 1},
            {"output": "two.mp4", "seed": 2},
        ]
        sounds = {"audio": str(sound(0.1))}
        lines = [sounds | line | {"output": str(made / line["output"])} for line in lines]
        jobs.write_text("".join(json.dumps(line) + "\n" for line in lines))
        with pytest.raises(UserError, match="1 of 4 videos failed"):
            make("--batch", jobs, "--quiet")
        told = capsys.readouterr()
        assert "no such file.wav" in told.err and "1 of 4 are there" in told.err
        assert (made / "old.mp4").read_bytes() == b"as it was"
        assert not (made / "lost.mp4").exists() and not (made / "out.mp4").exists()
        one, two = (read_video(made / name)[0] for name in ("one.mp4", "two.mp4"))
        assert one.shape == two.shape == (3, 64, 64, 3) and not np.array_equal(one, two)
        alone, _, _ = make("--audio", sound(0.1), "--seed", 2, output="alone.mp4")
        assert np.array_equal(read_video(alone)[0], two)

    def test_stopped_and_gone_on(self, make, sound, monkeypatch):
        """With --resume a run that is stopped and another one give the video of one run."""
        audio = sound(1.5)  # three clips, two of them made when the signal is seen
        whole, _, _ = make("--audio", audio, output="whole.mp4")
        fetched, signals = pipeline.Run._fetched, []

        def signalled(self, *chunk):
            if signals:
                signal.raise_signal(signals.pop())
            return fetched(self, *chunk)

        monkeypatch.setattr(pipeline.Run, "_fetched", signalled)
        signals.append(signal.SIGTERM)
        with pytest.raises(SystemExit) as end:
            make("--audio", audio, "--resume", output="resumed.mp4")
        assert end.value.code == 143
        names = {p.name for p in whole.parent.iterdir()}
        assert names == {"whole.mp4", "resumed.mp4.partial"}
        path, _, _ = make("--audio", audio, "--resume", output="resumed.mp4")
        assert np.array_equal(read_video(path)[0], read_video(whole)[0])
        assert {p.name for p in whole.parent.iterdir()} == {"whole.mp4", "resumed.mp4"}

    def test_preview(self, make, tmp_path, monkeypatch, pipe):
        monkeypatch.setattr(Pipeline, "load", lambda model, **options: pipe)
        output = tmp_path / "out.mp4"
        sample.main(["--preview", str(tmp_path / "p.png"), "--output", str(output)])
        with Image.open(tmp_path / "p.png") as image:
            assert image.size == (512, 512) and image.format == "PNG"
        assert [p.name for p in tmp_path.iterdir()] == ["p.png"]

    @pytest.mark.parametrize(
        ("emotion", "labels"),
        [
            ("happy", [3, 3, 3]),
            ("8", [8, 8, 8]),
            ("0-1:sad,1-:angry", [6, 0, 0]),
            ("1-2:happy", [4, 3, 4]),
        ],
    )
    def test_emotions(self, make, sound, pipe, monkeypatch, emotion, labels):
        heard = []
        monkeypatch.setattr(Pipeline, "start", lambda self, s, hearing, **o: heard.append(hearing))
        with pytest.raises(TypeError):  # nothing to iterate: generation is not the matter here
            make("--audio", sound(1.9), "--emotion", emotion, "--quiet")
        assert [heard[0].emotions[i] for i in (0, 2, -1)] == [labels[0], labels[1], labels[1]]

    def test_configs(self, pipe, monkeypatch, tmp_path):
        taken = []

        def load(model, **options):
            taken.append(options)
            raise UserError("enough")

        monkeypatch.setattr(Pipeline, "load", load)
        for arguments in (
            ["--config", str(CONFIG)],
            ["--config", f"{CONFIG}:fast"],
            ["--config", f"{CONFIG}:fast", "--steps", "3", "--guidance", "1"],
        ):
            with pytest.raises(UserError, match="enough"):
                sample.main([*arguments, "--output", str(tmp_path / "o.mp4")])
        assert [(o["steps"], o["guidance"]) for o in taken] == [(20, 3.5), (8, 3.5), (3, 1.0)]

    def test_approximations_are_handed_on(self, monkeypatch, tmp_path):
        taken = []

        def load(model, **options):
            names = "preset guidance_interval cache_steps latent_carry memory mesh noise_span"
            taken.append(tuple(options[name] for name in names.split()))
            raise UserError("enough")

        monkeypatch.setattr(Pipeline, "load", load)
        own = "--guidance-interval 0.2,0.8 --cache-steps 3 --no-latent-carry --memory low"
        own += " --mesh frames=2 --noise-span 8"
        for arguments in ("", "--preset fast", f"--preset fast {own}"):
            with pytest.raises(UserError, match="enough"):
                sample.main([*arguments.split(), "--output", str(tmp_path / "o.mp4")])
        assert taken == [
            ("exact", None, None, None, "auto", None, None),
            ("fast", None, None, None, "auto", None, None),
            ("fast", (0.2, 0.8), 3, False, "low", "frames=2", 8),
        ]


@pytest.fixture
def bad(tmp_path, sound):
    """Files that are not what their names say."""
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "text.jpg").write_text("This is no picture.\n")
    (folder / "empty.wav").write_bytes(b"")
    write_wav(folder / "header.wav", np.zeros(0, np.int16))
    (folder / "text.mp3").write_text("This is no sound.\n")
    Image.new("RGB", (1, 1)).save(folder / "pixel.png")
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    (folder / "cut.png").write_bytes(PORTRAIT.read_bytes()[:5000])
    (folder / "folder.mp4").mkdir()
    (folder / "model").mkdir()
    (folder / "model" / "model.json").write_text('{"format": 1}')
    (folder / "config.py").write_text(
        "import ml_collections\n\n\ndef get_config(arg):\n"
        "    return ml_collections.ConfigDict({'stepps': 3})\n"
    )
    (folder / "same.mp4").write_bytes(b"x")
    os.symlink(folder / "same.mp4", folder / "link.mp4")
    sound(0.1)
    return folder


MISTAKES = [
    ("--image missing.png", "does not exist"),
    ("--image nose.png", "did you mean 'noise.png'"),
    ("--image text.jpg", "not an image"),
    ("--image cut.png", "damaged or cut short"),
    ("--image pixel.png", "1x1 pixels"),
    ("--image noise.png", "no face found"),
    ("--image .", "is a folder"),
    ("--audio missing.wav", "does not exist"),
    ("--audio empty.wav", "empty"),
    ("--audio header.wav", "no sound samples"),
    ("--audio text.mp3", "recording"),
    ("--audio noise.png", "sound"),
    ("--emotion hapy", "did you mean 'happy'"),
    ("--emotion 9", "from 0 to 8"),
    ("--emotion 0-3:happy,2-4:sad", "overlap"),
    ("--emotion 90-:happy", "lasts 4 s"),
    ("--emotion=", "no emotion ''"),
    ("--output missing/out.mp4", "does not exist"),
    ("--output folder.mp4", "is a folder"),
    ("--output out.gif", "extension '.gif'"),
    ("--output out", "extension ''"),
    ("--output /proc/out.mp4", "cannot be written"),
    ("--image same.mp4 --output same.mp4", "is the image itself"),
    ("--audio same.mp4 --output link.mp4", "is the audio itself"),
    ("--image noise.png --preview noise.png", "is the image itself"),
    ("--preview p.jpg", "ends in .png"),
    ("--preview missing/p.png", "folder does not exist"),
    ("--model model", "is not a model description: KeyError('components')"),
    ("--model folder.mp4", "is no model"),
    ("--model tinny", "did you mean 'tiny'"),
    ("--model missing/folder", "no model 'missing/folder'"),
    ("--steps 0", "expected 1 to 1000"),
    ("--steps -1", "expected 1 to 1000"),
    ("--steps abc", "invalid int value: 'abc'"),
    ("--steps 2.5", "invalid int"),
    ("--guidance nan", "--guidance nan"),
    ("--guidance inf", "--guidance inf"),
    ("--guidance x", "invalid float"),
    ("--seed -1", "expected 0 to 4294967295"),
    ("--seed 4294967296", "expected 0 to 4294967295"),
    ("--mesh 8", "expected guidance=1 or 2 and frames=1 or more, say guidance=2,frames=4"),
    ("--mesh frames=3", "3 does not divide clip_frames 16"),
    ("--mesh guidance=2 --guidance 1", "without guidance (1) there is one branch"),
    ("--mesh guidance=2,frames=4 --guidance 2", "takes 8 devices, and there are 1 (cpu)"),
    ("--chunk 0", "expected 1 to 1000 clips"),
    ("--chunk 100000000000", "expected 1 to 1000 clips"),
    ("--crf 52", "expected 0 (best) to 51"),
    ("--batch no.jsonl --preview a.png", "shows no previews"),
    ("--batch no.jsonl --resume", "goes on by itself"),
    ("--batch no.jsonl", "cannot be read"),
    ("--crop nonsense", "is not understood"),
    ("--crop 0,0,5,5", "smaller than 32x32"),
    ("--crop 900,900,64,64", "outside the picture"),
    ("--face 7", "not among those found"),
    ("--face left", "not among those found"),
    ("--vocals maybe", "invalid choice"),
    ("--vocals on", "separator's ONNX file"),
    ("--dtype float16", "invalid choice"),
    ("--preset quick", "invalid choice"),
    ("--memory little", "invalid choice"),
    ("--guidance-interval 0.3", "expected two of 0 to 1"),
    ("--guidance-interval 0.9,0.3", "expected two of 0 to 1"),
    ("--guidance-interval a,b", "expected two of 0 to 1"),
    ("--cache-steps 0", "expected 1 (none are cached) to 1000"),
    ("--face-models .", "no .onnx file"),
    ("--face-models missing", "no .onnx file"),
    ("--unknown", "unrecognized arguments: --unknown"),
    ("stray", "unrecognized arguments: stray"),
    ("--config missing.py", "does not exist"),
    ("--config config.py", "stepps"),
    (f"--config {CONFIG}:slow", "no variant 'slow'"),
]


class TestMistakes:
    @pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[m[0] for m in MISTAKES])
    def test_one_line_and_no_file(self, bad, tiny, monkeypatch, capfd, arguments, message):
        monkeypatch.chdir(bad)
        monkeypatch.setattr(
            pipeline, "load_model", lambda *s: tiny if s[0] == "tiny" else load_model(*s)
        )
        monkeypatch.setattr("sys.argv", ["memo_jax.sample", *arguments.split()])
        monkeypatch.setattr(signal, "signal", lambda *handler: None)
        before = sorted(bad.rglob("*"))
        with pytest.raises(SystemExit) as end:
            run("memo_jax.sample", sample.main)
        out, err = capfd.readouterr()
        assert end.value.code == 2
        assert out == "" and err.startswith("memo_jax.sample: ") and err.count("\n") == 1
        assert message in err
        assert sorted(bad.rglob("*")) == before

    @pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, 130), (UserError, 2)])
    def test_nothing_is_left_when_it_stops_halfway(
        self, pipe, tmp_path, sound, monkeypatch, capsys, error, status
    ):
        monkeypatch.setattr(Pipeline, "load", lambda model, **options: pipe)
        monkeypatch.setattr(signal, "signal", lambda *handler: None)
        folder = tmp_path / "made"
        folder.mkdir()

        def halfway(self):
            for _ in range(20):  # the encoder looks ahead before it writes
                yield np.zeros((16, 64, 64, 3), np.uint8)
            while not list(folder.iterdir()):
                time.sleep(0.01)
            raise error("stop")

        monkeypatch.setattr(pipeline.Run, "__iter__", halfway)
        arguments = ["--audio", str(sound(1.5)), "--output", str(folder / "o.mp4"), "--quiet"]
        monkeypatch.setattr("sys.argv", ["memo_jax.sample", *arguments])
        with pytest.raises(SystemExit) as end:
            run("memo_jax.sample", sample.main)
        assert end.value.code == status
        assert not list(folder.iterdir())
        assert capsys.readouterr().err.count("\n") == 1

    def test_an_older_video_stays(self, pipe, tmp_path, monkeypatch):
        (tmp_path / "o.mp4").write_bytes(b"older")
        monkeypatch.setattr(Pipeline, "load", lambda model, **options: pipe)
        monkeypatch.setattr(Pipeline, "start", lambda self, *a, **o: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sample.main(["--output", str(tmp_path / "o.mp4"), "--quiet"])
        assert [p.name for p in tmp_path.iterdir()] == ["o.mp4"]
        assert (tmp_path / "o.mp4").read_bytes() == b"older"


def command(*arguments):
    """The command as users start it, with the compilations of the tests before it."""
    settings = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "memo_jax.sample", *map(str, arguments)],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class TestProcess:
    def test_a_mistake(self, tmp_path):
        process = command("--image", "missing.png", "--output", tmp_path / "o.mp4")
        out, err = process.communicate(timeout=120)
        assert process.returncode == 2 and out == ""
        assert err.count("\n") == 1 and "missing.png" in err
        assert not list(tmp_path.iterdir())

    def test_sigterm_leaves_nothing(self, pipe, sound, tmp_path):
        folder = tmp_path / "made"
        folder.mkdir()
        process = command("--audio", sound(30), "--output", folder / "o.mp4", "--steps", 2)
        deadline = time.monotonic() + 200
        while not list(folder.iterdir()):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=100)
        assert process.returncode == 143, err
        assert not list(folder.iterdir()) and "Traceback" not in err
