"""Heads: letterbox bars off, exactly one whole head throughout, and the square around it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from memo_jax.errors import UserError
from memo_jax.io.boxes import Face, FaceFinder
from memo_jax.io.crop import HEAD_MARGIN, HEAD_RISE, MIN_MARGIN, Crop, crop_around
from memo_jax.prepare.reasons import Reject

SCALE = 1.1
"""The head's box is scaled by this, as the paper has it."""

HEADS = HEAD_MARGIN / SCALE
"""Side of a head over that of its face's box, from forehead to chin: a head is twice its face."""

FACE_OF_HEAD = 0.75  # side of the face, from hairline to chin, over that of a head's own box
MEDIAN = 5  # samples whose median says where the head should be
NEAR, ALIKE = 0.5, 1.7  # of the head's side, and between sides, for a find to be the same head

BLACK, FLAT = 40, 14  # a bar's brightest value, and how far its values lie apart
LIT = 80  # some of the pictures is as bright as this, or nothing is a bar
LEAST_BAR, MOST_BAR = 0.01, 0.45  # of the picture's side

Finder = Literal["faces", "dino"]
Prompt = Literal["head.", "face."]


@dataclass(frozen=True)
class HeadConfig:
    """What counts as one whole head, and how it is cut out.

    Attributes:
      every: seconds between the pictures in which faces are searched.
      seen: least share of these in which the head must be found.
      away: seconds for which it may be missed in a row.
      second: share of the pictures in which a second head may be seen.
      comparable: a face of at least this share of the head's area is a second head.
      margin: side of the square over the longer side of the face's box: a head is twice its face,
        times the paper's 1.1.
      still: a head that moves by less than this share of the square is shown by one that rests.
      smooth: seconds over which a square that moves is smoothed.
      least_pixels: side of the square in the video; smaller ones would be blown up.
      finder: "faces" (SCRFD where its file is given, else OpenCV's) or "dino" (Grounding DINO).
      prompt: what Grounding DINO is asked for. The square around a head is 1.1 times its box, as
        the paper has it.
      score: Grounding DINO's least, 0 to 1.
      border: a head's box that comes nearer to the picture's border than this share of its side
        holds no whole head.
    """

    every: float = 0.4
    seen: float = 0.7
    away: float = 1.5
    second: float = 0.2
    comparable: float = 0.25
    margin: float = HEAD_MARGIN
    still: float = 0.15
    smooth: float = 2.0
    least_pixels: int = 256
    finder: Finder = "faces"
    prompt: Prompt = "head."
    score: float = 0.35
    border: float = 0.01

    def __post_init__(self) -> None:
        if self.finder not in get_args(Finder) or self.prompt not in get_args(Prompt):
            raise UserError(
                f"heads: finder {self.finder!r} and prompt {self.prompt!r}, expected one of "
                f"{', '.join(get_args(Finder))} and one of {', '.join(get_args(Prompt))}"
            )
        if not 0 < self.score < 1 or not 0 <= self.border < 0.5:
            raise UserError(
                f"heads: score {self.score:g} and border {self.border:g}, expected 0 to 1 and 0 "
                "to 0.5"
            )
        if self.every <= 0 or self.margin < MIN_MARGIN or self.least_pixels < 32:
            raise UserError(
                f"heads: every {self.every:g}, margin {self.margin:g}, least {self.least_pixels} "
                f"pixels; expected above 0, {MIN_MARGIN} and 32 at least"
            )

    @property
    def of_heads(self) -> bool:
        """Whether what is found are heads' boxes and not faces'."""
        return self.finder == "dino" and self.prompt == "head."


class HeadFinder(Protocol):
    """Whatever finds faces, or heads.

    Attributes:
      searched: pixels of the longer side to which larger pictures are scaled before.
    """

    searched: int

    def __call__(self, pictures: Sequence[UInt8[np.ndarray, "h w 3"]]) -> list[list[Face]]:
        """What is in each of some pictures of one size, the largest first."""


class OneByOne:
    """A finder of faces that looks at one picture after the other."""

    searched = 480

    def __init__(self, finder: FaceFinder):
        self._finder = finder

    def __call__(self, pictures: Sequence[UInt8[np.ndarray, "h w 3"]]) -> list[list[Face]]:
        """See HeadFinder."""
        return [self._finder.find(picture) for picture in pictures]


@dataclass(frozen=True, eq=False)
class Track:
    """Where the one head's face is, in every frame.

    Attributes:
      boxes: (centre x, centre y, side) in pixels of the picture without bars; of a face, or
        the inner half of a head's, which the thresholds take for one.
      share: of the searched pictures in which it was found.
      face: as it was found nearest the clip's middle, in pixels of the whole picture.
      at: the frame of that.
    """

    boxes: Float[np.ndarray, "n 3"]
    share: float
    face: Face
    at: int


