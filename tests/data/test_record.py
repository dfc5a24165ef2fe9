"""Records of clips: to bytes and back to the bit, and whatever may be wrong with one."""

import dataclasses
import json
import pickle

import ml_dtypes
import numpy as np
import pytest
from PIL import Image
from safetensors import deserialize

from memo_jax.data import record as record_module
from memo_jax.data.clip import REASONS, BadRecord, Clip, Source, read_frame
from memo_jax.data.record import decode, encode, peek

BFLOAT16 = ml_dtypes.bfloat16


def random_clip(rng):
    """A clip of random sizes, with and without what is optional."""
    n, form = int(rng.integers(1, 30)), rng.integers(3)
    shape = (n, *rng.integers(1, 5, 3))
    dtype = (np.float16, BFLOAT16)[rng.integers(2)]
    latents = [rng.normal(size=shape).astype(dtype) if form else None for _ in range(2)]
    return Clip(
        images=tuple(rng.bytes(rng.integers(1, 50)) for _ in range(n)) if form != 1 else (),
        latents_mean=latents[0],
        latents_std=latents[1],
        size=int(rng.integers(1, 999)),
        fps=float(rng.uniform(10, 60)),
        audio=rng.normal(size=(n, *rng.integers(1, 13, 2))).astype(BFLOAT16),
        emotion=np.concatenate([[0], rng.integers(-1, 4, n - 1)]).astype(np.int8),
        emotions=("a", "b", "ć", "d"),
        face=rng.normal(size=rng.integers(1, 9)).astype(np.float32),
        identity="Zoë",
        clip_emotion="happy",
        corpus="MEAD",
        source=Source('a "quoted" file.mp4', float(rng.uniform()), float(rng.uniform(1, 2))),
        licence="research\nonly",
        scores={"sync": float(rng.normal()), "quality": 40.0},
        audio_features=("", "log-mel")[rng.integers(2)],
        **({"sound": rng.bytes(20), "sound_rate": 16000} if rng.integers(2) else {}),
    )


def assert_same(one, other):
    for field in dataclasses.fields(Clip):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, np.ndarray):
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()), field.name
        else:
            assert a == b, field.name


