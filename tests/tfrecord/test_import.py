"""TFRecords in, and the training loader reads them out, sample for sample."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
import soxr
from tfrecord import writing
from tfrecord.writing import FPS, MAP, RATE, SIZE

from memo_jax.audio.emotion import EMOTIONS
from memo_jax.audio.logmel import log_mel
from memo_jax.audio.timing import windows
from memo_jax.data.clip import BFLOAT16, read_frame
from memo_jax.data.loader import Loader
from memo_jax.data.record import decode
from memo_jax.data.store import Store
from memo_jax.data.windows import WindowConfig
from memo_jax.pipeline.scene import pixel_identity

WINDOW = WindowConfig(frames=4, past_frames=3, still_past=0, audio_edge=0)


def clips(folder):
    store = Store(folder)
    return [decode(store[i]) for i in range(len(store))]


def pictures(clip):
    return np.stack([read_frame(clip, i) for i in range(clip.frames)])


def sound(clip):
    """int16, from the stored file."""
    with av.open(io.BytesIO(clip.sound)) as file:
        return np.concatenate([frame.to_ndarray()[0] for frame in file.decode(audio=0)])


def test_wav_and_pictures_come_out_of_the_loader_as_they_went_in(command, tmp_path):
    """In three files, one of each compression."""
    for f, compression in enumerate(["", "GZIP", "ZLIB"]):
        examples = [writing.example(writing.clip(4 * f + i)) for i in range(4)]
        writing.write(tmp_path / f"{f}.tfrecord", examples, compression)
    command("--threads", 2, "--shard-size", 3)
    store = Store(command.output)
    assert len(store) == 12
    frames = np.stack([[writing.picture(k, i) for i in range(20)] for k in range(12)])
    heard = [log_mel(writing.tone(k, 0.8) / np.float32(32768), 20, FPS) for k in range(12)]
    loader = Loader(store, WINDOW, batch_size=4, seed=3)
    seen = set()
    for _ in range(3):
        batch = next(loader)
        for row, k in enumerate(batch["record"].tolist()):
            seen.add(k)
            start = int(batch["frames"][row, 0, 0, 0, 0]) // 8
            past = np.maximum(np.arange(start - 3, start), 0)
            np.testing.assert_array_equal(batch["frames"][row], frames[k, start : start + 4])
            np.testing.assert_array_equal(batch["past"][row], frames[k, past])
            expected = windows(heard[k].astype(BFLOAT16), start=start, stop=start + 4)
            np.testing.assert_array_equal(batch["audio"][row], expected)
            np.testing.assert_array_equal(
                batch["face"][row], pixel_identity(writing.picture(k, 10), 192)
            )
            assert EMOTIONS[batch["emotion"][row]] == ["happy", "sad"][k % 2]
    loader.close()
    assert seen == set(range(12))
    for k, clip in enumerate(clips(command.output)):
        np.testing.assert_array_equal(sound(clip), writing.tone(k, 0.8))
        assert clip.images[0] == writing.png(writing.picture(k, 0))  # not made anew
        assert (clip.fps, clip.frames, clip.size) == (FPS, 20, SIZE)
        assert (clip.identity, clip.clip_emotion) == (f"person {k % 2}", ["happy", "sad"][k % 2])
        assert (clip.licence, clip.source.file) == ("test", f"{k // 4}.tfrecord[{k % 4}]")


def test_mp4_frames_and_sound_are_what_a_decoder_makes_of_them(command, tmp_path):
    shown = [[writing.picture(k, i, 2 * SIZE) for i in range(25)] for k in range(2)]
    files = [writing.mp4(shown[k], writing.tone(k, 1)) for k in range(2)]
    writing.write(tmp_path / "a.tfrecord", [writing.example({"video": data}) for data in files])
    record_map = {"video": {"feature": "video"}, "emotion": {"value": "neutral"}}
    command("--size", 2 * SIZE, record_map=record_map)
    for k, clip in enumerate(clips(command.output)):
        with av.open(io.BytesIO(files[k])) as file:
            expected = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
        np.testing.assert_array_equal(pictures(clip), np.stack(expected))
        error = np.abs(pictures(clip).astype(int) - np.stack(shown[k]))
        assert error.mean() < 4  # what H.264 does to flat colours; a frame later is 8 off in red
        heard, told = sound(clip).astype(float), writing.tone(k, 1).astype(float)
        assert len(heard) == len(told)
        assert np.corrcoef(heard, told)[0, 1] > 0.99  # AAC; no sample later
        assert clip.fps == FPS
    assert len(clips(command.output)) == 2


def sequence(k, n=20):
    values = writing.clip(k, n, frames=None, wav=None, label=None)
    values |= {"pcm": writing.tone(k, n / FPS, 8000), "rate": 8000, "label": k}
    frames = [writing.png(writing.picture(k, i)) for i in range(n)]
    return writing.sequence_example(values, {"frames": frames})


def test_sequences_of_pictures_with_samples_at_another_rate(command, tmp_path):
    writing.write(tmp_path / "a.tfrecord", [sequence(k) for k in range(3)])
    record_map = MAP | {
        "audio": {"feature": "pcm", "form": "int16"},
        "audio_rate": {"feature": "rate"},
        "emotion": {"feature": "label", "names": ["angry", "Sad", "happy"]},
    }
    record_map["emotion"]["names"][1] = "sad"
    command(record_map=record_map)
    found = clips(command.output)
    assert [clip.clip_emotion for clip in found] == ["angry", "sad", "happy"]
    for k, clip in enumerate(found):
        np.testing.assert_array_equal(
            pictures(clip), np.stack([writing.picture(k, i) for i in range(20)])
        )
        wide = soxr.resample(writing.tone(k, 0.8, 8000) / np.float32(32768), 8000, RATE)
        np.testing.assert_array_equal(sound(clip), np.rint(wide * 32768))


SAMPLES = writing.tone(5, 0.8)
FORMS = {
    "file": writing.wav(SAMPLES),
    "float": (SAMPLES / np.float32(32768)).astype(np.float32),
    "int16": SAMPLES,
    "bytes-int16": SAMPLES.astype("<i2").tobytes(),
    "bytes-float32": (SAMPLES / np.float32(32768)).astype("<f4").tobytes(),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("channels", [1, 2])
def test_each_form_of_sound_gives_the_same_samples(form, channels, command, tmp_path):
    if form == "file":
        value = FORMS[form]
    elif form.startswith("bytes"):
        whole = np.frombuffer(FORMS[form], "<i2" if form == "bytes-int16" else "<f4")
        value = np.repeat(whole, channels).tobytes()
    else:
        value = np.repeat(FORMS[form], channels)
    writing.write(tmp_path / "a.tfrecord", [writing.example(writing.clip(0, wav=value))])
    record_map = MAP | {
        "audio": {"feature": "wav", "form": form},
        "audio_rate": {"value": RATE},
        "audio_channels": {"value": channels},
    }
    command(record_map=record_map)
    np.testing.assert_array_equal(sound(clips(command.output)[0]), SAMPLES)


def test_clips_end_with_the_shorter_of_pictures_and_sound(command, tmp_path):
    """30 frames last 1.2 s, and the sound 0.8 s; then the other way about."""
    long, short = writing.tone(0, 1.2), writing.tone(0, 0.8)
    examples = [
        writing.clip(0, 30, wav=writing.wav(short)),
        writing.clip(0, 20, wav=writing.wav(long)),
    ]
    writing.write(tmp_path / "a.tfrecord", map(writing.example, examples))
    command()
    for clip in clips(command.output):
        assert clip.frames == 20
        np.testing.assert_array_equal(sound(clip), long[: len(short)])


def video_with(times, begun=0.0):
    """FFV1 in Matroska: picture i is shown from times[i] (s); its sound starts at `begun`."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as out:
        video = out.add_stream("ffv1", rate=FPS)
        video.height = video.width = SIZE
        video.pix_fmt = "bgr0"  # all 8 bits of red, green and blue
        video.codec_context.time_base = Fraction(1, 1000)
        track = out.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for i, t in enumerate(times):
            frame = av.VideoFrame.from_ndarray(writing.picture(0, i), format="rgb24")
            frame = frame.reformat(format="bgr0")
            frame.pts, frame.time_base = round(1000 * t), Fraction(1, 1000)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        heard = av.AudioFrame.from_ndarray(LONG[None], format="s16", layout="mono")
        heard.sample_rate, heard.time_base = RATE, Fraction(1, RATE)
        heard.pts = round(begun * RATE)
        out.mux(track.encode(heard))
        out.mux(track.encode(None))
    return file.getvalue()


