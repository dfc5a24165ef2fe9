"""Meters of networks' features: InceptionV3's of frames, I3D's of windows."""

import numpy as np
from jaxtyping import Float

from memo_jax.metrics.i3d import FRAMES, I3DFeatures, windows_of
from memo_jax.metrics.inception import InceptionFeatures
from memo_jax.metrics.meters import Arrays
from memo_jax.metrics.videos import Chunk
from memo_jax.prepare.media import Sound


class FrameFeatures:
    """`features` float32 [n, 2048] of every frame, or of every `step`th."""

    name = "fid"
    hears = False

    def __init__(self, network: InceptionFeatures, weights: str, step: int = 1):
        """`weights` is the hash of the file that the network is from."""
        self._network, self._step = network, step
        self.key = f"inception {weights} {network.preparation} {step}"

    def start(self, sound: Sound | None, fps: float) -> "_Frames":
        return _Frames(self._network, self._step)


class _Frames:
    def __init__(self, network: InceptionFeatures, step: int):
        self._network, self._step = network, step
        self._found: list[np.ndarray] = []

    def add(self, chunk: Chunk) -> None:
        chosen = chunk.frames[-chunk.first % self._step :: self._step]
        self._found.append(self._network(chosen))

    def finish(self) -> Arrays:
        return {"features": np.concatenate(self._found)}


class WindowFeatures:
    """`features` float32 [k, 400] of windows of 16 frames, side by side from the first frame."""

    name = "fvd"
    hears = False

    def __init__(self, network: I3DFeatures, weights: str):
        """`weights` is the hash of the file that the network is from."""
        self._network = network
        self.key = f"i3d {weights} {network.side}"

    def start(self, sound: Sound | None, fps: float) -> "_Windows":
        return _Windows(self._network)


class _Windows:
    def __init__(self, network: I3DFeatures):
        self._network = network
        self._rest: np.ndarray | None = None  # frames that fill no window yet
        self._waiting: list[Float[np.ndarray, "16 s s 3"]] = []
        self._found = [np.empty((0, network.width), np.float32)]

    def add(self, chunk: Chunk) -> None:
        frames = chunk.frames
        if self._rest is not None:
            frames = np.concatenate([self._rest, frames])
        windows = windows_of(frames)
        self._rest = frames[len(windows) * FRAMES :]
        for window in windows:
            self._waiting.append(self._network.prepared(window))
            if len(self._waiting) == self._network.batch:
                self._run()

    def _run(self) -> None:
        if self._waiting:
            self._found.append(self._network(np.stack(self._waiting)))
            self._waiting = []

    def finish(self) -> Arrays:
        self._run()
        return {"features": np.concatenate(self._found)}