def with_header(data, edit):
    """The record with its header, a dict, changed in place by `edit`."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    edit(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def with_fields(data, **changed):
    """The record with fields of its metadata changed."""

    def edit(header):
        meta = header["__metadata__"]
        meta["memo_jax.clip"] = json.dumps(json.loads(meta["memo_jax.clip"]) | changed)

    return with_header(data, edit)


def unchecked(clip, monkeypatch):
    """The record of a clip that `encode` would refuse."""
    with monkeypatch.context() as patch:
        patch.setattr(record_module, "check", lambda clip: None)
        return encode(clip)


@pytest.mark.parametrize("seed", range(40))
def test_a_clip_comes_back_to_the_bit(seed):
    clip = random_clip(np.random.default_rng(seed))
    data = encode(clip)
    assert_same(clip, decode(data))
    assert encode(decode(data)) == data
    assert peek(data).layout == clip.layout == decode(data).layout


def test_a_record_is_a_file_that_safetensors_reads(make_clip):
    clip = make_clip()
    arrays = dict(deserialize(encode(clip)))
    assert arrays["audio"]["dtype"] == "BF16"
    assert arrays["audio"]["shape"] == list(clip.audio.shape)
    assert bytes(arrays["audio"]["data"]) == clip.audio.tobytes()


def test_every_way_to_cut_a_record_short_is_called_truncated(make_clip):
    data = encode(make_clip(n=2))
    assert decode(data)
    for end in range(len(data)):
        with pytest.raises(BadRecord) as caught:
            decode(data[:end])
        assert caught.value.code == "truncated"


def test_a_damaged_header_gives_no_other_error_than_a_bad_record(make_clip):
    data, rng, bad = encode(make_clip(n=2)), np.random.default_rng(0), 0
    header = 8 + int.from_bytes(data[:8], "little")
    for _ in range(3000):
        damaged = bytearray(data)
        for at in rng.integers(0, header, rng.integers(1, 4)):
            damaged[at] = rng.integers(256)
        for read in (decode, peek):
            try:
                read(bytes(damaged))
            except BadRecord as error:
                assert error.code in REASONS
                bad += 1
    assert bad > 3000  # letters of names may change unseen


def nan(array, at=-1):
    array = array.copy()
    array.flat[at] = np.nan
    return array


WRONG = {
    "nan-latents": lambda c: {"latents_std": nan(c.latents_std)},
    "nan-latents ": lambda c: {"latents_mean": nan(c.latents_mean, 0)},
    "nan-audio": lambda c: {"audio": nan(c.audio)},
    "nan-face": lambda c: {"face": c.face + np.float32(np.inf)},
    "no-emotion": lambda c: {"emotion": np.full(c.frames, -1, np.int8)},
    "no-audio": lambda c: {"audio": c.audio[:, :0]},
    "no-face": lambda c: {"face": c.face[:0]},
    "no-frames": lambda c: {"images": (), "latents_mean": None, "latents_std": None},
    "no-frames ": lambda c: {"latents_std": None},
    "emotion": lambda c: {"emotion": c.emotion + np.int8(1)},
    "emotion ": lambda c: {"emotion": c.emotion - np.int8(2)},
    "short": lambda c: {"emotion": c.emotion[:0]},
    "shape": lambda c: {"audio": c.audio[1:]},
    "shape ": lambda c: {"audio": c.audio.astype(np.float32)},
    "shape  ": lambda c: {"images": c.images[1:]},
    "shape   ": lambda c: {"latents_mean": c.latents_mean[:, 1:]},
    "shape    ": lambda c: {"emotion": c.emotion[None]},
    "header": lambda c: {"fps": 0.0},
    "header ": lambda c: {"sound_rate": 8000},
    "header  ": lambda c: {"identity": None},
}


@pytest.mark.parametrize("code", WRONG)
def test_what_is_wrong_with_a_clip_is_neither_written_nor_read(code, make_clip, monkeypatch):
    clip = make_clip(n=8)
    clip = dataclasses.replace(clip, **WRONG[code](clip))
    with pytest.raises(BadRecord) as caught:
        encode(clip)
    assert caught.value.code == code.strip()
    if code not in ("no-frames ", "header "):  # these do not reach the bytes
        with pytest.raises(BadRecord) as caught:
            decode(unchecked(clip, monkeypatch))
        assert caught.value.code == code.strip()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "change"),
    [
        ("no-audio", lambda d: with_header(d, lambda h: h.pop("audio"))),
        ("no-emotion", lambda d: with_header(d, lambda h: h.pop("emotion"))),
        ("no-face", lambda d: with_header(d, lambda h: h.pop("face"))),
        ("schema", lambda d: with_fields(d, schema=2)),
        ("header", lambda d: with_fields(d, scores=[])),
        ("header", lambda d: with_fields(d, size="large")),
        ("header", lambda d: with_fields(d, source={"file": "x", "middle": 1.0})),
        ("header", lambda d: with_header(d, lambda h: h.pop("__metadata__"))),
        ("header", lambda d: with_header(d, lambda h: h["audio"].update(dtype="F64"))),
        ("header", lambda d: with_header(d, lambda h: h["audio"].update(shape=[-8, -2, 3]))),
        ("shape", lambda d: with_header(d, lambda h: h.pop("image_ends"))),
        ("truncated", lambda d: b""),
        ("header", lambda d: (2).to_bytes(8, "little") + b"[]"),
    ],
)
def test_a_record_that_lacks_something_says_what(code, change, make_clip):
    with pytest.raises(BadRecord) as caught:
        decode(change(encode(make_clip(n=8))))
    assert caught.value.code == code


def test_entries_of_a_later_writer_are_passed_over(make_clip):
    clip = make_clip(n=8)
    data = with_fields(encode(clip), landmarks=[1, 2])
    data = with_header(data, lambda h: h.update(later=h["face"]))
    assert_same(clip, decode(data))


def test_a_record_that_does_not_tell_its_audio_features_is_read(make_clip):
    def untold(header):
        meta = header["__metadata__"]
        fields = json.loads(meta["memo_jax.clip"])
        del fields["audio_features"]
        meta["memo_jax.clip"] = json.dumps(fields)

    record = with_header(encode(make_clip(n=8)), untold)
    assert decode(record).audio_features == peek(record).layout.audio_features == ""


def test_pictures_are_decoded_one_at_a_time(make_clip, make_picture):
    clip = make_clip(7, n=4)
    cut_short, small = make_picture(7, 1)[:-20], make_picture(7, 2, size=8)
    clip = decode(encode(dataclasses.replace(clip, images=(clip.images[0], cut_short, small, b""))))
    np.testing.assert_array_equal(read_frame(clip, 0), np.broadcast_to([0, 7, 0], (16, 16, 3)))
    for index in (1, 2, 3):
        with pytest.raises(BadRecord, match=f"frame {index}") as caught:
            read_frame(clip, index)
        assert caught.value.code == "image"


def test_a_picture_of_a_kind_that_may_start_programs_is_not_opened(make_clip, tmp_path):
    file = tmp_path / "a.eps"
    Image.new("RGB", (16, 16)).save(file)
    clip = dataclasses.replace(make_clip(n=1), images=(file.read_bytes(),))
    with pytest.raises(BadRecord, match="image"):
        read_frame(clip, 0)


def test_a_bad_record_survives_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(BadRecord("short", "10 frames")))
    assert (error.code, error.text, str(error)) == ("short", "10 frames", "short: 10 frames")
