"""Any recording becomes the same mono samples."""

import wave

import av
import numpy as np
import pytest

from memo_jax.errors import UserError
from memo_jax.io.sound import read_recording
from memo_jax.io.video import VideoWriter

RATE = 16000


def correlation(a, b):
    n = min(len(a), len(b))
    return np.corrcoef(a[:n], b[:n])[0, 1]


KINDS = ("wav", "mp3", "m4a", "flac", "mp4", "mkv")
CASES = [(kind, rate) for kind in KINDS for rate in (16000, 44100, 48000)]


@pytest.mark.parametrize(("kind", "rate"), [*CASES, ("ogg", 16000), ("ogg", 48000)])
def test_every_format_gives_the_same_samples(tmp_path, encode_sound, sweep, kind, rate):
    path = encode_sound(tmp_path / f"a.{kind}", sweep(1.5, rate)[None], rate)
    recording = read_recording(path)
    assert recording.samples.dtype == np.float32
    assert recording.sample_rate == RATE
    assert recording.path == path
    # Matroska does not say where the last AAC frame's padding begins: up to 1024 samples.
    slack = 1024 / rate if kind == "mkv" else 0.002
    assert recording.duration == pytest.approx(1.5, abs=slack)
    # FFmpeg's AAC encoder distorts the last frames. One sample's shift would give 0.99.
    n = round(1.4 * RATE)
    assert correlation(recording.samples[:n], sweep(1.5, RATE)[:n]) > 0.998


def write_wav(path, data, rate, width, channels):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_integer_wavs_of_every_width(tmp_path, sweep, width):
    want = sweep(0.5, RATE)
    bits = 8 * width
    values = np.rint(want * (2 ** (bits - 1) - 1)).astype(np.int64)
    if width == 1:
        data = (values + 128).astype(np.uint8).tobytes()
    else:
        data = b"".join(int(v).to_bytes(width, "little", signed=True) for v in values)
    write_wav(tmp_path / "a.wav", data, RATE, width, 1)
    got = read_recording(tmp_path / "a.wav").samples
    np.testing.assert_allclose(got, want, atol=2.0 ** (1 - bits) + 1e-4 * (width > 1))


@pytest.mark.parametrize("codec", [("pcm_f32le", "flt"), ("pcm_f64le", "dbl")])
def test_float_wavs(tmp_path, encode_sound, sweep, codec):
    want = sweep(0.5, RATE)
    path = encode_sound(tmp_path / "a.wav", want[None], RATE, codec)
    np.testing.assert_allclose(read_recording(path).samples, want, atol=1e-6)


@pytest.mark.parametrize(("layout", "channels"), [("mono", 1), ("stereo", 2), ("5.1", 6)])
def test_mono_is_the_mean_of_the_channels(tmp_path, encode_sound, layout, channels):
    levels = np.arange(1, channels + 1)[:, None] / 10
    samples = np.broadcast_to(levels, (channels, 4000))
    path = encode_sound(tmp_path / "a.wav", samples, RATE, ("pcm_f32le", "flt"), layout)
    np.testing.assert_allclose(read_recording(path).samples, levels.mean(), atol=1e-6)


def test_resampling_in_pieces_equals_resampling_at_once(tmp_path, encode_sound, sweep):
    soxr = pytest.importorskip("soxr")
    source = sweep(3.0, 44100).astype(np.float32)
    path = encode_sound(tmp_path / "a.wav", source[None], 44100, ("pcm_f32le", "flt"))
    got = read_recording(path).samples
    want = soxr.resample(source, 44100, RATE, "HQ")
    assert abs(len(got) - len(want)) <= 1
    np.testing.assert_allclose(got[:48000], want[:48000], atol=1e-5)


def test_silence_is_a_recording(tmp_path, encode_sound):
    path = encode_sound(tmp_path / "a.flac", np.zeros((1, RATE)), RATE)
    assert not read_recording(path).samples.any()


def test_change_of_channels_and_rate_inside_a_stream(tmp_path, encode_sound):
    """Two mp3 files in a row are one stream that changes."""
    tone = np.full((1, 32000), 0.25)
    first = encode_sound(tmp_path / "a.mp3", tone, 32000).read_bytes()
    second = encode_sound(tmp_path / "b.mp3", np.repeat(tone, 2, 0), 48000).read_bytes()
    (tmp_path / "c.mp3").write_bytes(first + second)
    assert read_recording(tmp_path / "c.mp3").duration == pytest.approx(1 + 32 / 48, abs=0.2)


def test_first_of_several_audio_streams(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        streams = [output.add_stream("pcm_s16le", rate=RATE, layout="mono") for _ in range(2)]
        for level, stream in zip((8192, 0), streams, strict=True):
            data = np.full((1, RATE), level, np.int16)
            frame = av.AudioFrame.from_ndarray(data, format="s16", layout="mono")
            frame.sample_rate = RATE
            output.mux(stream.encode(frame))
    np.testing.assert_allclose(read_recording(tmp_path / "a.mkv").samples, 0.25)


def float_wav(path, encode_sound, values):
    return encode_sound(path, np.asarray(values)[None], RATE, ("pcm_f32le", "flt"))


def test_mistakes_are_told(tmp_path, encode_sound):
    (tmp_path / "text.wav").write_text("this is no sound")
    (tmp_path / "empty.wav").touch()
    write_wav(tmp_path / "none.wav", b"", RATE, 2, 1)
    bad = np.zeros(2000)
    bad[700] = np.nan
    float_wav(tmp_path / "nan.wav", encode_sound, bad)
    cases = {
        "no.wav": "does not exist",
        "tex.wav": "did you mean 'text.wav'",
        "no/such/a.wav": "there is no folder",
        ".": "is a folder",
        "text.wav": "is not media",
        "empty.wav": "is empty",
        "none.wav": "no sound samples",
        "nan.wav": "not finite",
    }
    for name, text in cases.items():
        with pytest.raises(UserError, match=text) as told:
            read_recording(tmp_path / name)
        assert "\n" not in str(told.value)
        assert str(tmp_path / name) in str(told.value)


def test_a_playlist_opens_no_other_file(tmp_path, encode_sound, sweep):
    encode_sound(tmp_path / "a.wav", sweep(0.5, RATE)[None], RATE)
    (tmp_path / "list.ffconcat").write_text("ffconcat version 1.0\nfile http://127.0.0.1:9/a\n")
    with pytest.raises(UserError):
        read_recording(tmp_path / "list.ffconcat")


def test_an_unknown_codec_is_told(tmp_path, encode_sound, sweep):
    path = encode_sound(tmp_path / "a.mkv", sweep(0.5, RATE)[None], RATE)
    path.write_bytes(path.read_bytes().replace(b"A_AAC", b"A_ZZZ"))
    with pytest.raises(UserError, match="FFmpeg cannot decode"):
        read_recording(path)
    with pytest.raises(UserError, match="FFmpeg cannot decode"):
        VideoWriter(tmp_path / "o.mp4", 32, 32, 25, path)
