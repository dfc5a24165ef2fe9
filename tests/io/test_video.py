"""Written videos: exact frames, exact length, the original sound, whole or not at all."""

import os
import subprocess
import sys
import threading
from fractions import Fraction

import av
import numpy as np
import pytest

from memo_jax.errors import UserError
from memo_jax.io import video_write
from memo_jax.io.sound import read_recording
from memo_jax.io.video import VideoWriter, check_output, probe, read_video

LENGTHS = (0.1, 0.13, 0.2, 0.34, 0.5, 1.0, 1.037, 2.96, 7.01, 16.0, 61.0)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize(("fps", "rate"), [(25, 8000), (30, 16000), (25, 44100), (30, 48000)])
def test_sound_and_pictures_end_together(tmp_path, encode_sound, sweep, count_frames, fps, rate):
    for seconds in LENGTHS:
        if seconds > 8 and rate > 16000:
            continue  # FFmpeg's AAC encoder is slow at these rates
        sound = encode_sound(tmp_path / "a.wav", sweep(seconds, rate)[None], rate)
        with VideoWriter(tmp_path / "o.mp4", 32, 32, fps, sound) as writer:
            writer.write(count_frames(round(seconds * fps)))
        info = probe(tmp_path / "o.mp4")
        assert info.frames == round(seconds * fps)
        assert info.video_seconds == pytest.approx(info.frames / fps, abs=1e-3)
        assert abs(info.video_seconds - info.audio_seconds) < 1e-3
        assert abs(info.audio_seconds - seconds) < 1 / fps
        heard = read_recording(tmp_path / "o.mp4").duration
        assert abs(heard - info.video_seconds) < 1e-3


@pytest.mark.parametrize("extension", [".mov", ".mkv", ".MP4"])
@pytest.mark.parametrize("seconds", [0.1, 0.5, 3.0])
def test_other_containers_end_within_a_frame(tmp_path, speech, count_frames, extension, seconds):
    path = tmp_path / f"o{extension}"
    with VideoWriter(path, 32, 32, 30, speech) as writer:
        writer.write(count_frames(round(seconds * 30)))
    info = probe(path)
    assert (info.video_codec, info.audio_codec) == ("h264", "aac")
    assert abs(info.video_seconds - info.audio_seconds) < 1 / 30


@pytest.mark.parametrize("fps", [24, 25, 29.97, 30, 30.0, Fraction(30000, 1001), 60])
def test_every_frame_once_and_at_its_tick(tmp_path, count_frames, fps):
    frames = count_frames(160)
    with VideoWriter(tmp_path / "o.mp4", 32, 32, fps) as writer:
        for start in range(0, 160, 7):
            writer.write(frames[start : start + 7])
    got, rate = read_video(tmp_path / "o.mp4")
    assert rate == Fraction(fps).limit_denominator(1001)
    np.testing.assert_allclose(got[:, 16, 16, 0], frames[:, 0, 0, 0], atol=3)
    with av.open(str(tmp_path / "o.mp4")) as file:
        times = [frame.pts * frame.time_base for frame in file.decode(video=0)]
    assert times == [k / rate for k in range(160)]


def test_sound_is_the_original_one(tmp_path, speech, count_frames):
    with VideoWriter(tmp_path / "o.mp4", 32, 32, 25, speech) as writer:
        writer.write(count_frames(50))
    with av.open(str(tmp_path / "o.mp4")) as got, av.open(str(speech)) as want:
        stream = got.streams.audio[0]
        assert (stream.rate, stream.layout.name) == (44100, "stereo")
        a = np.concatenate([f.to_ndarray() for f in got.decode(audio=0)], axis=1)
        b = np.concatenate([f.to_ndarray().reshape(-1, 2) for f in want.decode(audio=0)]).T
    for channel in range(2):
        assert np.corrcoef(a[channel, : b.shape[1]], b[channel])[0, 1] > 0.999


@pytest.mark.parametrize(
    ("rate", "want"), [(6000, 7350), (16000, 16000), (37800, 44100), (192000, 96000)]
)
def test_sample_rates_that_aac_lacks(tmp_path, encode_sound, sweep, count_frames, rate, want):
    sound = encode_sound(tmp_path / "a.wav", sweep(1.0, rate)[None], rate)
    with VideoWriter(tmp_path / "o.mp4", 32, 32, 25, sound) as writer:
        writer.write(count_frames(25))
    with av.open(str(tmp_path / "o.mp4")) as file:
        assert file.streams.audio[0].rate == want
    got, wanted = read_recording(tmp_path / "o.mp4"), read_recording(sound)
    n = min(len(got.samples), len(wanted.samples))
    assert np.corrcoef(got.samples[:n], wanted.samples[:n])[0, 1] > 0.999


