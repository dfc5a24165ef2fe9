"""The loop around the training step: batches in, checkpoints and numbers out, until it is done
or asked to stop."""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

from memo_jax.data.report import Report
from memo_jax.errors import UserError
from memo_jax.train import log as logs
from memo_jax.train.checkpoint import Checkpoints

# Steps that the host runs ahead of the devices: enough to keep them busy, and the time that
# several processes have to agree.
AHEAD = 2
GOES_ON, STOPS, FAILS = 0, 1, 2
TRACE = 32  # losses in a checkpoint
SAMPLE_SECONDS = 3600  # that the other processes wait for a sample video


class Trainer(Protocol):
    """What the loop asks of the step; `train.step.Trainer` is the one."""

    def past_frames(self, step: int) -> int:
        """How many past frames the batch of this step has."""
        ...

    def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """This process's rows of a batch, on the devices as part of the whole batch."""
        ...

    def step(self, past_frames: int) -> Any:
        """The jitted (state, frozen, batch) -> (state, metrics)."""
        ...


class Data(Protocol):
    """What the loop asks of the loader; `data.loader.Loader` is the one."""

    report: Report

    def __next__(self) -> dict[str, np.ndarray]: ...

    def get_state(self) -> dict[str, Any]:
        """Where it is, after the last batch given out."""
        ...


class Asked(Protocol):
    """Whether to stop; `command.Stop` is the one."""

    asked: int


@dataclass(frozen=True)
class Options:
    """Numbers of the loop; those that say `every` are in steps, and 0 is never."""

    steps: int
    batch_size: int
    seed: int
    log_every: int = 10
    sample_every: int = 0


@dataclass(frozen=True)
class Hooks:
    """What the loop calls.

    Attributes:
      tell: prints a line; of process 0 alone.
      say: prints a line of this process.
      where: a record's name.
      sample: makes a sample video of a step's state; it may fail.
    """

    tell: Callable[[str], None]
    say: Callable[[str], None]
    where: Callable[[int], str] = str
    sample: Callable[[int, Any], None] | None = None


@dataclass(frozen=True)
class Ended:
    """How it went: the last state, the steps done, and whether all are."""

    state: Any
    step: int
    done: bool


class Diverged(UserError):
    """Numbers that are not finite; the message says where, and what is left."""


def train(
    trainer: Trainer,
    state: Any,
    frozen: Any,
    loader: Data,
    checkpoints: Checkpoints,
    log: logs.Log | None,
    stop: Asked,
    options: Options,
    hooks: Hooks,
    trace: list[list[float]] | None = None,
) -> Ended:
    """Train from `state` until all steps are done, or a stop is asked for in any process.

    A checkpoint is there of the beginning, whenever one is due, and of the end; all of them are on
    disk, whole, when this returns or raises.

    Args:
      state: is donated.
      log: of process 0; None in the others.
      trace: the last [step, loss]s, of the checkpoint that this goes on from.

    Raises:
      Diverged: a step was not finite. Nothing was saved since.
      UserError: too much of the data cannot be used, in some process; or a checkpoint cannot be
        written. All steps until then are saved where they can be.
    """
    step = int(state.step)
    feed = _Feed(loader, stop)
    watch = _Watch(options, hooks, log, loader.report, checkpoints, deque(trace or [], TRACE))
    programs: dict[int, Any] = {}

    def save() -> None:
        watch.settle()  # what is not finite must not be saved
        checkpoints.save(
            step, state, seed=options.seed, trace=list(watch.trace), data=feed.position
        )

    try:
        if checkpoints.latest is None:
            save()
        while step < options.steps and (batch := feed.next()) is not None:
            past = trainer.past_frames(step)
            arrays = trainer.put(_cut(batch, past))
            if past not in programs:
                programs[past] = watch.compiled(trainer.step(past), past, (state, frozen, arrays))
            state, metrics = programs[past](state, frozen, arrays)
            step += 1
            watch.add(step, past, metrics, batch["record"])
            if checkpoints.due(step):
                save()
            if options.sample_every and step % options.sample_every == 0:
                watch.sample(step, state)
        if step != checkpoints.latest:
            save()
        watch.settle()
    finally:
        watch.bar.close()
        checkpoints.wait()
    if feed.failure is not None:
        raise feed.failure
    return Ended(state, step, step >= options.steps)


