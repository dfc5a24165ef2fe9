"""`python -m memo_jax.train`: trains a model, from the start or from where it stopped.

    python -m memo_jax.train --config configs/stage1.py --data DIR --model START --run DIR

The same line goes on after a stop, on as many devices and machines as there are then. On every
machine of a TPU pod or cluster it is the same line, too.
"""

import argparse
import ast
import contextlib
import dataclasses
import difflib
import functools
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from memo_jax.command import (
    INTERRUPTED,
    Parser,
    Stop,
    keep_compilations,
    read_config,
    run,
    stopping,
)
from memo_jax.data.loader import Loader
from memo_jax.data.store import Store
from memo_jax.errors import UserError, one_line
from memo_jax.sharding import make_mesh
from memo_jax.train import loop, samples
from memo_jax.train.checkpoint import Checkpoints
from memo_jax.train.config import TrainConfig
from memo_jax.train.distill import made
from memo_jax.train.log import Log
from memo_jax.train.run import RunConfig, RunFolder, check_data, is_run, open_run, run_model
from memo_jax.train.step import Trainer
from memo_jax.train.trainers import trainer_of
from memo_jax.weights.sources import load_model, model_folder
from memo_jax.weights.spec import read_spec

NAME = "memo_jax.train"
OVERRIDE = "--config."

# At the end each process waits so long for the others.
SHUTDOWN_SECONDS = 60

NEVER = 2**62  # steps


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = Parser(prog=NAME, description="Trains a model; the same line goes on after a stop.")
    p.add_argument("--config", required=True, help="a config file (configs/stage1.py)")
    p.add_argument("--data", help="a prepared data set's folder; the config's unless given")
    p.add_argument(
        "--model", help="what to start from: a model, or a run; the config's unless given"
    )
    p.add_argument("--run", required=True, help="the run's folder; one that is there goes on")
    p.add_argument(
        "--accept-changes",
        action="store_true",
        help="go on with this config where the run was begun with another",
    )
    p.add_argument(
        "--distributed",
        default="auto",
        help="auto: as the TPU pod or cluster says; off; or ADDRESS:PORT,PROCESSES,INDEX",
    )
    p.epilog = f"{OVERRIDE}FIELD=VALUE sets a field of the config, such as {OVERRIDE}batch_size=8"
    return p


def main(arguments: Sequence[str]) -> None:
    """The command.

    Raises:
      UserError: whatever the user can mend.
      SystemExit: 130, after Ctrl-C; all is saved.
    """
    args, overrides = _parse(arguments)
    config, settings = configure(args, overrides)
    message = "stopping after this step; once more loses what is not saved"
    # In this order: connecting the processes sets signal handlers of its own.
    with _distributed(args.distributed), stopping(message) as stop:
        keep_compilations()
        ended = _train(config, settings, args, stop)
        if not ended.done:
            _tell(f"stopped at step {ended.step}, saved; the same line goes on from there")
    # Who takes a machine away wants to hear that all is well; after Ctrl-C nothing that follows in
    # the same line, such as the next stage, may begin. Out here, where processes have parted.
    if not ended.done and stop.asked == signal.SIGINT:
        raise SystemExit(INTERRUPTED)


def configure(args: argparse.Namespace, overrides: Sequence[str]) -> tuple[TrainConfig, RunConfig]:
    """The config of a command line.

    Raises:
      UserError: it has a field that does not exist, or a value that makes no sense.
    """
    values = read_config(args.config).to_dict()
    for override in overrides:
        _set(values, override)
    settings = RunConfig.from_dict(values.pop("run", {}))
    for name in ("data", "model"):
        if getattr(args, name) is not None:
            values[name] = getattr(args, name)
        elif not values.get(name):
            raise UserError(f"no --{name}, and the config has none; give it")
    return TrainConfig.from_dict(values), settings


def _train(
    config: TrainConfig, settings: RunConfig, args: argparse.Namespace, stop: Stop
) -> loop.Ended:
    first = jax.process_index() == 0
    folder = _start(config.model)
    spec = read_spec(folder)
    store = Store(config.data)
    check_data(store.layout, spec, config)
    trainer = trainer_of(config, spec, make_mesh(config.data_axis, config.fsdp_axis))
    values = config.to_dict()
    values.pop("data")  # may lie elsewhere the next time; its state says what it is
    path = open_run(
        args.run,
        {**values, "run": settings.to_dict()},
        made(config, spec),
        folder,
        accept_changes=args.accept_changes,
        write=first,
    )
    loader = Loader(
        store,
        trainer.window,
        batch_size=config.batch_size,
        seed=config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        threads=config.threads,
        prefetch=config.prefetch,
        workers=config.workers,
        bad_share=config.bad_share,
    )
    with _host():
        model = load_model(folder, np.float32)
    state, frozen = trainer.init(model)
    del model
    checkpoints = Checkpoints(
        path.checkpoints,
        save_every=config.checkpoint_every or NEVER,
        keep_last=config.keep,
        keep_every=settings.keep_every,
    )
    trace: list[list[float]] = []
    if checkpoints.latest is not None:
        state, said, where = checkpoints.restore(loop.forget(state))
        loader.set_state(where)
        trace = said["trace"]
        _tell(f"going on from step {said['step']}{loop.last_loss(trace)}")
    step = int(state.step)
    log = Log(path.path, step, tensorboard=settings.tensorboard, tell=_tell) if first else None
    with contextlib.closing(loader), contextlib.closing(checkpoints):
        try:
            return loop.train(
                trainer,
                state,
                frozen,
                loader,
                checkpoints,
                log,
                stop,
                loop.Options(
                    config.total_steps,
                    config.batch_size,
                    config.seed,
                    config.log_every,
                    config.sample_every,
                ),
                loop.Hooks(
                    tell=_tell,
                    say=_say,
                    where=store.where,
                    sample=functools.partial(_sample, path, folder, trainer, frozen, settings),
                ),
                trace,
            )
        finally:
            if log is not None:
                log.close()


