"""`python -m memo_jax.train.latents`: adds the VAE's latents to a prepared data set.

    python -m memo_jax.train.latents --data DATA --model MODEL --output NEW

The new set has the same clips in the same order, with everything that they hold; training reads
its latents (`form="latents"`) in the place of encoding pictures at every step.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from memo_jax.command import Parser, keep_compilations, run
from memo_jax.data.clip import Clip
from memo_jax.data.record import decode
from memo_jax.data.report import Report
from memo_jax.data.store import Store, write_shards
from memo_jax.errors import UserError
from memo_jax.models.vae import VAE
from memo_jax.sharding import make_mesh
from memo_jax.train.latents.encode import add_latents, encoder
from memo_jax.train.run import is_run, run_model
from memo_jax.weights.folder import read_component
from memo_jax.weights.sources import model_folder
from memo_jax.weights.spec import read_spec

NAME = "memo_jax.train.latents"
DTYPES: dict[str, Any] = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = Parser(prog=NAME, description="Adds the VAE's latents to a prepared data set.")
    p.add_argument("--data", required=True, help="the data set's folder")
    p.add_argument(
        "--model", required=True, help="whose VAE encodes: the model to be trained, or a run"
    )
    p.add_argument("--output", required=True, help="the folder to write, a new one")
    p.add_argument("--drop-images", action="store_true", help="leave the pictures out")
    p.add_argument("--batch", type=int, default=64, help="pictures encoded at once, of all devices")
    p.add_argument(
        "--dtype", choices=tuple(DTYPES), help="what matmuls run in (bfloat16; on CPU float32)"
    )
    p.add_argument("--shard-size", type=int, default=64, help="clips in a file")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    return p


def main(arguments: Sequence[str]) -> None:
    """The command.

    Raises:
      UserError: whatever the user can mend.
    """
    args = parser().parse_args(arguments)
    if args.batch < 1:
        raise UserError(f"--batch {args.batch}, expected 1 or more")
    store = Store(args.data)
    if not store.layout.images:
        raise UserError(f"{args.data} has no pictures to encode; give a data set that has them")
    keep_compilations()
    begun = time.perf_counter()
    report, counts = Report(), Counts()
    write_shards(args.output, _made(args, store, report, counts), args.shard_size)
    seconds = time.perf_counter() - begun
    if report.bad:
        print(f"{NAME}: left out: {report}", file=sys.stderr)
    was, now = (_bytes(Path(folder)) for folder in (args.data, args.output))
    print(
        f"{args.output}: {counts.clips} clips, {counts.frames} frames, in {seconds:.1f} s, "
        f"{now / 1e6:.1f} MB (before {was / 1e6:.1f} MB)\n"
        f"latents' standard deviation {counts.deviation:.4g}, which a VAE's scaling_factor of "
        f"{1 / max(counts.deviation, 1e-30):.4g} makes 1; the model has {counts.scaling:.4g}"
    )


def _made(
    args: argparse.Namespace, store: Store, report: Report, counts: "Counts"
) -> Iterator[bytes]:
    """The new records. Nothing is read before the first one is asked for, so that a folder that
    is there already is refused at once."""
    path = Path(args.model)
    folder = run_model(path, _tell) if is_run(path) else model_folder(args.model)
    spec = read_spec(folder, whole=False)
    if "vae" not in spec.parts:
        raise UserError(f"the model {args.model} has no VAE; give one that has")
    factor, size = spec.parts["vae"].config.factor, store.layout.size
    counts.scaling = spec.parts["vae"].config.scaling_factor
    if size % factor:
        raise UserError(
            f"pictures of {size} pixels a side, expected a multiple of {factor}, a latent's "
            f"pixels in {args.model}; prepare the data set in another size"
        )
    dtype = args.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    mesh = make_mesh(0, 1, jax.local_devices())
    vae = read_component(folder, spec, "vae", DTYPES[dtype])
    assert isinstance(vae, VAE)
    encode = encoder(vae, mesh)
    batch = -(-args.batch // mesh.size) * mesh.size
    new = add_latents(store, encode, batch, report, drop_images=args.drop_images)
    for record in tqdm(new, total=len(store), unit="clip", disable=args.quiet):
        counts.add(decode(record))
        yield record


@dataclass
class Counts:
    """What was written: clips, frames, and sums of all latents' means."""

    clips: int = 0
    frames: int = 0
    scaling: float = 1.0
    values: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, clip: Clip) -> None:
        """Count a clip."""
        assert clip.latents_mean is not None
        mean = clip.latents_mean.astype(np.float64)
        self.clips, self.frames = self.clips + 1, self.frames + clip.frames
        self.values += mean.size
        self.total += float(mean.sum())
        self.squares += float(np.square(mean).sum())

    @property
    def deviation(self) -> float:
        """The standard deviation over all places, frames and channels."""
        n = max(self.values, 1)
        return max(self.squares / n - (self.total / n) ** 2, 0.0) ** 0.5


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def _bytes(folder: Path) -> int:
    """Of a data set's shards."""
    return sum(path.stat().st_size for path in folder.glob("*.array_record"))


if __name__ == "__main__":
    run(NAME, main)