def _cut(batch: Mapping[str, np.ndarray], past: int) -> dict[str, np.ndarray]:
    """The batch with no more past frames than the step looks at."""
    return {
        name: rows[:, rows.shape[1] - past :] if name.startswith("past") else rows
        for name, rows in batch.items()
    }


class _Feed:
    """Batches until the end, which all processes see before the same step.

    Whether to go on is agreed upon when a batch is fetched, and looked at when it is used; several
    processes fetch some ahead, so that nobody waits for the agreement, and one whose data fails
    still has batches for the steps until then.
    """

    def __init__(self, loader: Data, stop: Asked) -> None:
        self.position = loader.get_state()
        self.failure: UserError | None = None
        self._loader, self._stop = loader, stop
        self._waiting: deque[tuple[dict[str, np.ndarray], dict[str, Any], Any]] = deque()
        self._ahead = AHEAD if jax.process_count() > 1 else 0
        self._agree = _agreement()

    def next(self) -> dict[str, np.ndarray] | None:
        """The next batch; None where all processes stop."""
        while len(self._waiting) <= self._ahead:
            self._waiting.append(self._fetched())
        batch, position, agreed = self._waiting.popleft()
        decided = int(agreed)
        if decided == FAILS and self.failure is None:
            self.failure = UserError("stopped because another process's data failed; see its words")
        if decided != GOES_ON:
            return None
        self.position = position
        return batch

    def _fetched(self) -> tuple[dict[str, np.ndarray], dict[str, Any], Any]:
        if self._stop.asked or self.failure is not None:
            return {}, {}, self._agree(FAILS if self.failure is not None else STOPS)
        try:
            batch = next(self._loader)
        except UserError as error:
            self.failure = error
            return {}, {}, self._agree(FAILS)
        return batch, self._loader.get_state(), self._agree(GOES_ON)


def _agreement() -> Callable[[int], Any]:
    """What takes each process's word and gives the gravest, as a number or a promise of one."""
    if jax.process_count() == 1:
        return lambda word: word
    mesh = Mesh(np.array(jax.devices()), ("all",))
    gravest = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))

    def agree(word: int) -> jax.Array:
        words = np.full(jax.local_device_count(), word, np.int32)
        split = NamedSharding(mesh, P("all"))
        return gravest(jax.make_array_from_process_local_data(split, words))

    return agree


