"""Recordings -> emotion2vec features of their 30 s cuts, kept on disk by what was heard.

A store is a folder of safetensors files; in them every recording's features [pieces, width] stand
under a hash of its bytes, of its cut, and of the weights that heard it. What is there is never
computed again, so that a run that was stopped goes on, and another run or corpus shares it.
"""

import functools
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax import nnx
from jaxtyping import Array, Float
from safetensors.numpy import save_file
from tqdm import tqdm

from memo_jax.audio.timing import SAMPLE_RATE
from memo_jax.errors import UserError, one_line
from memo_jax.io.sound import read_recording
from memo_jax.train.emotion.readers import FEATURES, Recording
from memo_jax.weights import build

PIECE = 30 * SAMPLE_RATE
# A rest of a recording that is shorter than this is left out where there are whole pieces.
REST = SAMPLE_RATE
# Counted up when the same recording would give other features.
VERSION = 1
# Recordings, and samples of sound, that are held in memory and written together.
GROUP = 1024
GROUP_SAMPLES = 3600 * SAMPLE_RATE
# A share of recordings that cannot be read above which something else is wrong.
DAMAGED = 0.01


@dataclass
class Heard:
    """Features [pieces, width] of each recording, float32, or None for one that cannot be read.

    `keys` tell recordings apart by their content; `damaged` says why some cannot be read.
    """

    features: list[np.ndarray | None] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)