def content(pictures: Sequence[UInt8[np.ndarray, "h w 3"]]) -> Crop:
    """The part of the pictures that is no letterbox or pillarbox bar.

    A bar is black and flat in all of them, so that a dark room is none.
    """
    height, width = pictures[0].shape[:2]
    if max(np.percentile(p, 99) for p in pictures) < LIT:
        return Crop(0, 0, width, height)  # too dark to tell
    low = np.min([p.max(axis=2) for p in pictures], axis=0)
    high = np.max([p.max(axis=2) for p in pictures], axis=0)
    edges = []
    for axis, length in ((1, height), (0, width)):
        # A few pixels beside the point are the codec's ringing, not a picture.
        top = np.percentile(high, 99, axis=axis)
        bottom = np.percentile(low, 1, axis=axis)
        bar = (top <= BLACK) & (top - bottom <= FLAT)
        first = int(np.argmin(bar)) if not bar.all() else 0
        last = length - (int(np.argmin(bar[::-1])) if not bar.all() else 0)
        least, most = max(2, LEAST_BAR * length), MOST_BAR * length
        first = first if least <= first <= most else 0
        last = last if least <= length - last <= most else length
        edges.append((first, last))
    (top_edge, bottom_edge), (left, right) = edges
    return Crop(left, top_edge, right - left, bottom_edge - top_edge)


