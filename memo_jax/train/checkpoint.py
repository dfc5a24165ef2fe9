"""A run's checkpoints: written behind the loop's back, whole or not at all, onto any devices.

checkpoints/<step>/
  <component>/    its trained parameters, as in a model folder
  ema/            the same, averaged, by component; where the run keeps an average
  optimizer/      its state
  state/          step, seed and the last losses
  data/           where each process's loader is

.removed/ holds older ones on their way out.
"""

import contextlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as policies

from memo_jax.errors import UserError, one_line
from memo_jax.weights import checkpoint
from memo_jax.weights.components import COMPONENTS

REMOVED = ".removed"


class Checkpoints:
    """The checkpoints of one run. All processes call everything, in the same order.

    The saved step is the number of steps done. `save` returns when values have left the devices,
    so that these may be donated; `wait` when they are on disk.
    """

    def __init__(
        self, folder: Path, *, save_every: int = 1, keep_last: int = 1, keep_every: int = 0
    ) -> None:
        """Opens the folder, or makes it; what a killed process left unfinished is removed."""
        keep: list[policies.PreservationPolicy] = [policies.LatestN(keep_last)]
        if keep_every:
            keep.append(policies.EveryNSteps(keep_every))
        self.folder = folder
        self._remover = ThreadPoolExecutor(1)
        self._manager = ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(
                save_interval_steps=save_every,
                preservation_policy=policies.AnyPreservationPolicy(keep),
                cleanup_tmp_directories=True,
                # A kill in the middle of removing one must not leave what looks like a checkpoint.
                todelete_subdir=REMOVED,
                # Otherwise threads wait minutes for folders that cannot be made.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            ),
        )
        self._remove()

    @property
    def latest(self) -> int | None:
        """The newest whole checkpoint's step."""
        return self._manager.latest_step()

    def due(self, step: int) -> bool:
        """Whether a checkpoint of this step is to be kept: offered every step, so that notice of
        a machine's end, where the platform gives it, makes one too."""
        return step != self.latest and self._manager.should_save(step)

    def save(
        self, step: int, state: Any, *, seed: int, trace: Sequence[Any], data: Mapping[str, Any]
    ) -> None:
        """Begin to write a checkpoint.

        Args:
          step: steps done.
          state: a `TrainState`.
          seed: of the run.
          trace: the last losses, as JSON can hold them.
          data: this process's loader's state.

        Raises:
          UserError: it, or the one before, cannot be written.
        """
        items: dict[str, ocp.args.CheckpointArgs] = {
            name: ocp.args.PyTreeSave(tree) for name, tree in _items(state).items()
        }
        items["state"] = ocp.args.JsonSave({"step": step, "seed": seed, "trace": [*trace]})
        items["data"] = ocp.args.JsonSave({"processes": _gathered(dict(data))})
        with self._writing():
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)
        self._remove()

    def restore(self, state: Any, step: int | None = None) -> tuple[Any, dict, dict]:
        """Read a checkpoint, the newest unless named.

        Args:
          state: shapes and shardings to restore to, as arrays or `jax.ShapeDtypeStruct`s.

        Returns:
          The state; what `state/` says (step, seed, trace); and this process's loader's state.

        Raises:
          UserError: there is none, it is damaged, or it is of another state.
        """
        step = self.latest if step is None else step
        if step is None:
            raise UserError(f"{self.folder} holds no whole checkpoint")
        wanted = jax.tree.map(_abstract, _items(state))
        try:
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    **{
                        name: ocp.args.PyTreeRestore(
                            tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree)
                        )
                        for name, tree in wanted.items()
                    },
                    state=ocp.args.JsonRestore(),
                    data=ocp.args.JsonRestore(),
                ),
            )
        except Exception as error:  # Orbax and tensorstore raise many kinds for damaged files
            raise UserError(
                f"{self.folder / str(step)} cannot be gone on from ({one_line(error)[:160]}); "
                "remove it to go on from the one before"
            ) from error
        return _joined(state, found), found["state"], _mine(found["data"]["processes"])

    def wait(self) -> None:
        """Until all that was begun is written; raises as `save`."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """As `wait`, and ends the threads."""
        self.wait()
        self._manager.close()
        self._remove()
        self._remover.shutdown()

    def _remove(self) -> None:
        """Begin to remove what is not to be kept, which Orbax has only put aside."""
        if jax.process_index() == 0:
            for one in (self.folder / REMOVED).glob("*"):
                self._remover.submit(shutil.rmtree, one, ignore_errors=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"a checkpoint cannot be written to {self.folder}: {one_line(error)[:200]}"
            ) from error


def latest(run: Path) -> int | None:
    """The newest whole checkpoint of a run's folder."""
    return max(_steps(run / "checkpoints"), default=None)