class Hearer:
    """A frozen emotion2vec: pieces of sound of one length -> the mean of their features."""

    def __init__(self, module: nnx.Module, *, shortest: int, batch: int = 8):
        """Pieces of under `shortest` samples are filled up with silence; `batch` go at once."""
        self.shortest, self.batch = shortest, batch
        graph, state = nnx.split(module)
        self._params = nnx.to_pure_dict(state)
        digest = hashlib.sha256()
        for path, value in sorted(build.flatten(state).items()):
            digest.update(path.encode() + np.asarray(value).tobytes())
        self.identity = digest.hexdigest()

        @jax.jit
        def mean(params: dict, samples: Float[Array, "b n"]) -> Float[Array, "b w"]:
            x = samples - jnp.mean(samples, axis=1, keepdims=True)
            x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=1, keepdims=True) + 1e-5)
            module: Any = nnx.merge(graph, params)
            return jnp.mean(module(x).astype(jnp.float32), axis=1)

        self._mean = mean

    def __call__(self, pieces: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The features [width] of each piece."""
        out: list[np.ndarray] = [np.zeros(0, np.float32)] * len(pieces)
        by_length: dict[int, list[int]] = {}
        fitted = [fit_length(piece, self.shortest) for piece in pieces]
        for i, piece in enumerate(fitted):
            by_length.setdefault(len(piece), []).append(i)
        for same in by_length.values():
            for at in range(0, len(same), self.batch):
                chosen = same[at : at + self.batch]
                # Filled up, so that each length is compiled once.
                filled = chosen + chosen[-1:] * (self.batch - len(chosen))
                means = np.asarray(self._mean(self._params, np.stack([fitted[i] for i in filled])))
                for i, mean in zip(chosen, means, strict=False):
                    out[i] = mean
        return out


def fit_length(piece: np.ndarray, shortest: int) -> np.ndarray:
    """The piece at one of 16 lengths to the octave, so that few lengths are compiled.

    Up to a sixteenth is cut, half of it at either end; whole pieces stay whole, and what is
    shorter than `shortest` is filled up with silence.
    """
    n = len(piece)
    if n <= shortest:
        return np.pad(piece, (0, shortest - n))
    if n == PIECE:
        return piece
    step = 1 << max(0, n.bit_length() - 5)
    length = max(shortest, n // step * step)
    start = (n - length) // 2
    return piece[start : start + length]


def cut(samples: np.ndarray) -> list[np.ndarray]:
    """Pieces of 30 s; a rest of under a second is left out unless it is all there is."""
    pieces = [samples[at : at + PIECE] for at in range(0, len(samples), PIECE)]
    return pieces[:-1] if len(pieces) > 1 and len(pieces[-1]) < REST else pieces


class Store:
    """Features on disk by key."""

    def __init__(self, folder: Path):
        """Raises UserError where the folder cannot be made, or a file in it is damaged."""
        self.folder = folder
        self._where: dict[str, Path] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(folder.glob("*.safetensors")):
                with safetensors.safe_open(path, "numpy") as file:
                    self._where |= dict.fromkeys(file.keys(), path)
        except (OSError, safetensors.SafetensorError) as error:
            raise UserError(
                f"features in {folder} cannot be read: {one_line(error)}; remove what is damaged, "
                "it is computed again"
            ) from error
        self._hashes = self._read_hashes()

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def get(self, keys: Sequence[str]) -> dict[str, np.ndarray]:
        """Features of keys that are there."""
        by_file: dict[Path, list[str]] = {}
        for key in dict.fromkeys(keys):
            by_file.setdefault(self._where[key], []).append(key)
        found: dict[str, np.ndarray] = {}
        for path, wanted in by_file.items():
            with safetensors.safe_open(path, "numpy") as file:
                found |= {key: file.get_tensor(key) for key in wanted}
        return found

    def add(self, values: Mapping[str, np.ndarray]) -> None:
        """Write a file of features, whole or not at all, and the hashes known by now."""
        name = hashlib.sha256("".join(sorted(values)).encode()).hexdigest()[:20]
        path = self.folder / f"{name}.safetensors"
        _whole(path, lambda unfinished: save_file(dict(values), unfinished))
        self._where |= dict.fromkeys(values, path)
        self.remember()

    def file_hash(self, path: Path) -> str:
        """SHA-256 of a file, remembered under its path, size and time of change."""
        stat = path.stat()
        state = [stat.st_size, stat.st_mtime_ns]
        known = self._hashes.get(str(path.absolute()))
        if known and known[:2] == state:
            return str(known[2])
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._hashes[str(path.absolute())] = [*state, digest]
        return digest

    def remember(self) -> None:
        """Keep the hashes."""
        text = json.dumps(self._hashes)
        _whole(self.folder / "files.json", lambda path: Path(path).write_text(text, "utf-8"))

    def _read_hashes(self) -> dict[str, list[Any]]:
        try:
            hashes = json.loads((self.folder / "files.json").read_text("utf-8"))
        except (OSError, ValueError):  # lost or damaged: files are read again
            return {}
        return hashes if isinstance(hashes, dict) else {}


def _whole(path: Path, write: Callable[[str], object]) -> None:
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=".unfinished-")
    os.close(handle)
    try:
        write(unfinished)
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise


def hear(
    recordings: Sequence[Recording],
    store: Store,
    hearer: Hearer | None,
    *,
    name: str = "",
    quiet: bool = False,
) -> Heard:
    """Features of all recordings, from the store where it has them.

    Recordings whose file is `.npy` are features themselves, of shape [width] or [time, width].

    Args:
      hearer: None where there are no emotion2vec weights: all features must be there.
      name: of the corpus, for the progress bar.

    Raises:
      UserError: sound, and no `hearer`; features of another width; more than a few recordings
        that cannot be read.
    """
    out = Heard()
    for recording in tqdm(recordings, desc=f"{name}: files", unit="file", disable=quiet):
        out.keys.append(_key(recording, store, hearer))
    store.remember()
    missing = [
        (recording, key)
        for recording, key in zip(recordings, out.keys, strict=True)
        if recording.path.suffix.lower() != FEATURES and key not in store
    ]
    missing = list({key: (recording, key) for recording, key in missing}.values())
    if missing and hearer is None:
        raise UserError(
            f"{name}: {len(missing)} recordings have no features yet, such as "
            f"{missing[0][0].path}; give --model a model or file with emotion2vec's weights, or "
            f"{FEATURES} files with features in place of sound"
        )
    if hearer:
        with tqdm(desc=f"{name}: hearing", total=len(missing), unit="file", disable=quiet) as bar:
            for group in _groups(missing, out):
                _hear_group(group, store, hearer)
                bar.update(len(group))
    known = store.get([key for key in out.keys if key in store])
    for recording, key in zip(recordings, out.keys, strict=True):
        if recording.path.suffix.lower() == FEATURES:
            out.features.append(_precomputed(recording.path))
        else:
            out.features.append(known.get(key))
    if len(out.damaged) > DAMAGED * len(recordings):
        first = "; ".join(f"{path}: {why}" for path, why in [*out.damaged.items()][:2])
        raise UserError(
            f"{name}: {len(out.damaged)} of {len(recordings)} recordings cannot be read: {first}"
        )
    return out


def _key(recording: Recording, store: Store, hearer: Hearer | None) -> str:
    """What tells the features of a recording from others'."""
    digest = store.file_hash(recording.path)
    weights = hearer.identity if hearer else ""
    text = f"{VERSION} {weights} {digest} {recording.start} {recording.stop}"
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _groups(
    missing: Sequence[tuple[Recording, str]], out: Heard
) -> Iterator[dict[str, list[np.ndarray]]]:
    """Pieces of some recordings at a time, by key. What cannot be read goes to `out.damaged`."""
    group: dict[str, list[np.ndarray]] = {}
    held = 0
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for at in range(0, len(missing), 64):
            part = missing[at : at + 64]
            for (recording, key), sound in zip(part, pool.map(_sound, part), strict=True):
                if isinstance(sound, str):
                    out.damaged[str(recording.path)] = sound
                    continue
                group[key] = cut(sound)
                held += len(sound)
                if len(group) >= GROUP or held >= GROUP_SAMPLES:
                    yield group
                    group, held = {}, 0
    if group:
        yield group


def _sound(entry: tuple[Recording, str]) -> np.ndarray | str:
    """Mono samples at 16 kHz of a recording's part, or why there are none."""
    recording = entry[0]
    try:
        samples = (
            read_recording(recording.path, SAMPLE_RATE).samples
            if recording.start is None and recording.stop is None
            else _long_file(recording.path)
        )
    except UserError as error:
        return one_line(error)
    start = round((recording.start or 0.0) * SAMPLE_RATE)
    stop = len(samples) if recording.stop is None else round(recording.stop * SAMPLE_RATE)
    part = samples[start:stop]
    return part if len(part) else f"no sound from {recording.start} to {recording.stop} s"


_one_at_a_time = threading.Lock()


def _long_file(path: Path) -> np.ndarray:
    """A file that many recordings are parts of, decoded once for neighbours."""
    with _one_at_a_time:  # or every thread would decode hours of it
        return _decoded(path)


@functools.lru_cache(maxsize=1)
def _decoded(path: Path) -> np.ndarray:
    return read_recording(path, SAMPLE_RATE).samples


def _hear_group(group: Mapping[str, list[np.ndarray]], store: Store, hearer: Hearer) -> None:
    features = iter(hearer([piece for pieces in group.values() for piece in pieces]))
    store.add({key: np.stack([next(features) for _ in pieces]) for key, pieces in group.items()})


def _precomputed(path: Path) -> np.ndarray:
    """[1, width] of a file that holds [width] or [time, width].

    Raises:
      UserError: it holds anything else.
    """
    try:
        value = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"features {path} cannot be read: {one_line(error)}") from error
    if value.ndim not in (1, 2) or not value.size or not np.issubdtype(value.dtype, np.floating):
        raise UserError(
            f"features {path} are {value.dtype} of shape {value.shape}; expected float of shape "
            "[width] or [time, width]"
        )
    mean = np.atleast_2d(value.astype(np.float32)).mean(axis=0, keepdims=True)
    if not np.isfinite(mean).all():
        raise UserError(f"features {path} are not finite; compute them again")
    return mean
