"""Cached latents: those that training would compute itself, in records that are else the same."""

import io
import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import smallest
from golden_case import relative_error
from PIL import Image
from small_model import random_module

from memo_jax.config import SamplerConfig
from memo_jax.data.clip import Clip, read_frame
from memo_jax.data.loader import Loader
from memo_jax.data.record import decode, encode
from memo_jax.data.report import Report
from memo_jax.data.store import Store, write_shards
from memo_jax.data.windows import WindowConfig
from memo_jax.errors import UserError
from memo_jax.puppets.truth import FIELDS, Truth, attach, truth_of
from memo_jax.train import conditions
from memo_jax.train.latents import __main__ as command
from memo_jax.train.latents import encode as encoding
from memo_jax.train.latents.__main__ import main
from memo_jax.train.latents.encode import add_latents
from memo_jax.weights.folder import Model, write_model
from memo_jax.weights.spec import ModelSpec, Part

SIZE = 8
LENGTHS = (5, 3, 9, 1, 4)
VAE = smallest.PARTS["vae"]


def picture(rng, size=SIZE):
    file = io.BytesIO()
    pixels = rng.integers(256, size=(size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


def clip_of(number, n, size=SIZE, **fields):
    rng = np.random.default_rng(number)
    usual = {
        "images": tuple(picture(rng, size) for _ in range(n)),
        "size": size,
        "fps": 25.0,
        "audio": rng.normal(size=(n, 2, 3)).astype(ml_dtypes.bfloat16),
        "emotion": np.zeros(n, np.int8),
        "emotions": ("calm", "glad"),
        "face": rng.normal(size=5).astype(np.float32),
        "identity": f"person {number}",
        "scores": {"sync": number / 7},
        "sound": b"a sound",
        "sound_rate": 16000,
    }
    return Clip(**usual | fields)


def record_of(number, n, **fields):
    """With entries that the schema does not know."""
    values = np.random.default_rng(number).normal(size=(n, len(FIELDS)))
    return attach(encode(clip_of(number, n, **fields)), Truth.from_array(values, number))


def entries(record):
    """Metadata, and every array's kind, shape and bytes."""
    length = int.from_bytes(record[:8], "little")
    header = json.loads(record[8 : 8 + length])
    arrays = record[8 + length :]
    assert sum(np.diff(e["data_offsets"])[0] for k, e in header.items() if k[:2] != "__") == len(
        arrays
    )
    return {
        name: entry
        if name == "__metadata__"
        else (entry["dtype"], entry["shape"], arrays[slice(*entry["data_offsets"])])
        for name, entry in header.items()
    }


def write_vae(folder, module=None, config=VAE):
    spec = ModelSpec("encoder", SamplerConfig(image_size=SIZE), {"vae": Part(config, "drawn")})
    write_model(folder, Model(spec, {"vae": module or random_module("vae", config)}))
    return folder


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents")
    write_vae(folder / "model")
    records = (record_of(i, n) for i, n in enumerate(LENGTHS))
    write_shards(folder / "data", records, shard_size=2)
    return folder


@pytest.fixture(scope="module")
def line(_folder):
    """The command's arguments for a new folder of this name."""

    def line(output, *more, data="data", model="model"):
        places = {"data": _folder / data, "model": _folder / model, "output": _folder / output}
        return [*(f"--{k}={v}" for k, v in places.items()), "--batch=4", "--quiet", *more]

    return line


@pytest.fixture(scope="module")
def cached(_folder, line):
    main(line("cached"))
    return Store(_folder / "cached")


@pytest.fixture(scope="module")
def on_the_fly():
    """A clip's posterior as the training step computes it."""
    vae = random_module("vae", VAE)
    run = jax.jit(lambda pictures: conditions.encoded(vae, pictures, frames=4))

    def on_the_fly(pictures):
        return [np.asarray(part) for part in run(jnp.asarray(pictures))]

    return on_the_fly


def assert_rounded(got, want):
    """`got` is `want` in float16; 1e-6 for sums in another order."""
    np.testing.assert_allclose(got, want, rtol=2**-11, atol=1e-6)


def assert_cached(clip, on_the_fly):
    """A clip's latents are those of its pictures."""
    pictures = np.stack([read_frame(clip, i) for i in range(clip.frames)])
    mean, std = on_the_fly(pictures[None])
    assert np.ptp(mean) > 0.1 and np.all(std > 0)
    assert_rounded(clip.latents_mean, mean[0])
    assert_rounded(clip.latents_std, std[0])


def test_latents_are_those_of_training_on_the_fly(cached, on_the_fly):
    assert len(cached) == len(LENGTHS) and cached.layout.latents == (4, 4, 4)
    for number, n in enumerate(LENGTHS):
        clip = decode(cached[number])
        assert clip.frames == n and clip.identity == f"person {number}"
        assert clip.latents_mean.dtype == clip.latents_std.dtype == np.float16
        assert_cached(clip, on_the_fly)


def test_the_loader_gives_the_same_windows_in_both_forms(cached, on_the_fly):
    def first(form):
        window = WindowConfig(frames=1, past_frames=2, form=form, decoupled=())
        loader = Loader(cached, window, batch_size=5, seed=3)
        batch = next(loader)
        loader.close()
        return batch

    pictures, latents = first("images"), first("latents")
    assert sorted(latents["record"]) == list(range(5))
    for name, of in (("latents", "frames"), ("past", "past"), ("reference", "reference")):
        several = pictures[of] if pictures[of].ndim == 5 else pictures[of][:, None]
        mean, std = (part.reshape(latents[f"{name}_mean"].shape) for part in on_the_fly(several))
        assert_rounded(latents[f"{name}_mean"], mean)
        assert_rounded(latents[f"{name}_std"], std)


@pytest.mark.parametrize("drop", [False, True])
def test_all_else_is_kept_to_the_byte(_folder, cached, line, drop):
    store = cached
    if drop:
        main(line("dropped", "--drop-images"))
        store = Store(_folder / "dropped")
        assert not store.layout.images
    before = Store(_folder / "data")
    for number in range(len(LENGTHS)):
        old, new = entries(before[number]), entries(store[number])
        added = {name: new.pop(name) for name in ("latents_mean", "latents_std")}
        if drop:
            assert old.pop("images") and old.pop("image_ends")
            assert added == {name: entries(cached[number])[name] for name in added}
        assert new == old and "truth" in new
        assert truth_of(store[number]).seed == number


def test_latents_that_are_there_are_replaced(_folder, cached, line):
    main(line("again", data="cached"))
    again = Store(_folder / "again")
    assert [again[i] for i in range(len(again))] == [cached[i] for i in range(len(cached))]


def test_it_tells_what_it_made(_folder, line, capsys):
    main(line("told"))
    told = capsys.readouterr()
    assert f"told: 5 clips, {sum(LENGTHS)} frames, in " in told.out and not told.err
    store = Store(_folder / "told")
    means = [decode(store[i]).latents_mean.ravel() for i in range(len(store))]
    deviation = np.concatenate(means).astype(float).std()
    assert f"standard deviation {deviation:.4g}, which a VAE's scaling" in told.out


def test_the_command_on_four_devices(_folder, line, on_the_fly):
    """Its batch of 5 becomes one of 8; the last is not full."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    words = [sys.executable, "-m", "memo_jax.train.latents", *line("devices"), "--batch=5"]
    subprocess.run(words, check=True, env=environment)
    devices = Store(_folder / "devices")
    for number in range(len(LENGTHS)):
        assert_cached(decode(devices[number]), on_the_fly)
    again = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert again.returncode == 2 and not again.stdout
    assert again.stderr.startswith("memo_jax.train.latents: ") and "exists already" in again.stderr
    assert len(again.stderr.splitlines()) == 1


def test_few_clips_are_read_ahead(_folder):
    """However long a set is, the first record comes after two batches."""
    write_shards(_folder / "long", (record_of(i, 4) for i in range(30)))
    read = []

    class Counting(Store):
        def __getitem__(self, record):
            read.append(record)
            return super().__getitem__(record)

    def encode(pictures):
        latents = jnp.zeros((len(pictures), 4, 4, 4))
        return latents, latents

    made = add_latents(Counting(_folder / "long"), encode, 4, Report())
    next(made)
    assert len(read) <= 3
    assert sum(1 for _ in made) == 29


def test_a_bad_clip_in_a_hundred_is_left_out_and_named(_folder, line, capsys):
    records = [record_of(i, 2) for i in range(120)]
    broken = clip_of(7, 2)
    records[7] = encode(clip_of(7, 2, images=(broken.images[0], b"no picture")))
    write_shards(_folder / "one-bad", records)
    main(line("mended", data="one-bad"))
    told = capsys.readouterr()
    assert "1 of 120 records cannot be used: 1 image" in told.err and "record 7 (" in told.err
    assert "119 clips, 238 frames" in told.out
    mended = Store(_folder / "mended")
    names = [decode(mended[i]).identity for i in range(len(mended))]
    assert names == [f"person {i}" for i in range(120) if i != 7]


def refused(folder, arguments, message):
    """One line, and nothing new in the folder."""
    before = sorted(os.listdir(folder))
    with pytest.raises(UserError, match=message) as error:
        main(arguments)
    assert "\n" not in str(error.value)
    assert sorted(os.listdir(folder)) == before


def test_more_bad_clips_stop_it(_folder, line):
    bad = clip_of(1, 2, images=(b"none", b"none"))
    write_shards(_folder / "half-bad", [clip_of(0, 2), bad])
    refused(_folder, line("x", data="half-bad"), r"1 of 2 records cannot be used: 1 image .*\[1\]")
    write_shards(_folder / "bad", [bad])
    refused(_folder, line("x", data="bad"), "1 of 1 records")


def test_latents_that_float16_cannot_hold(_folder, line):
    module = random_module("vae", VAE)
    module.quant_conv.bias[...] = jnp.full_like(module.quant_conv.bias[...], 1e5)
    write_vae(_folder / "huge", module)
    refused(_folder, line("x", model="huge"), r"record 0 \(.*\[0\]\): the mean .* reaches 10000\d,")
    module.quant_conv.bias[...] = jnp.full_like(module.quant_conv.bias[...], jnp.nan)
    write_vae(_folder / "nan", module)
    refused(_folder, line("x", model="nan"), "reaches nan, float16 ends at 65504")


def test_a_run_encodes_with_what_it_has_made(_folder, line, monkeypatch):
    run = _folder / "run"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(_folder / "model" / "model.json", run)
    monkeypatch.setattr(command, "run_model", lambda path, tell: _folder / "model")
    main(line("by-run", model="run"))
    assert Store(_folder / "by-run").layout.latents == (4, 4, 4)


def test_an_interrupt_leaves_nothing(_folder, line, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    before = sorted(os.listdir(_folder))
    monkeypatch.setattr(encoding, "_fill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        main(line("x"))
    assert sorted(os.listdir(_folder)) == before


@pytest.mark.parametrize(
    ("places", "more", "message"),
    [
        ({"data": "dropped"}, [], "dropped has no pictures to encode"),
        ({"data": "nowhere"}, [], "nowhere is no data set"),
        ({"data": "odd"}, [], "pictures of 9 pixels a side, expected a multiple of 2"),
        ({"model": "nowhere"}, [], "no model"),
        ({"model": "blind"}, [], "blind has no VAE"),
        ({}, ["--batch=0"], "--batch 0, expected 1 or more"),
        ({}, ["--shard-size=0"], "shard_size 0, expected 1 or more"),
    ],
)
def test_mistakes_are_told_in_one_line(_folder, line, places, more, message):
    made = {
        "dropped": lambda path: write_shards(path, [without_pictures()]),
        "odd": lambda path: write_shards(path, [clip_of(0, 1, size=9)]),
        "blind": lambda path: write_model(path, Model(ModelSpec("x", SamplerConfig(), {}))),
    }
    for name in places.values():
        if name in made and not (_folder / name).exists():
            made[name](_folder / name)
    refused(_folder, line("x", *more, **places), message)


def test_an_output_that_is_there_is_refused_before_the_model_is_looked_for(_folder, line):
    refused(_folder, line("data", model="nowhere"), "data exists already")


def without_pictures():
    latents = np.zeros((1, 4, 4, 4), np.float16)
    return clip_of(0, 1, images=(), latents_mean=latents, latents_std=latents)


def test_bfloat16_is_asked_for(_folder, cached, line):
    main(line("half", "--dtype=bfloat16"))
    half = decode(Store(_folder / "half")[0])
    assert 1e-4 < relative_error(half.latents_mean, decode(cached[0]).latents_mean) < 3e-2
