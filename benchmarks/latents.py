"""Training from cached latents against encoding on the fly: samples per second, bytes per clip.

    python benchmarks/latents.py --json FILE

Makes a few puppets clips in a temporary folder, caches their latents with the bundled model and
trains that model from pictures and from latents in turns, so that what else the machine does
falls on both alike. Loading, decoding and the step itself are all within the time.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from memo_jax.command import Parser, keep_compilations, run
from memo_jax.data.loader import Loader
from memo_jax.data.store import Store
from memo_jax.errors import UserError
from memo_jax.puppets.__main__ import main as make_puppets
from memo_jax.sharding import make_mesh
from memo_jax.train.config import TrainConfig
from memo_jax.train.latents.__main__ import main as cache_latents
from memo_jax.train.step import Trainer
from memo_jax.weights.folder import Model
from memo_jax.weights.sources import load_model

MODEL = "tiny"
FORMS = ("images", "latents")


def parser() -> argparse.ArgumentParser:
    """The script's options."""
    p = Parser(prog="benchmarks/latents.py", description="Cached latents against encoding.")
    p.add_argument("--clips", type=int, default=16, help="puppets clips, of four seconds")
    p.add_argument("--stage", default="finetune", help="of training")
    p.add_argument("--batch", type=int, default=2, help="samples a step")
    p.add_argument("--steps", type=int, default=4, help="steps of one form before the other's turn")
    p.add_argument("--rounds", type=int, default=7, help="turns of each form")
    p.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    p.add_argument("--json", type=Path, help="a file for the numbers")
    return p


class Form:
    """Training in one form, to be run for a few steps at a time."""

    def __init__(self, config: TrainConfig, model: Model) -> None:
        self._trainer = Trainer(config, model.spec, make_mesh(0, 1))
        self._state, self._frozen = self._trainer.init(model)
        store = Store(config.data)
        self._loader = Loader(
            store, self._trainer.window, batch_size=config.batch_size, seed=config.seed
        )
        self._program = self._trainer.step(max(config.past_choices))

    def seconds(self, steps: int) -> float:
        """What so many steps take, from asking for their first batch to their last result."""
        begun = time.perf_counter()
        for _ in range(steps):
            batch = self._trainer.put(next(self._loader))
            self._state, _ = self._program(self._state, self._frozen, batch)
        jax.block_until_ready(self._state)
        return time.perf_counter() - begun

    def close(self) -> None:
        """Ends the loader's threads, so that they do not work in the other form's turn."""
        self._loader.close()


def measure(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """All numbers, as JSON can hold them."""
    places = {"images": folder / "images", "latents": folder / "latents"}
    make_puppets([f"--output={places['images']}", f"--clips={args.clips}", "--quiet"])
    cache = [f"--data={places['images']}", f"--model={MODEL}", f"--output={places['latents']}"]
    cache_latents([*cache, "--drop-images", "--quiet", f"--dtype={args.dtype}"])
    model = load_model(MODEL, np.float32)
    forms = {}
    for name in FORMS:
        config = TrainConfig(
            stage=args.stage,
            data=str(places[name]),
            form=name,
            batch_size=args.batch,
            dtype=args.dtype,
            robust_threshold=None,
        )
        forms[name] = Form(config, model)
    rates: dict[str, list[float]] = {name: [] for name in FORMS}
    for turn in range(args.rounds + 1):
        for name, form in forms.items():
            took = form.seconds(args.steps)
            form.close()
            if turn:  # the first one compiles
                rates[name].append(args.batch * args.steps / took)
    ratios = [b / a for a, b in zip(rates["images"], rates["latents"], strict=True)]
    size = {name: sum(p.stat().st_size for p in where.iterdir()) for name, where in places.items()}
    return {
        "device": jax.devices()[0].device_kind,
        "model": MODEL,
        **{k: v for k, v in vars(args).items() if k != "json"},
        "samples_per_second": rates,
        "ratios": ratios,
        "median_ratio": statistics.median(ratios),
        "bytes_per_clip": {name: round(n / args.clips) for name, n in size.items()},
    }


def as_text(found: dict) -> str:
    """A table of the numbers."""
    rows = [f"{'form':8} {'samples/s (median, all turns)':44} bytes/clip"]
    for name, rates in found["samples_per_second"].items():
        all_turns = f"{statistics.median(rates):.2f}  ({', '.join(f'{r:.2f}' for r in rates)})"
        rows.append(f"{name:8} {all_turns:44} {found['bytes_per_clip'][name]}")
    ratios = ", ".join(f"{r:.2f}" for r in found["ratios"])
    rows.append(f"latents / images: {found['median_ratio']:.2f}  ({ratios})")
    return "\n".join(rows)


def main(arguments: Sequence[str]) -> None:
    """The script.

    Raises:
      UserError: whatever the user can mend.
    """
    args = parser().parse_args(arguments)
    if min(args.clips, args.batch, args.steps, args.rounds) < 1:
        raise UserError("--clips, --batch, --steps and --rounds, expected 1 or more of each")
    keep_compilations()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args, Path(folder))
    print(as_text(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        print(f"numbers in {args.json}", file=sys.stderr)


if __name__ == "__main__":
    run("benchmarks/latents.py", main)
