"""All corpora as one array of features, with the class, corpus and side (train or test) of each."""

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from memo_jax.errors import UserError
from memo_jax.train.emotion.corpora import OUTPUT
from memo_jax.train.emotion.features import Heard
from memo_jax.train.emotion.readers import Recording

TRAIN, VALID, TEST = range(3)
SIDES = {"train": TRAIN, "valid": VALID, "test": TEST}
# Held out of all, and of the rest for choosing the best epoch, so that the test stays a test.
TEST_SHARE = 0.25
VALID_SHARE = 0.1
# With fewer, no choice of whole speakers gives three to one.
FEWEST_SPEAKERS = 4


@dataclass
class Part:
    """One corpus's examples; `how` says by what they were split, `notes` what was left out."""

    name: str
    title: str
    language: str
    features: np.ndarray
    labels: np.ndarray
    sides: np.ndarray
    how: str
    notes: list[str] = field(default_factory=list)


@dataclass
class Examples:
    """Features [n, width] float32, labels, corpora and sides [n] int32, and the corpora's parts."""

    features: np.ndarray
    labels: np.ndarray
    corpora: np.ndarray
    sides: np.ndarray
    parts: list[Part]

    def digest(self) -> str:
        """Tells these examples from others."""
        digest = hashlib.sha256()
        for value in (self.features, self.labels, self.corpora, self.sides):
            digest.update(np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()


def split(
    speakers: Sequence[str],
    labels: Sequence[str],
    keys: Sequence[str],
    *,
    by_speaker: bool,
    share: float,
    seed: Sequence[int],
) -> tuple[np.ndarray, str]:
    """Which recordings are held out (bool), and by what they were chosen.

    By speaker where `by_speaker` and there are `FEWEST_SPEAKERS`: no speaker is on both sides, and
    recordings of unknown speakers are never held out. Otherwise by file, class by class; the same
    content (`keys`) is never on both sides. The same seed gives the same split.
    """
    rng = np.random.default_rng(list(seed))
    names = sorted({speaker for speaker in speakers if speaker})
    if by_speaker and len(names) >= FEWEST_SPEAKERS:
        chosen = _take(speakers, names, share, rng)
        return np.array([speaker in chosen for speaker in speakers], bool), "speaker"
    kinds = dict(zip(keys, labels, strict=True))
    held: set[str] = set()
    for kind in sorted(set(labels)):
        own = sorted(key for key, label in kinds.items() if label == kind)
        held |= _take(own, own, share, rng)
    how = f"file ({len(names)} speakers)" if by_speaker and names else "file"
    return np.array([key in held for key in keys], bool), how


def _take(
    owners: Sequence[str], names: Sequence[str], share: float, rng: np.random.Generator
) -> set[str]:
    """Some of the names, drawn so that they own about a `share`; never all of them."""
    counts = dict.fromkeys(names, 0)
    for owner in owners:
        if owner in counts:
            counts[owner] += 1
    goal, have = share * len(owners), 0
    taken: set[str] = set()
    for name in rng.permutation(np.array(names, object)):
        more = have + counts[name]
        if len(taken) + 1 < len(names) and abs(more - goal) < abs(have - goal):
            taken.add(name)
            have = more
    return taken


def part_of(
    name: str,
    title: str,
    language: str,
    found: Sequence[tuple[Recording, str]],
    heard: Heard,
    *,
    by_speaker: bool,
    seed: int,
) -> Part:
    """One corpus's examples: a row for each piece of each recording that can be read.

    A recording that is there twice counts once, and not at all where it has two classes.

    Raises:
      UserError: no recording is left.
    """
    notes = [f"{name}: {path} cannot be read: {why}" for path, why in heard.damaged.items()]
    same: dict[str, list[int]] = {}
    for i, (key, features) in enumerate(zip(heard.keys, heard.features, strict=True)):
        if features is not None:
            same.setdefault(key, []).append(i)
    agreed = {key: at[0] for key, at in same.items() if len({found[i][1] for i in at}) == 1}
    if not agreed:
        raise UserError(f"{name}: no recording can be used; {' '.join(notes[:1])}")
    if double := sum(len(same[key]) - 1 for key in agreed):
        notes.append(f"{name}: {double} recordings are there twice and count once")
    for key in same.keys() - agreed.keys():
        paths = ", ".join(f"{found[i][0].path} ({found[i][1]})" for i in same[key])
        notes.append(f"{name}: left out, one recording with several classes: {paths}")
    recordings = [found[i] for i in agreed.values()]
    sides, how = _sides(name, recordings, list(agreed), by_speaker, seed)
    pieces = [_pieces(heard, i) for i in agreed.values()]
    counts = [len(value) for value in pieces]
    labels = np.array([OUTPUT[kind] for _, kind in recordings], np.int32)
    return Part(
        name,
        title,
        language,
        np.concatenate(pieces),
        np.repeat(labels, counts),
        np.repeat(sides, counts),
        how,
        notes,
    )


def _pieces(heard: Heard, i: int) -> np.ndarray:
    value = heard.features[i]
    assert value is not None
    return value


def _sides(
    name: str,
    recordings: Sequence[tuple[Recording, str]],
    keys: Sequence[str],
    by_speaker: bool,
    seed: int,
) -> tuple[np.ndarray, str]:
    """Train, valid or test for each recording; a listing's own split stands."""
    speakers = [recording.speaker for recording, _ in recordings]
    labels = [kind for _, kind in recordings]
    given = [recording.split for recording, _ in recordings]
    if all(given):
        sides, how = np.array([SIDES[side] for side in given], np.int32), "listing"
    else:
        held, how = split(
            speakers,
            labels,
            keys,
            by_speaker=by_speaker,
            share=TEST_SHARE,
            seed=[seed, zlib.crc32(name.encode())],
        )
        sides = np.where(held, TEST, TRAIN).astype(np.int32)
    if not (sides == VALID).any():
        train = np.flatnonzero(sides == TRAIN).tolist()
        held, _ = split(
            [speakers[i] for i in train],
            [labels[i] for i in train],
            [keys[i] for i in train],
            by_speaker=by_speaker,
            share=VALID_SHARE,
            seed=[seed, zlib.crc32(name.encode()), 1],
        )
        sides[np.array(train, int)[held]] = VALID
    return sides, how


def gather(parts: Sequence[Part]) -> Examples:
    """All parts as one.

    Raises:
      UserError: features of different widths; nothing to train on, to choose by, or to test.
    """
    widths = {part.name: part.features.shape[1] for part in parts}
    if len(set(widths.values())) > 1:
        told = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise UserError(f"features have different widths: {told}; compute them with one model")
    sides = np.concatenate([part.sides for part in parts])
    for name, side in SIDES.items():
        if not (sides == side).any():
            raise UserError(f"no recording to {name} with; give more recordings")
    return Examples(
        np.concatenate([part.features for part in parts]).astype(np.float32),
        np.concatenate([part.labels for part in parts]).astype(np.int32),
        np.repeat(np.arange(len(parts), dtype=np.int32), [len(part.labels) for part in parts]),
        sides,
        list(parts),
    )