LONG = writing.tone(0, 3)
VIDEO = {"video": {"feature": "video"}, "emotion": {"value": "neutral"}}


def imported(command, tmp_path, data, **fields):
    writing.write(tmp_path / "a.tfrecord", [writing.example({"video": data})])
    command(record_map=VIDEO | fields)
    return clips(command.output)[0]


def test_a_variable_rate_shows_each_moment_what_a_player_shows(command, tmp_path):
    """Frames 0 to 9 last 0.04 s, then 10 to 19 for 0.08 s."""
    times = [0.04 * i for i in range(10)] + [0.4 + 0.08 * i for i in range(10)]
    clip = imported(command, tmp_path, video_with(times), fps={"value": 25})
    shown = (pictures(clip)[:, 0, 0, 0] // 8).tolist()
    assert shown == [*range(10), *np.repeat(range(10, 19), 2), 19]


@pytest.mark.parametrize("begun", [-0.2, 0.2])
def test_sound_that_starts_at_another_time_than_the_pictures_stays_in_step(
    begun, command, tmp_path
):
    first = max(0.0, -begun)
    data = video_with([first + 0.04 * i for i in range(40)], max(0.0, begun))
    heard = sound(imported(command, tmp_path, data))
    n = round(0.2 * RATE)
    expected = np.pad(LONG, (n, 0)) if begun > 0 else LONG[n:]
    np.testing.assert_array_equal(heard, expected[: len(heard)])


def test_wide_frames_give_the_middle_square(command, tmp_path):
    wide = [np.pad(writing.picture(0, i), ((0, 0), (16, 16), (0, 0))) for i in range(20)]
    values = writing.clip(0, frames=[writing.png(frame) for frame in wide])
    writing.write(tmp_path / "a.tfrecord", [writing.example(values)])
    command()
    np.testing.assert_array_equal(
        pictures(clips(command.output)[0]), np.stack([writing.picture(0, i) for i in range(20)])
    )
