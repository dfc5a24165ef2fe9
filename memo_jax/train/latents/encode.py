"""The latents of all clips of a data set, in order, in batches of one size across clips."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, UInt8

from memo_jax.data.clip import FLOAT16, BadRecord, Clip, read_frame
from memo_jax.data.record import decode
from memo_jax.data.report import Report
from memo_jax.data.store import Store
from memo_jax.errors import UserError
from memo_jax.models.vae import VAE
from memo_jax.sharding import BATCH
from memo_jax.train.conditions import encoded
from memo_jax.train.config import TrainConfig
from memo_jax.train.latents.record import with_latents

THREADS = 4  # that decode pictures while devices encode those before

Moments = tuple[Float[Array, "n h w z"], Float[Array, "n h w z"]]
Encode = Callable[[UInt8[np.ndarray, "n H W 3"]], Moments]


@dataclass(eq=False)
class _Job:
    """A clip of which some frames' latents may not be there yet; `left` counts those."""

    number: int
    record: bytes
    mean: np.ndarray
    std: np.ndarray
    left: int
    bad: bool = False


_Slot = tuple[_Job, int]


def encoder(vae: VAE, mesh: Mesh) -> Encode:
    """A function from pictures, a multiple of the mesh's devices, to the posterior's mean and
    standard deviation, as training itself would compute them; it returns before they are there."""
    graphdef, params = nnx.split(vae)

    def own(params: nnx.State, pictures: UInt8[Array, "n H W 3"]) -> Moments:
        net = nnx.merge(graphdef, params)
        mean, std = encoded(net, pictures[None], TrainConfig.encode_frames)
        return mean[0], std[0]

    # Every device computes its own rows: attention's kernels cannot be cut by the compiler.
    program = jax.jit(
        jax.shard_map(own, mesh=mesh, in_specs=(P(), BATCH), out_specs=BATCH, check_vma=False)
    )
    return partial(program, jax.device_put(params, jax.NamedSharding(mesh, P())))


def add_latents(
    store: Store, encode: Encode, batch: int, report: Report, *, drop_images: bool = False
) -> Iterator[bytes]:
    """The records of a data set with latents, in its order.

    No more is in memory than two batches and the clips that they are of.

    Args:
      store: with pictures.
      encode: what `encoder` gives.
      batch: pictures at a time; the last ones are filled up with black.
      report: where records that cannot be used are counted and named; they are left out.
      drop_images: leave the pictures out.

    Raises:
      UserError: more records cannot be used than the report allows, or latents that float16
        cannot hold.
    """
    waiting: deque[_Job] = deque()
    size = store.layout.size
    with ThreadPoolExecutor(THREADS) as pool:
        frames = _frames(store, pool, batch, waiting, report)
        for slots, moments in _ahead(_batches(frames, batch, size), encode):
            mean, std = (np.asarray(part) for part in moments)
            _fill(slots, mean, std, store)
            # The first clip that is not whole holds back those after it.
            while waiting and (waiting[0].bad or not waiting[0].left):
                job = waiting.popleft()
                if not job.bad:
                    report.add(1, ())
                    yield with_latents(job.record, job.mean, job.std, drop_images=drop_images)
    report.after = 1
    report.judge()


def _frames(
    store: Store, pool: ThreadPoolExecutor, ahead: int, waiting: deque[_Job], report: Report
) -> Iterator[tuple[_Slot, UInt8[np.ndarray, "s s 3"]]]:
    """All pictures, decoded, and whose they are; their clips are put into `waiting`."""
    for number in range(len(store)):
        job = None
        try:
            record = store[number]
            clip = _fitting(decode(record), store)
            job = _Job(number, record, np.empty(0), np.empty(0), clip.frames)
            waiting.append(job)
            for first in range(0, clip.frames, ahead):
                some = range(first, min(first + ahead, clip.frames))
                pictures = pool.map(partial(read_frame, clip), some)
                yield from (((job, i), p) for i, p in zip(some, pictures, strict=True))
        except BadRecord as error:
            if job is not None:
                job.bad = True
            report.add(0, [(_name(store, number), error.code, error.text)])
            report.judge()


def _fitting(clip: Clip, store: Store) -> Clip:
    if clip.layout != store.layout:
        raise BadRecord("layout", f"{clip.layout}, expected {store.layout}")
    return clip


def _batches(
    frames: Iterator[tuple[_Slot, np.ndarray]], batch: int, size: int
) -> Iterator[tuple[list[_Slot], UInt8[np.ndarray, "n s s 3"]]]:
    while some := list(itertools.islice(frames, batch)):
        pictures = np.zeros((batch, size, size, 3), np.uint8)
        for row, (_, picture) in zip(pictures, some, strict=False):
            row[:] = picture
        yield [slot for slot, _ in some], pictures


def _ahead(
    batches: Iterable[tuple[list[_Slot], np.ndarray]], encode: Encode
) -> Iterator[tuple[list[_Slot], Moments]]:
    """What batches encode to, each given out when the next one is on its way."""
    before = None
    for slots, pictures in batches:
        now = slots, encode(pictures)
        if before is not None:
            yield before
        before = now
    if before is not None:
        yield before


def _fill(slots: list[_Slot], mean: np.ndarray, std: np.ndarray, store: Store) -> None:
    """Put the latents of a batch's frames into their clips."""
    largest = float(np.finfo(FLOAT16).max)
    for row, (job, index) in enumerate(slots):
        if not job.mean.size:
            shape = (job.left, *mean.shape[1:])
            job.mean, job.std = np.empty(shape, FLOAT16), np.empty(shape, FLOAT16)
        for what, into, value in (("mean", job.mean, mean[row]), ("std", job.std, std[row])):
            most = float(np.abs(value).max())
            if not most <= largest:  # as with one that is not a number
                raise UserError(
                    f"{_name(store, job.number)}: the {what} of frame {index}'s latents reaches "
                    f"{most:g}, float16 ends at {largest:g}; give the model whose VAE is meant "
                    "for such pictures"
                )
            into[index] = value
        job.left -= 1


def _name(store: Store, number: int) -> str:
    return f"record {number} ({store.where(number)})"