@dataclass
class _Watch:
    """The numbers of steps, fetched when the devices have them, not before."""

    options: Options
    hooks: Hooks
    log: logs.Log | None
    report: Report
    checkpoints: Checkpoints
    trace: deque[list[float]]
    bar: tqdm = field(init=False)
    _waiting: deque[tuple[int, int, Mapping[str, jax.Array], np.ndarray]] = field(
        default_factory=deque
    )
    _rows: list[dict[str, float]] = field(default_factory=list)
    _flops: dict[int, float | None] = field(default_factory=dict)
    _since: float = field(default_factory=time.monotonic)
    _bad: int = 0

    def __post_init__(self) -> None:
        self._bad = self.report.bad
        off = True if self.log is None else None  # of process 0, and on a terminal
        self.bar = tqdm(total=self.options.steps, unit="step", disable=off, dynamic_ncols=True)

    def compiled(self, step: Any, past: int, args: tuple[Any, ...]) -> Any:
        """The step's program; says how long that took."""
        self.settle()
        with _Pause(self) as pause:
            lowered = step.lower(*args)
            # Counted before the compiler changes it; TPUs do not tell.
            self._flops[past] = (lowered.cost_analysis() or {}).get("flops")
            program = lowered.compile()
        self.hooks.tell(f"step for {past} past frames compiled in {pause.seconds:.1f} s")
        return program

    def sample(self, step: int, state: Any) -> None:
        """A sample video, whose failure is said and no more."""
        self.settle()
        if self.hooks.sample is None:
            return
        with _Pause(self):
            try:
                self.hooks.sample(step, state)
            except Exception as error:  # whatever it is, training goes on
                reason = " ".join(str(error).split())[:200]
                self.hooks.tell(f"no sample of step {step}: {type(error).__name__}: {reason}")
            # One process is at work; in a collective the others would not wait so long.
            together = ocp.multihost.get_barrier_sync_fn()
            together(key=f"sample of {step}", timeout_ms=SAMPLE_SECONDS * 1000)

    def add(
        self, step: int, past: int, metrics: Mapping[str, jax.Array], records: np.ndarray
    ) -> None:
        """What a step gave; fetched once there are some after it."""
        for value in metrics.values():
            if value.is_fully_replicated:
                value.copy_to_host_async()
        self._waiting.append((step, past, metrics, records))
        self.bar.n = step
        self.bar.update(0)
        self.settle(AHEAD)

    def settle(self, left: int = 0) -> None:
        """Look at all but the newest `left` steps.

        Raises:
          Diverged: one was not finite.
        """
        while len(self._waiting) > left:
            step, past, metrics, records = self._waiting.popleft()
            if not bool(metrics["finite"]):
                raise self._diverged(step, metrics, records)
            row = {name: float(v) for name, v in metrics.items() if not v.ndim and name != "finite"}
            self._rows.append({**row, "flops": self._flops[past] or 0.0})
            self.trace.append([step, row["loss"]])
            if self.options.log_every and step % self.options.log_every == 0:
                self._write(step)

    def _write(self, step: int) -> None:
        rows, self._rows = self._rows, []
        now = time.monotonic()
        seconds, self._since = (now - self._since) / len(rows), now

        def total(name: str) -> float:
            return math.fsum(row[name] for row in rows)

        kept, dropped = total("kept"), total("dropped")
        # Of samples, not of steps: one whose samples are all left out has a loss of 0.
        loss = math.fsum(row["loss"] * row["kept"] for row in rows) / max(kept, 1)
        values = {
            "loss": loss,
            "loss_unfiltered": total("loss_unfiltered") / len(rows),
            "dropped_share": dropped / max(kept + dropped, 1),
            "grad_norm": total("grad_norm") / len(rows),
            "lr": rows[-1]["lr"],
            "step_seconds": seconds,
            "samples_per_second": self.options.batch_size / seconds,
            "data_bad": self.report.bad,
            **logs.memory(),
        }
        mfu = logs.utilization(total("flops") / len(rows), seconds)
        if mfu is not None:
            values["mfu"] = mfu
        if self.log is not None:
            self.log.write(step, values)
        self.bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        if self.report.bad > self._bad:
            self._bad = self.report.bad
            self.hooks.say(f"data: {self.report}")

    def _diverged(
        self, step: int, metrics: Mapping[str, jax.Array], records: np.ndarray
    ) -> Diverged:
        losses = np.atleast_1d(_everywhere(metrics["losses"]))
        if jax.process_count() > 1:
            records = multihost_utils.process_allgather(records.astype(np.int32), tiled=True)
        bad = records[~np.isfinite(losses)] if not np.isfinite(losses).all() else records
        what = "loss" if not np.isfinite(losses).all() else "gradient"
        named = ", ".join(f"{r} ({self.hooks.where(int(r))})" for r in bad[:8])
        return Diverged(
            f"step {step}: the {what} is not finite; record(s) {named}; the checkpoint of step "
            f"{self.checkpoints.latest} is from before it: lower the learning rate or mend the "
            "data, and go on from there"
        )


def _everywhere(value: jax.Array) -> np.ndarray:
    """An array that may lie on several processes' devices."""
    if value.is_fully_addressable or value.is_fully_replicated:
        return np.asarray(value)
    return np.asarray(multihost_utils.process_allgather(value, tiled=True))


class _Pause:
    """Time within the block is not the steps'."""

    def __init__(self, watch: _Watch) -> None:
        self._watch = watch
        self.seconds = 0.0

    def __enter__(self) -> "_Pause":
        self._began = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.monotonic() - self._began
        self._watch._since += self.seconds


def last_loss(trace: list[list[float]]) -> str:
    """The newest loss of a checkpoint's trace, in words; empty at the beginning."""
    return f" (loss {trace[-1][1]:.4f})" if trace else ""


def forget(state: Any) -> Any:
    """The shapes and shardings of a state, whose memory is given back."""

    def shape(leaf: jax.Array) -> jax.ShapeDtypeStruct:
        known = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
        leaf.delete()
        return known

    return jax.tree.map(shape, state)
