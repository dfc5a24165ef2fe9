"""Which emotion drawn faces show, as `memo_jax.metrics.emotion` asks it."""

import cv2
import numpy as np
from jaxtyping import Int, UInt8

from memo_jax.audio.emotion import EMOTIONS
from memo_jax.io.boxes import Face
from memo_jax.puppets.readers import BATCH, SHIPPED, SIZE, Readers
from memo_jax.weights.cache import sha256


class PuppetEmotions:
    """The shipped readers of puppets: they see the whole square picture, as puppets are drawn, and
    say nothing that means anything about other faces."""

    classes: tuple[str, ...] = EMOTIONS
    batch = BATCH

    def __init__(self) -> None:
        self._readers = Readers.load()
        self.key = f"puppets {sha256(SHIPPED / 'readers.safetensors')}"

    def prepared(
        self, frame: UInt8[np.ndarray, "h w 3"], face: Face | None
    ) -> UInt8[np.ndarray, "64 64 3"] | None:
        """The picture at the readers' size; None of one that is no square."""
        if frame.shape[0] != frame.shape[1]:
            return None
        return cv2.resize(frame, (SIZE, SIZE), interpolation=cv2.INTER_AREA)

    def __call__(self, pictures: UInt8[np.ndarray, "n 64 64 3"]) -> Int[np.ndarray, " n"]:
        """Classes of `EMOTIONS`."""
        return self._readers.read(pictures).shown.astype(np.int64)
