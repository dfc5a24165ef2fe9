"""Clips whose pictures and sound say which clip and which frame they are of."""

import io
import json

import ml_dtypes
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from PIL import Image

from memo_jax.data.clip import Clip, Source
from memo_jax.data.store import write_shards

SIZE = 16
EMOTIONS = ("angry", "happy", "sad")


def picture(number, index, size=SIZE):
    """A PNG of one colour: red says the frame, green the clip."""
    file = io.BytesIO()
    Image.new("RGB", (size, size), (index, number, 0)).save(file, "PNG", compress_level=1)
    return file.getvalue()


def clip_of(number=0, n=40, **fields):
    """Clip `number` of `n` frames (both under 256); audio and latents hold the frame's index."""
    index = np.arange(n, dtype=np.float32)
    latents = np.broadcast_to(index[:, None, None, None], (n, 2, 2, 4))
    defaults = {
        "images": tuple(picture(number, i) for i in range(n)),
        "latents_mean": latents.astype(ml_dtypes.bfloat16),
        "latents_std": (latents + 0.5).astype(np.float16),
        "size": SIZE,
        "fps": 25.0,
        "audio": np.broadcast_to(index[:, None, None], (n, 2, 3)).astype(ml_dtypes.bfloat16),
        "emotion": (np.arange(n) % 3).astype(np.int8),
        "emotions": EMOTIONS,
        "face": np.full(5, number, np.float32),
        "identity": f"person{number % 3}",
        "corpus": "HDTF",
        "source": Source(f"{number}.mp4", 1.5, 3.0),
        "licence": "research only",
        "scores": {"sync": 6.25},
    }
    return Clip(**defaults | fields)


def rewrite(folder, change):
    """Damages a data set: `change` maps a shard's records to what is stored in their place."""
    index = json.loads((folder / "dataset.json").read_text())
    for shard in index["shards"]:
        path = str(folder / shard["file"])
        reader = ArrayRecordReader(path)
        records = reader.read_all()
        reader.close()
        writer = ArrayRecordWriter(path, "group_size:1,uncompressed")
        for record in change(records):
            writer.write(record)
        writer.close()
        shard["bytes"] = (folder / shard["file"]).stat().st_size
    (folder / "dataset.json").write_text(json.dumps(index))


@pytest.fixture(scope="session")
def make_clip():
    return clip_of


@pytest.fixture(scope="session")
def make_picture():
    return picture


@pytest.fixture(scope="session")
def damage():
    return rewrite


@pytest.fixture(scope="session")
def ten(tmp_path_factory):
    """A data set of ten clips in three shards; not to be changed."""
    folder = tmp_path_factory.mktemp("ten") / "set"
    write_shards(folder, (clip_of(i, 20 + i) for i in range(10)), shard_size=4)
    return folder