def test_surround_is_mixed_to_stereo(tmp_path, encode_sound, count_frames):
    tone = np.sin(np.arange(48000) * 0.05)[None] * np.full((6, 1), 0.1)
    sound = encode_sound(tmp_path / "a.wav", tone, 48000, ("pcm_s16le", "s16"), "5.1")
    with VideoWriter(tmp_path / "o.mp4", 32, 32, 25, sound) as writer:
        writer.write(count_frames(25))
    with av.open(str(tmp_path / "o.mp4")) as file:
        assert file.streams.audio[0].layout.name == "stereo"
    assert probe(tmp_path / "o.mp4").audio_seconds == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("fps", [25, 30])
def test_a_click_is_heard_at_its_frame(tmp_path, encode_sound, count_frames, fps):
    samples = np.zeros((1, 48000))
    samples[0, 24000:24100] = 0.9
    sound = encode_sound(tmp_path / "a.wav", samples, 48000)
    with VideoWriter(tmp_path / "o.mp4", 32, 32, fps, sound) as writer:
        writer.write(count_frames(fps))
    heard = np.abs(read_recording(tmp_path / "o.mp4", 48000).samples).argmax() / 48000
    assert heard == pytest.approx(0.5, abs=0.003)


def test_odd_sides_are_made_even_and_colours_kept(tmp_path):
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 150, 90]], np.uint8)
    frames = np.broadcast_to(colours[:, None, None], (4, 33, 35, 3))
    with VideoWriter(tmp_path / "o.mp4", 35, 33, 25, crf=10) as writer:
        writer.write(frames)
    got, _ = read_video(tmp_path / "o.mp4")
    assert got.shape == (4, 34, 36, 3)
    np.testing.assert_allclose(got, np.broadcast_to(colours[:, None, None], got.shape), atol=4)
    assert probe(tmp_path / "o.mp4").audio_seconds is None