def _start(model: str) -> Path:
    """The native folder of the model to start from; of a run, what it has made.

    Raises:
      UserError: there is none; or it is a run, and there are several processes.
    """
    if not is_run(Path(model)):
        return model_folder(model)
    if jax.process_count() > 1:  # each would write it, and Orbax makes them wait for each other
        raise UserError(
            f"{model} is a run, not a model; write the model that it made once, with "
            f"python -m tools.convert_weights import {model} NEW, and start all processes from that"
        )
    return run_model(Path(model), _tell)


def _sample(
    path: RunFolder,
    folder: Path,
    trainer: Trainer,
    frozen: Any,
    settings: RunConfig,
    step: int,
    state: Any,
) -> None:
    """A sample video by the first process, of what all read together."""
    config = trainer.config
    values = samples.on_host(trainer.weights(state, frozen, ema=state.ema is not None))
    model = samples.read_with(folder, values, config.dtype)
    model = dataclasses.replace(model, spec=path.spec)  # its sampler may be another
    if jax.process_index() == 0:
        made = samples.make_sample(path, step, model, settings, seed=config.seed)
        _tell(f"sample of step {step}: {made}")


def _host() -> contextlib.AbstractContextManager[Any]:
    """Within the block, new arrays are in the host's memory: one device may not hold all of a
    model that many share."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError as error:  # JAX_PLATFORMS leaves it out
        _tell(f"the model is read through a device: {one_line(error)}")
        return contextlib.nullcontext()


@contextlib.contextmanager
def _distributed(how: str) -> Iterator[None]:
    """Within the block, all processes of the run know each other.

    Raises:
      UserError: `how` is none of the ways, or they do not find each other.
    """
    if how == "off":
        yield
        return
    address: dict[str, Any] = {}
    if how != "auto":
        place, *numbers = how.split(",")
        if ":" not in place or len(numbers) != 2 or not all(n.isdigit() for n in numbers):
            raise UserError(
                f"--distributed {how!r}: expected auto, off or ADDRESS:PORT,PROCESSES,INDEX"
            )
        address = {
            "coordinator_address": place,
            "num_processes": int(numbers[0]),
            "process_id": int(numbers[1]),
        }
    try:
        jax.distributed.initialize(**address, shutdown_timeout_seconds=SHUTDOWN_SECONDS)
    except ValueError as error:
        if how == "auto" and "coordinator_address" in str(error):  # no pod and no cluster
            yield
            return
        raise UserError(f"--distributed {how}: {one_line(error)}") from error
    except RuntimeError as error:
        raise UserError(f"--distributed {how}: {one_line(error)}") from error
    try:
        yield
    except UserError:  # mostly all processes', which end together
        jax.distributed.shutdown()
        raise
    jax.distributed.shutdown()


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    overrides = [a.removeprefix(OVERRIDE) for a in arguments if a.startswith(OVERRIDE)]
    rest = [a for a in arguments if not a.startswith(OVERRIDE)]
    options = parser()
    args, unknown = options.parse_known_args(rest)
    fields = TrainConfig().to_dict()
    for argument in unknown:
        name, _, value = argument.partition("=")
        field = name.removeprefix("--").replace("-", "_")
        if argument.startswith("--") and field in fields:
            options.error(f"{name} is a field of the config: {OVERRIDE}{field}={value or 'VALUE'}")
    if unknown:
        options.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args, overrides


def _set(values: dict[str, Any], override: str) -> None:
    """Set one field of a config from `name=value` or `section.name=value`."""
    name, equals, text = override.partition("=")
    if not equals:
        raise UserError(f"{OVERRIDE}{override}: expected {OVERRIDE}FIELD=VALUE")
    known: Any = TrainConfig().to_dict() | {"run": RunConfig().to_dict()}
    *sections, last = name.split(".")
    for part in [*sections, last]:
        if not isinstance(known, dict) or part not in known:
            names = list(known) if isinstance(known, dict) else []
            near = difflib.get_close_matches(part, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
            raise UserError(f"{OVERRIDE}{name}: there is no field {part}; {hint}")
        known = known[part]
    for section in sections:
        values = values.setdefault(section, {})
    values[last] = text if isinstance(known, str) else _literal(text)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _tell(line: str) -> None:
    if jax.process_index() == 0:
        tqdm.write(line, file=sys.stderr)


def _say(line: str) -> None:
    several = jax.process_count() > 1
    tqdm.write(f"process {jax.process_index()}: {line}" if several else line, file=sys.stderr)


if __name__ == "__main__":
    run(NAME, main)
