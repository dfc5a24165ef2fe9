"""Batches for training: shuffled, sharded by process, made off the main thread, resumable.

All records of an epoch stand in one shuffled order, and epochs follow each other without end.
The sample at each position of that order is a function of the seed, the position and the data,
nothing else; a batch is the next `batch_size` positions, of which each process makes its
consecutive share. So the state of a loader is one number, the position: the same batches come,
row for row, whatever the number of processes, workers or threads, and going on from a state
with other numbers of these continues the same order. With another batch size it does, too.

A record that cannot be used is named in the report, and the sample of its position is drawn from
another record, which the position's own random numbers choose: batches stay whole and no
process falls behind the others.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import grain
import numpy as np
from absl import flags

from memo_jax.data.clip import BadRecord, Clip
from memo_jax.data.record import decode
from memo_jax.data.report import Report
from memo_jax.data.store import Store
from memo_jax.data.windows import WindowConfig, cut
from memo_jax.errors import UserError

# In a row that cannot be used. Where one in a hundred is bad, that is no chance.
TRIES = 16
OTHER_TRIES = 4
# Positions in the order. No training gets there, and Grain counts batches in floating point.
END = 2**48


class Loader:
    """An endless iterator of batches: what `windows.cut` makes, with a first axis of rows.

    A batch also has `record` int64 [b], the records' numbers in the store. It is a dict of numpy
    arrays, this process's share of the batch.

    Attributes:
      position: samples given out so far, by all processes together.
      report: what could not be used, of what this process has given out.
    """

    def __init__(
        self,
        store: Store,
        config: WindowConfig,
        *,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        process_count: int = 1,
        threads: int = 4,
        prefetch: int = 4,
        workers: int = 0,
        bad_share: float = 0.01,
        bad_after: int = 100,
    ) -> None:
        """Opens no file and starts no thread before the first batch is asked for.

        Args:
          store: the records.
          config: what a sample holds.
          batch_size: rows over all processes.
          seed: of order and samples, from 0 to 2**32 - 1.
          process_index: which of the processes this is.
          process_count: how many there are.
          threads: that make batches, in each worker or in this process.
          prefetch: batches ready ahead, in each worker or in this process.
          workers: processes that make batches in the place of this one's threads; their main
            module must be importable, as `multiprocessing` asks.
          bad_share: more of the records than this share cannot be used: iteration stops.
          bad_after: records seen before that is judged.

        Raises:
          UserError: numbers that do not fit, or a store without what `config` reads.
        """
        if batch_size < 1 or batch_size % process_count:
            raise UserError(
                f"batch size {batch_size} on {process_count} processes, expected a multiple of it"
            )
        if not 0 <= process_index < process_count:
            raise UserError(f"process {process_index} of {process_count}, expected one from 0")
        if not 0 <= seed < 2**32:
            raise UserError(f"seed {seed}, expected 0 to {2**32 - 1}")
        if min(threads, prefetch) < 1 or workers < 0:
            raise UserError(
                f"{threads} threads, {prefetch} batches ahead, {workers} workers; expected "
                "1, 1 and 0 at least"
            )
        has = {"images": store.layout.images, "latents": store.layout.latents is not None}
        if not has[config.form]:
            raise UserError(
                f"the data set has no {config.form}; read {next(k for k in has if has[k])}, or "
                f"prepare it with {config.form}"
            )
        self.batch_size, self.seed = batch_size, seed
        self.position = 0
        self.report = Report(bad_share, bad_after)
        self._store = store
        self._process = process_index
        self._processes = process_count
        self._reading = grain.ReadOptions(
            num_threads=min(threads, prefetch), prefetch_buffer_size=prefetch
        )
        self._workers = grain.MultiprocessingOptions(num_workers=workers)
        order = grain.MapDataset.range(len(store)).seed(seed).shuffle().repeat()
        self._samples = order.random_map(_Draw(store, config))
        self._iterator: grain.DatasetIterator | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        """This process's rows of the next batch.

        Raises:
          UserError: too many records cannot be used; the message says how many, why and which.
        """
        if self._iterator is None:
            self._iterator = self._start()
        element = next(self._iterator)
        self.position += self.batch_size
        batch = element["batch"]
        self.report.fallbacks += int(batch.pop("fallback").sum())
        self.report.add(len(batch["record"]), [self._named(*bad) for bad in element["bad"]])
        self.report.judge()
        return batch

    def get_state(self) -> dict[str, Any]:
        """What `set_state` goes on from, as JSON can hold it: after the last batch given out."""
        return {
            "position": self.position,
            "seed": self.seed,
            "data": self._store.fingerprint,
            "report": self.report.to_dict(),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, also one of another number of processes, workers or threads.

        The report goes on from that of the process whose state it is.

        Raises:
          UserError: a state of another seed or data set, which has another order.
        """
        ours = {"seed": self.seed, "data": self._store.fingerprint}
        for name, value in ours.items():
            if state[name] != value:
                raise UserError(
                    f"the data's state is of {name} {state[name]}, and this is {value}; resume "
                    "with the same data set and seed, or start anew"
                )
        self.close()
        self.position = int(state["position"])
        self.report.restore(state["report"])

    def close(self) -> None:
        """Ends threads and workers; the next batch starts them again."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def _start(self) -> grain.DatasetIterator:
        """Batches from the position on. Of each batch's shares, this process's is one."""
        if self._workers.num_workers and not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers read them; defaults unless absl ran
        share = self.batch_size // self._processes
        shares = self._samples[self.position : END].batch(share, batch_fn=_stack)
        mine = shares[self._process :: self._processes]
        return iter(mine.to_iter_dataset(self._reading).mp_prefetch(self._workers))

    def _named(self, record: int, code: str, text: str) -> tuple[str, str, str]:
        return f"record {record} ({self._store.where(record)})", code, text


class _Draw(grain.transforms.RandomMap):
    """From a record's number to {"sample": arrays, "bad": [(record, code, text), ...]}."""

    def __init__(self, store: Store, config: WindowConfig) -> None:
        self._store = store
        self._config = config

    def random_map(self, element: int, rng: np.random.Generator) -> dict[str, Any]:
        bad: list[tuple[int, str, str]] = []
        record = int(element)
        for _ in range(TRIES):
            try:
                return {"sample": self._sample(record, rng), "bad": bad}
            except BadRecord as error:
                bad.append((record, error.code, error.text))
                record = int(rng.integers(len(self._store)))
        named = "; ".join(f"record {r} ({self._store.where(r)}) {c}" for r, c, _ in bad[:3])
        raise UserError(
            f"{TRIES} records in a row cannot be used, the first: {named}; check the data set"
        )

    def _sample(self, record: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        clip = self._clip(record)

        def other(rng: np.random.Generator) -> Clip | None:
            return self._other(clip, rng)

        sample = cut(clip, rng, self._config, other)
        return {**sample, "record": np.asarray(record, np.int64)}

    def _clip(self, record: int) -> Clip:
        clip = decode(self._store[record])
        if clip.layout != self._store.layout:
            raise BadRecord("layout", f"{clip.layout}, expected {self._store.layout}")
        return clip

    def _other(self, clip: Clip, rng: np.random.Generator) -> Clip | None:
        """Another clip of the same person; damaged ones are counted when their own turn comes."""
        records = self._store.others(clip.corpus, clip.identity, clip.clip_emotion)
        for record in rng.permutation(records)[:OTHER_TRIES].tolist():
            try:
                return self._clip(record)
            except BadRecord:
                continue
        return None


def _stack(elements: Sequence[dict[str, Any]]) -> dict[str, Any]:
    samples = [element["sample"] for element in elements]
    return {
        "batch": {name: np.stack([s[name] for s in samples]) for name in samples[0]},
        "bad": [bad for element in elements for bad in element["bad"]],
    }