def step_folder(path: Path) -> Path:
    """The checkpoint that `path` names: a step's folder itself, or a run's newest.

    Raises:
      UserError: it names none.
    """
    if path.name.isdigit() and int(path.name) in _steps(path.parent):
        return path
    step = latest(path)
    if step is None:
        raise UserError(
            f"{path} holds no whole checkpoint; expected RUN or RUN/checkpoints/<step> of a run"
        )
    return path / "checkpoints" / str(step)


def trained_values(path: Path, *, ema: bool | None = None) -> dict[str, dict[str, np.ndarray]]:
    """{component: {parameter path: array}} of what was trained.

    Args:
      path: a run's folder, of which the newest checkpoint is read, or one checkpoint's.
      ema: the averaged values; where the run kept them, unless said.

    Raises:
      UserError: there is no checkpoint, no average, or it is damaged.
    """
    folder = step_folder(path)
    averaged = (folder / "ema").is_dir()
    if ema and not averaged:
        raise UserError(f"{folder} has no ema/: the run kept no average; take the trained values")
    if averaged and ema is not False:
        return _by_component(checkpoint.restore(folder / "ema"))
    names = sorted(child.name for child in folder.iterdir() if child.name in COMPONENTS)
    return {name: checkpoint.restore(folder / name) for name in names}


def _steps(folder: Path) -> list[int]:
    return ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []


def _items(state: Any) -> dict[str, dict[str, Any]]:
    """What a state holds as nested dicts of strings by item; checkpoints name no class of ours.
    The step is in the JSON beside them."""
    items: dict[str, Any] = dict(_nested(state.trained))
    leaves = _optimizer(state)
    if leaves:
        items["optimizer"] = _nested(leaves)
    if state.ema is not None:
        items["ema"] = _nested(state.ema)
    return items


def _joined(state: Any, found: Mapping[str, Any]) -> Any:
    """`state` with the values of what was read."""
    trained = {
        f"{name}/{path}": value
        for name in _nested(state.trained)
        for path, value in _flat(found[name]).items()
    }
    leaves = _flat(found["optimizer"]) if _optimizer(state) else {}
    optimizer = jax.tree.unflatten(
        jax.tree.structure(state.opt_state), [leaves[name] for name in _optimizer(state)]
    )
    step = np.asarray(found["state"]["step"], state.step.dtype)
    return state.replace(
        # As all of the state, on all of its devices.
        step=jax.make_array_from_callback((), state.step.sharding, lambda index: step[index]),
        trained={name: trained[name] for name in state.trained},
        opt_state=optimizer,
        ema=None if state.ema is None else {name: _flat(found["ema"])[name] for name in state.ema},
    )


def _optimizer(state: Any) -> dict[str, Any]:
    """The optimizer's leaves by where they are in it."""
    leaves = jax.tree.leaves_with_path(state.opt_state)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    return unflatten_dict(dict(values), sep="/")


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return flatten_dict(dict(tree), sep="/")


def _by_component(values: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, value in values.items():
        component, _, path = name.partition("/")
        found.setdefault(component, {})[path] = value
    return found


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _gathered(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Every process's state, in all of them."""
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    if jax.process_count() == 1:
        return [state]
    sizes = multihost_utils.process_allgather(np.asarray(len(text)))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(text)] = text
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(bytes(row[:n])) for row, n in zip(rows, sizes, strict=True)]


def _mine(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """This process's state. Where the number of processes is another, the first goes on with
    all that was counted before, so that nothing is counted twice or lost."""
    if len(states) == jax.process_count():
        return states[jax.process_index()]
    reports = [state["report"] for state in states]
    report: dict[str, Any] = {"seen": 0, "reasons": {}, "names": {}, "fallbacks": 0}
    if jax.process_index() == 0:
        report["seen"] = sum(one["seen"] for one in reports)
        report["fallbacks"] = sum(one["fallbacks"] for one in reports)
        report["reasons"] = dict(sum((Counter(one["reasons"]) for one in reports), Counter()))
        report["names"] = {name: why for one in reports for name, why in one["names"].items()}
    return {**states[0], "report": report}
