"""A record becomes a clip."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from memo_jax.audio.timing import SAMPLE_RATE
from memo_jax.data.clip import BadRecord, Clip, Source, read_frame
from memo_jax.data.record import encode
from memo_jax.errors import UserError
from memo_jax.io.crop import Crop, crop_around, cut
from memo_jax.io.face import choose_face
from memo_jax.puppets.clips import flac
from tools.tfrecord_import.mapping import RecordMap, known
from tools.tfrecord_import.media import encoded, read_pictures, read_sound, read_video
from tools.tfrecord_import.reasons import Unusable
from tools.tfrecord_import.senses import Senses
from tools.tfrecord_import.wire import Feature

CROPS = ("centre", "face")
FORMATS = ("jpeg", "png")


@dataclass(frozen=True)
class Options:
    """How clips are stored.

    Attributes:
      size: pixels of the square.
      crop: "centre" is the largest square in the middle; "face" the square around the head in the
        first frame, for all frames.
      form: of pictures that are not stored as they came.
      shortest: frames of the shortest clip.
    """

    size: int
    crop: str = "centre"
    form: str = "jpeg"
    shortest: int = 16

    def __post_init__(self) -> None:
        if self.size < 32 or self.shortest < 1:
            raise UserError(
                f"size {self.size} and {self.shortest} frames, expected 32 and 1 at least"
            )
        known(self.crop, CROPS, "crop")
        known(self.form, FORMATS, "format")


class Converter:
    """Makes records (`memo_jax.data.record`) of features; threads may share one."""

    def __init__(self, record_map: RecordMap, senses: Senses, options: Options) -> None:
        """Checks that they go together.

        Raises:
          UserError: the map's emotions are not the model's.
        """
        self._map, self._senses, self._options = record_map, senses, options
        self._classes = senses.spec.emotions
        for name in record_map.names.values():
            known(name, self._classes, "emotion")
        emotion = record_map.fields.get("emotion")
        if emotion is not None and emotion.feature is None:
            self._class(str(emotion.value))

    def __call__(self, found: Mapping[str, Feature], where: str) -> bytes:
        """The record of an Example's features.

        Args:
          found: the features by name.
          where: what the clip's source is called unless the map says it.

        Raises:
          Unusable: they make no clip.
        """
        try:
            return encode(self._clip(found, where))
        except BadRecord as error:
            raise Unusable(error.code, error.text) from error

    def _clip(self, found: Mapping[str, Feature], where: str) -> Clip:
        wanted, size = self._map, self._options.size
        label = self._labelled(found) if "emotion" in wanted else ""
        framer = _Framer(self._senses, self._options)
        fps = wanted.number(found, "fps")
        if "images" in wanted:
            images = wanted.feature(found, "images")
            if images.kind != "bytes":
                raise Unusable("feature", f"images are {images.kind}, expected encoded pictures")
            assert fps is not None  # the map has it
            pictures = read_pictures(images.values, fps, framer)
        else:
            video = wanted.feature(found, "video")
            if video.kind != "bytes" or len(video.values) != 1:
                raise Unusable("feature", "video is not one string of bytes")
            pictures = read_video(video.values[0], fps, framer)
        sound = read_sound(wanted, found, pictures.start)
        fps = pictures.fps
        # A last frame of which half is heard counts: sound is seldom as long as pictures are.
        n = min(len(pictures.images), int(len(sound) * fps / SAMPLE_RATE + 0.5))
        if n < self._options.shortest:
            raise Unusable(
                "short",
                f"{len(pictures.images)} frames and {len(sound) / SAMPLE_RATE:.2f} s of sound, "
                f"expected {self._options.shortest} frames at least",
            )
        length = round(n / fps * SAMPLE_RATE)
        sound = np.pad(sound[:length], (0, max(0, length - len(sound))))
        clip = Clip(
            images=tuple(pictures.images[:n]),
            size=size,
            fps=float(fps),
            audio=self._senses.audio(sound, n, fps),
            emotion=self._senses.emotion(sound, n, fps, label),
            emotions=self._classes,
            face=np.zeros(1, np.float32),
            identity=wanted.text(found, "identity"),
            clip_emotion=label,
            corpus=wanted.text(found, "corpus"),
            source=Source(wanted.text(found, "source") or where, 0.0, n / fps),
            licence=wanted.text(found, "licence"),
            sound=flac(sound),
            sound_rate=SAMPLE_RATE,
            audio_features=self._senses.spec.audio_features,
        )
        # Of the frame in the middle, because the first and the last one often are transitions.
        face = self._senses.face(read_frame(clip, n // 2))
        return dataclasses.replace(clip, face=face)

    def _labelled(self, found: Mapping[str, Feature]) -> str:
        try:
            return self._class(self._map.text(found, "emotion"))
        except UserError as error:
            raise Unusable("emotion", error) from error

    def _class(self, label: str) -> str:
        """The class of a set's own label; letters' case does not matter."""
        name = self._map.names.get(label, label)
        folded = {c.casefold(): c for c in self._classes}
        return known(folded.get(name.casefold(), name), self._classes, "emotion")


class _Framer:
    """Stores one clip's pictures; the first one says what is cut out of all."""

    def __init__(self, senses: Senses, options: Options) -> None:
        self._senses, self._options = senses, options
        self._crop: Crop | None = None
        self._shape: tuple[int, ...] = ()

    def __call__(self, pixels: np.ndarray, original: bytes | None) -> bytes:
        """A picture as it is stored: as it came where nothing is to be changed."""
        if self._crop is None:
            self._crop, self._shape = self._chosen(pixels), pixels.shape
        if pixels.shape != self._shape:
            raise Unusable("image", f"pictures of {self._shape[:2]} and {pixels.shape[:2]} pixels")
        size, crop = self._options.size, self._crop
        if (crop.width, crop.height) == pixels.shape[1::-1] == (size, size):
            return encoded(pixels, self._options.form) if original is None else original
        return encoded(cut(pixels, crop, size), self._options.form)

    def _chosen(self, pixels: np.ndarray) -> Crop:
        height, width = pixels.shape[:2]
        if self._options.crop == "face":
            faces = self._senses.find(pixels)
            if not faces:
                raise Unusable("face", "no face found in the first frame")
            return crop_around(choose_face(faces, "largest"), pixels.shape)
        side = min(height, width)
        return Crop((width - side) // 2, (height - side) // 2, side, side)
