"""Frames set aside losslessly, in segments that are whole or not there."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from memo_jax.io.paths import fail

_AT_ONCE = 16


class Segments:
    """Frames uint8 [n, h, w, 3] in a folder, as FFV1 in Matroska.

    What `append` was given is kept from the next `seal` on; an unsealed rest is dropped when the
    folder is opened again.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        for rest in folder.glob("*.part"):
            rest.unlink()
        self.sealed = sum(_count(path) for path in self._files())
        self._frames = self.sealed
        self._output: Any = None

    def append(self, frames: np.ndarray) -> None:
        """Add frames to the open segment."""
        if self._output is None:
            self._part = self._folder / f"{self._frames:09d}.part"
            self._output = av.open(f"file:{self._part}", "w", format="matroska")
            self._stream: Any = self._output.add_stream("ffv1", rate=Fraction(25))
            self._stream.height, self._stream.width = frames.shape[1:3]
            self._stream.pix_fmt = "bgr0"  # all 8 bits of red, green and blue
        for array in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            self._output.mux(self._stream.encode(picture.reformat(format="bgr0")))
        self._frames += len(frames)

    def seal(self) -> None:
        """Complete the open segment, if there is one."""
        if self._output is None:
            return
        self._output.mux(self._stream.encode(None))
        self._output.close()
        self._output = None
        count = self._frames - self.sealed
        self._part.rename(self._part.with_name(f"{self.sealed:09d}-{count:06d}.mkv"))
        self.sealed = self._frames

    def read(self) -> Iterator[np.ndarray]:
        """The sealed frames from the first on, a few at a time.

        Raises:
          UserError: a segment is missing or damaged.
        """
        expected = 0
        for path in self._files():
            if int(path.stem.split("-")[0]) != expected:
                raise fail(f"{self._folder} lacks frames from {expected} on; remove the folder")
            pending: list[np.ndarray] = []
            try:
                with av.open(f"file:{path}") as file:
                    for picture in file.decode(video=0):
                        pending.append(picture.to_ndarray(format="rgb24"))
                        expected += 1
                        if len(pending) == _AT_ONCE:
                            yield np.stack(pending)
                            pending = []
            except av.error.FFmpegError as error:
                raise fail(f"{path} is damaged; remove its folder", error) from error
            if pending:
                yield np.stack(pending)

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.mkv"))


def _count(path: Path) -> int:
    return int(path.stem.split("-")[1])