def search(
    pictures: Sequence[UInt8[np.ndarray, "h w 3"]], area: Crop, finder: HeadFinder
) -> list[list[Face]]:
    """Faces or heads in each picture, in pixels of the picture without its bars."""
    rows, columns = slice(area.y, area.y + area.height), slice(area.x, area.x + area.width)
    scale = min(1.0, finder.searched / max(area.width, area.height))
    views = []
    for picture in pictures:
        view = np.ascontiguousarray(picture[rows, columns])
        if scale < 1:
            view = cv2.resize(view, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        views.append(view)
    return [[_scaled(face, 1 / scale) for face in faces] for faces in finder(views)]


def track(
    found: Sequence[Sequence[Face]],
    at: Sequence[int],
    frames: int,
    area: Crop,
    config: HeadConfig,
) -> Track:
    """The one head's way through a clip.

    Args:
      found: faces or heads in some frames, the largest first, in pixels of the picture without
        bars.
      at: the numbers of these frames.
      frames: of the clip.
      area: the picture without bars.
      config: what must hold.

    Raises:
      Reject: no head, several, one that is away for a while, or one that is not whole.
    """
    if sum(map(bool, found)) < max(1, 0.2 * len(found)):
        raise Reject("no-head", f"a face in {sum(map(bool, found))} of {len(found)} pictures")
    boxes = [[_box(face, config) for face in faces] for faces in found]
    guide = _guide([faces[0] if faces else None for faces in boxes])
    mine: list[int | None] = []
    others: list[tuple[float, float, float]] = []
    for faces, where in zip(boxes, guide, strict=True):
        same = [i for i, box in enumerate(faces) if _same(box, where)]
        own = min(same, key=lambda i: abs(faces[i][2] - where[2])) if same else None
        mine.append(own)
        least = where[2] * config.comparable**0.5
        others += [box for i, box in enumerate(faces) if i != own and box[2] >= least]
    # Finds that are no face lie here and there; a second head stays where it is.
    company = max((sum(_same(a, b) for b in others) for a in others), default=0)
    if company > max(1, config.second * len(found)):
        raise Reject("two-heads", f"a second face in {company} of {len(found)} pictures")
    share = sum(i is not None for i in mine) / len(mine)
    away = _longest_run([i is None for i in mine]) * config.every
    if share < config.seen or away > config.away:
        raise Reject("head-lost", f"found in {share:.0%} of the pictures, away for {away:.1f} s")
    known = [(at[k], boxes[k][i]) for k, i in enumerate(mine) if i is not None]
    chosen = [found[k][i] for k, i in enumerate(mine) if i is not None]
    cut_off = sum(_cut_off(face, area, config) for face in chosen)
    if cut_off > 0.2 * len(known):
        raise Reject("cut-off", f"over the picture's border in {cut_off} of {len(known)} pictures")
    times, values = np.array([t for t, _ in known]), np.array([box for _, box in known])
    way = np.stack([np.interp(np.arange(frames), times, column) for column in values.T], axis=1)
    middle = min(range(len(mine)), key=lambda k: (mine[k] is None, abs(at[k] - frames // 2)))
    face = found[middle][mine[middle] or 0]
    x, y, w, h = face.box
    marks = (
        None if face.landmarks is None else face.landmarks + np.array((area.x, area.y), np.float32)
    )
    whole = Face((x + area.x, y + area.y, w, h), face.score, marks)
    return Track(way, share, whole, at[middle])


def squares(way: Track, fps: float, area: Crop, config: HeadConfig) -> list[Crop]:
    """The square around the head in every frame, in pixels of the whole picture; all of one size.

    Raises:
      Reject: it has too few pixels.
    """
    side = float(np.percentile(way.boxes[:, 2], 95))
    centre = np.median(way.boxes[:, :2], axis=0)
    shape = (area.height, area.width)
    spread = np.percentile(way.boxes[:, :2], 95, axis=0) - np.percentile(
        way.boxes[:, :2], 5, axis=0
    )
    moves = max(spread) > config.still * config.margin * side
    centres = _smoothed(way.boxes[:, :2], config.smooth * fps) if moves else centre[None]
    cut = [
        crop_around(Face((x - side / 2, y - side / 2, side, side), 1.0), shape, config.margin)
        for x, y in centres
    ]
    if cut[0].width < config.least_pixels:
        raise Reject(
            "small",
            f"the head's square has {cut[0].width} pixels, expected {config.least_pixels} "
            "(--head-pixels)",
        )
    moved = [Crop(c.x + area.x, c.y + area.y, c.width, c.height) for c in cut]
    return moved if moves else moved * len(way.boxes)


def faces(way: Track, config: HeadConfig) -> Float[np.ndarray, "n 3"]:
    """The face in every frame, (centre x, centre y, side): where lip sync looks for the mouth."""
    if not config.of_heads:
        return way.boxes
    x, y, side = way.boxes.T
    head = HEADS * side
    # Back to the head's centre, and down to the face, which ends with the head at the chin.
    lower = y - HEAD_RISE * side + (1 - FACE_OF_HEAD) / 2 * head
    return np.stack([x, lower, FACE_OF_HEAD * head], axis=1)


def _box(face: Face, config: HeadConfig) -> tuple[float, float, float]:
    """The centre and side of a face; of a head, such ones that the square is centred on it."""
    x, y, w, h = face.box
    side = max(w, h)
    if config.of_heads:
        side /= HEADS
        return x + w / 2, y + h / 2 + HEAD_RISE * side, side
    return x + w / 2, y + h / 2, side


def _scaled(face: Face, scale: float) -> Face:
    x, y, w, h = (side * scale for side in face.box)
    marks = None if face.landmarks is None else face.landmarks * np.float32(scale)
    return Face((x, y, w, h), face.score, marks)


def _guide(largest: Sequence[tuple[float, float, float] | None]) -> Float[np.ndarray, "k 3"]:
    """Where the head should be: the median of the largest finds around each picture."""
    known = [k for k, box in enumerate(largest) if box is not None]
    values = np.array([largest[k] for k in known])
    guide = []
    for k in range(len(largest)):
        near = np.argsort(np.abs(np.array(known) - k), kind="stable")[:MEDIAN]
        guide.append(np.median(values[near], axis=0))
    return np.array(guide)


def _same(a: Sequence[float], b: Sequence[float]) -> bool:
    far = np.hypot(a[0] - b[0], a[1] - b[1]) > NEAR * min(a[2], b[2])
    return not far and max(a[2], b[2]) <= ALIKE * min(a[2], b[2])


def _cut_off(face: Face, area: Crop, config: HeadConfig) -> bool:
    """Whether the head is not whole; around a face's box a twentieth of it may be missing."""
    if config.of_heads:
        x, y, w, h = face.box
        reach = config.border * max(w, h)
        return x < reach or y < reach or x + w > area.width - reach or y + h > area.height - reach
    x, y, side = _box(face, config)
    reach = MIN_MARGIN / 2 * side - 0.05 * MIN_MARGIN * side
    return x < reach or y < reach or x > area.width - reach or y > area.height - reach


def _longest_run(flags: Sequence[bool]) -> int:
    longest = run = 0
    for flag in flags:
        run = run + 1 if flag else 0
        longest = max(longest, run)
    return longest


def _smoothed(values: Float[np.ndarray, "n k"], window: float) -> Float[np.ndarray, "n k"]:
    """Each column through a Hann window of `window` frames; ends repeat."""
    half = max(1, round(window / 2))
    weights = np.hanning(2 * half + 3)[1:-1]
    padded = np.pad(values, ((half, half), (0, 0)), mode="edge")
    columns = [np.convolve(c, weights / weights.sum(), "valid") for c in padded.T]
    return np.stack(columns, axis=1)
