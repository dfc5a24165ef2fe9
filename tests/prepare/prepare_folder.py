"""A run's folder filled with made-up clips."""

import io

import ml_dtypes
import numpy as np
from PIL import Image

from memo_jax.data.clip import Clip, Source
from memo_jax.data.record import encode
from memo_jax.prepare.folder import Folder, video_key
from memo_jax.prepare.reasons import Rejected
from memo_jax.prepare.video import Kept, Times

SETTINGS = {"size": 8, "cuts": {"longest": 30.0}}
VIDEOS = {"a.mp4": 2, "b.mp4": 0, "c.mp4": 5, "d.mp4": 1, "e.mp4": 3}
SHARD = 3


def kept(name, i, n=4):
    picture = _png(i)
    clip = Clip(
        images=(picture,) * n,
        size=8,
        fps=25.0,
        audio=np.full((n, 1, 2), i, ml_dtypes.bfloat16),
        emotion=np.zeros(n, np.int8),
        emotions=("neutral",),
        face=np.zeros(3, np.float32),
        source=Source(name, float(i), i + n / 25),
        scores={"sync_late": float(i)},
    )
    return Kept(float(i), i + n / 25, n, encode(clip), dict(clip.scores))


def _png(i):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (i, 0, 0)).save(file, "PNG")
    return file.getvalue()


def work(path, videos=VIDEOS):
    folder = Folder(path)
    folder.prepare(SETTINGS)
    with folder.alone():
        for name, count in videos.items():
            key = video_key(name, path / "none")
            if not folder.is_done(key):
                made = [kept(name, i) for i in range(count)]
                made.append(Rejected(name, 90.0, 91.0, "short", "1.00 s, expected 2"))
                folder.finish(key, name, made, Times({"heads": 1.0}, 2.0))
        folder.write_rejects([])
        folder.assemble(SHARD)
    return folder