def test_browsers_play_it(tmp_path, speech, count_frames):
    with VideoWriter(tmp_path / "o.mp4", 32, 32, 25, speech, metadata={"seed": "3"}) as writer:
        writer.write(count_frames(25))
    data = (tmp_path / "o.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays before it is loaded
    with av.open(str(tmp_path / "o.mp4")) as file:
        assert file.streams.video[0].pix_fmt == "yuv420p"
        frame = next(file.decode(video=0))
        assert (int(frame.colorspace), int(frame.color_range)) == (1, 1)
        assert file.metadata["seed"] == "3"
        kinds = "".join(p.stream.type[0] for p in file.demux() if p.size)
    assert "va" in kinds and kinds.count("av") > 1, "sound and pictures are interleaved"


def test_nothing_is_left_after_an_exception(tmp_path, speech, count_frames):
    before = names(tmp_path)
    for error in (RuntimeError, KeyboardInterrupt, UserError):
        with pytest.raises(error), VideoWriter(tmp_path / "o.mp4", 32, 32, 25, speech) as writer:
            writer.write(count_frames(40))
            raise error("stop")
    assert names(tmp_path) == before


def test_an_earlier_file_stays_when_writing_fails(tmp_path, count_frames):
    (tmp_path / "o.mp4").write_bytes(b"earlier")
    with pytest.raises(KeyError), VideoWriter(tmp_path / "o.mp4", 32, 32, 25) as writer:
        writer.write(count_frames(4))
        raise KeyError
    assert (tmp_path / "o.mp4").read_bytes() == b"earlier"
    with VideoWriter(tmp_path / "o.mp4", 32, 32, 25) as writer:
        writer.write(count_frames(4))
    assert probe(tmp_path / "o.mp4").frames == 4
    assert names(tmp_path) == ["o.mp4"]


def test_no_frame_is_told(tmp_path):
    with (
        pytest.raises(UserError, match="got no frame"),
        VideoWriter(tmp_path / "o.mp4", 32, 32, 25),
    ):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("at_end", [False, True])
def test_an_error_of_the_thread_reaches_the_caller(tmp_path, monkeypatch, count_frames, at_end):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(VideoWriter, "_finish" if at_end else "_encode", full)
    threads = threading.active_count()
    with (
        pytest.raises(UserError, match="No space left"),
        VideoWriter(tmp_path / "o.mp4", 32, 32, 25) as writer,
    ):
        for _ in range(10):
            writer.write(count_frames(2))
    assert names(tmp_path) == []
    assert threading.active_count() == threads


def test_memory_is_bounded(tmp_path, monkeypatch, count_frames):
    gate = threading.Event()
    encode = VideoWriter._encode
    monkeypatch.setattr(VideoWriter, "_encode", lambda self, f: (gate.wait(), encode(self, f)))
    done = []

    def feed():
        with VideoWriter(tmp_path / "o.mp4", 32, 32, 25) as writer:
            for _ in range(10):
                writer.write(count_frames(1))
                done.append(1)

    thread = threading.Thread(target=feed)
    thread.start()
    thread.join(0.3)
    assert len(done) <= video_write.WAITING + 1
    gate.set()
    thread.join()
    assert probe(tmp_path / "o.mp4").frames == 10


def test_frames_may_be_changed_after_write(tmp_path, count_frames):
    buffer = np.full((8, 32, 32, 3), 200, np.uint8)
    with VideoWriter(tmp_path / "o.mp4", 32, 32, 25) as writer:
        writer.write(buffer)
        buffer[:] = 0
    np.testing.assert_allclose(read_video(tmp_path / "o.mp4")[0], 200, atol=2)


def test_programming_mistakes_raise(tmp_path, count_frames):
    writer = VideoWriter(tmp_path / "o.mp4", 32, 32, 25)
    with pytest.raises(RuntimeError, match="with block"):
        writer.write(count_frames(1))
    for bad in (np.zeros((1, 32, 31, 3), np.uint8), np.zeros((1, 32, 32, 3))):
        with pytest.raises(ValueError, match="expected uint8 frames"):
            writer.write(bad)


def test_bad_outputs_are_told_before_any_work(tmp_path, monkeypatch):
    (tmp_path / "d.mp4").mkdir()
    cases = {
        "o.avi": "expected one of .mp4, .mov, .mkv",
        "o": "extension ''",
        "no/o.mp4": "does not exist",
        "d.mp4": "is a folder",
    }
    for name, text in cases.items():
        for check in (check_output, lambda p: VideoWriter(p, 32, 32, 25)):
            with pytest.raises(UserError, match=text):
                check(tmp_path / name)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.touch", refuse)
    with pytest.raises(UserError, match="Permission denied"):
        check_output(tmp_path / "o.mp4")
    assert names(tmp_path) == ["d.mp4"]


@pytest.mark.parametrize("fps", [0, -1, 1000, float("nan"), float("inf")])
def test_bad_frame_rates_are_told(tmp_path, fps):
    with pytest.raises(UserError, match="fps"):
        VideoWriter(tmp_path / "o.mp4", 32, 32, fps)


def test_bad_crf_and_sound_are_told(tmp_path):
    with pytest.raises(UserError, match="crf"):
        VideoWriter(tmp_path / "o.mp4", 32, 32, 25, crf=99)
    with pytest.raises(UserError, match="does not exist"):
        VideoWriter(tmp_path / "o.mp4", 32, 32, 25, tmp_path / "no.wav")


def test_reading_mistakes_are_told(tmp_path, speech):
    for read in (read_video, probe):
        with pytest.raises(UserError, match="has no pictures"):
            read(speech)
        with pytest.raises(UserError, match="does not exist"):
            read(tmp_path / "no.mp4")


WRITE = """
import sys
import numpy as np
from memo_jax.io.video import VideoWriter
height, width = 64, int(sys.argv[1])
drift = np.cumsum(np.random.default_rng(0).normal(scale=8, size=(120, 400, 3)), 1) % 256
frames = np.stack([drift[k : k + height, 2 * k : 2 * k + width] for k in range(12)])
with VideoWriter(sys.argv[2], width, height, 25) as writer:
    writer.write(frames.astype(np.uint8))
"""


@pytest.mark.parametrize("width", [64, 128, 200])
def test_same_frames_same_file_whatever_the_memory_held(tmp_path, width):
    """The encoder once read behind its rows: what lay there (set here by the C library's own
    switch, where it has one) was to be seen in the file."""
    files = []
    for held in (0, 85, 170):
        path = tmp_path / f"{held}.mp4"
        environment = os.environ | {"MALLOC_PERTURB_": str(held)}
        command = [sys.executable, "-c", WRITE, str(width), str(path)]
        subprocess.run(command, env=environment, check=True)
        files.append(path.read_bytes())
    assert files[0] == files[1] == files[2]
