"""Does training learn? Small networks, from nothing, on eight clips of drawn faces.

    python benchmarks/overfit.py --output FOLDER

writes overfit.csv, the loss of every step, and overfit.png, its picture. Eight clips can be learnt
by heart, so the loss must fall far: to less than a tenth of the first step's within 500 steps, or
the command exits with 1. It is the training command that trains, with the joint stage and its loss;
of what it does otherwise (`configs/stage2b.py`) the config below leaves out what hides or slows
down learning by heart: the robust filter, whose threshold is below the first losses, and the
dropping of conditions.

Each clip is as long as a sample, so every step sees all eight of them whole, with fresh noise at
fresh levels and another frame as the reference; the past frames are copies of the first frame, as
at the start of a video.
"""

import dataclasses
import math
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import UInt8
from ml_collections import ConfigDict
from PIL import Image, ImageDraw, ImageFont

from memo_jax.command import Parser, run
from memo_jax.data.clip import read_frame
from memo_jax.data.record import decode
from memo_jax.data.store import Store, write_shards
from memo_jax.errors import UserError, one_line
from memo_jax.puppets.clips import PuppetSet, records
from memo_jax.train import __main__ as training
from memo_jax.train.latents import __main__ as latents
from memo_jax.train.log import read_metrics
from memo_jax.weights.build import CountingRngs
from memo_jax.weights.components import component
from memo_jax.weights.folder import Model, write_model
from memo_jax.weights.sources import preset_folder
from memo_jax.weights.spec import ModelSpec, read_spec

NAME = "benchmarks/overfit.py"
CLIPS = 8
FRAMES = 8  # of a clip of one second
PAST = 2
WIDTH = 32
BOUND = 0.1  # of the first loss
LAST = 10  # steps that the last loss is the mean of
LOG_VARIANCE = -10.0  # of the latents: next to none, as a trained VAE's


def get_config(arg: str = "") -> ConfigDict:
    """The training run's config."""
    config = ConfigDict()
    config.stage = "2b"
    config.form = "latents"
    config.frames = FRAMES
    config.past_frames = (PAST,)
    config.seed = 0
    config.batch_size = CLIPS
    config.steps = 500
    config.learning_rate = 2e-3
    config.warmup_steps = 20
    config.weight_decay = 0.0
    config.robust_threshold = None
    config.drop = {"reference": 0.0, "audio": 0.0, "emotion": 0.0, "past": 0.0}
    config.still_past = 0.0
    config.audio_edge = 0.0
    config.dtype = "float32"
    config.data_axis = 1
    config.log_every = 1
    config.checkpoint_every = 0
    config.run = {"tensorboard": False}
    return config.lock()


def overfit(folder: Path, spec: ModelSpec, *, steps: int, seed: int) -> list[float]:
    """Train networks of this spec from nothing on eight clips; the loss of every step.

    Args:
      folder: an empty one, to work in.
      spec: of a model that hears in log-mel bands and knows people by pixels, as `tiny`.
      steps: of training.
      seed: of clips, weights and training.

    Raises:
      UserError: it was stopped before it was done.
    """
    size = spec.sampler.image_size
    plan = PuppetSet(clips=CLIPS, seed=seed, size=size, fps=FRAMES, seconds=1.0, per_identity=1)
    write_shards(folder / "clips", records(plan))
    write_model(folder / "start", fresh(spec, seed, _pictures(Store(folder / "clips"))))
    start, data = str(folder / "start"), str(folder / "data")
    latents.main(["--data", str(folder / "clips"), "--model", start, "--output", data, "--quiet"])
    training.main(
        [
            *("--config", __file__, "--data", data, "--model", start),
            *("--run", str(folder / "run"), "--distributed=off"),
            *(f"--config.steps={steps}", f"--config.seed={seed}"),
        ]
    )
    losses = [line["loss_unfiltered"] for line in read_metrics(folder / "run")]
    if len(losses) < steps:
        raise UserError(f"stopped after {len(losses)} of {steps} steps; nothing was written")
    return losses


def networks() -> ModelSpec:
    """The bundled `tiny` with one resolution in the place of three, and one attention in a motion
    module; in every layer there are all modules. The whole one's step compiles for minutes."""
    spec = read_spec(preset_folder("tiny"))
    parts = dict(spec.parts)
    for name in ("reference_net", "diffusion_net"):
        config = dataclasses.replace(
            parts[name].config,
            block_out_channels=(WIDTH,),
            down_attention=(True,),
            up_attention=(True,),
        )
        parts[name] = dataclasses.replace(parts[name], config=config)
    net = parts["diffusion_net"].config
    motion = dataclasses.replace(net.motion, attentions_per_block=1)
    net = dataclasses.replace(net, motion=motion, motion_resolutions=(1,))
    parts["diffusion_net"] = dataclasses.replace(parts["diffusion_net"], config=net)
    return dataclasses.replace(spec, parts=parts)


def fresh(spec: ModelSpec, seed: int, pictures: UInt8[np.ndarray, "n s s 3"]) -> Model:
    """A model with weights as initialised, but for its VAE's last layer: latents of `pictures` have
    mean 0 and variance 1 in every channel, and next to no noise of their own.

    A trained VAE's are such, times its scaling factor. As initialised, their noise would be most of
    them, which nobody can learn.
    """
    vae = dataclasses.replace(spec.parts["vae"].config, scaling_factor=1.0)
    parts = spec.parts | {"vae": dataclasses.replace(spec.parts["vae"], config=vae)}
    modules = {}
    for i, (name, part) in enumerate(parts.items()):
        rngs = CountingRngs(jax.random.fold_in(jax.random.key(seed), i))
        modules[name] = component(name).module(part.config, rngs=rngs)
    _standardise(modules["vae"], pictures)
    return Model(dataclasses.replace(spec, name="fresh", notes="", parts=parts), modules)


def _standardise(vae: Any, pictures: UInt8[np.ndarray, "n s s 3"]) -> None:
    graphdef, params = nnx.split(vae)
    encode = jax.jit(lambda params, x: nnx.merge(graphdef, params).encode(x))
    mean = np.asarray(encode(params, pictures.astype(np.float32) / 127.5 - 1)[0])
    centre, spread = mean.mean((0, 1, 2)), mean.std((0, 1, 2))
    kernel, bias = (np.array(p[...]) for p in (vae.quant_conv.kernel, vae.quant_conv.bias))
    z = len(centre)
    kernel[:, :z], kernel[:, z:] = kernel[:, :z] / spread, 0
    bias[:z], bias[z:] = (bias[:z] - centre) / spread, LOG_VARIANCE
    vae.quant_conv.kernel = nnx.Param(jnp.asarray(kernel))
    vae.quant_conv.bias = nnx.Param(jnp.asarray(bias))


def _pictures(store: Store) -> UInt8[np.ndarray, "n s s 3"]:
    clips = (decode(store[i]) for i in range(len(store)))
    return np.stack([read_frame(clip, i) for clip in clips for i in range(clip.frames)])


def judged(losses: Sequence[float]) -> tuple[float, float]:
    """The first loss, and the mean of the last ones."""
    return losses[0], float(np.mean(losses[-LAST:]))


def write_curve(folder: Path, losses: Sequence[float]) -> None:
    """Write overfit.csv and overfit.png; each is there whole or not at all.

    Raises:
      UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".overfit-", dir=folder) as unfinished:
            table, picture = (Path(unfinished, f"overfit.{kind}") for kind in ("csv", "png"))
            rows = [f"{step},{loss:.6f}\n" for step, loss in enumerate(losses, 1)]
            table.write_text("".join(["step,loss\n", *rows]), "utf-8")
            drawn(losses).save(picture)
            for path in (table, picture):
                os.replace(path, folder / path.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {one_line(error)}") from error


def drawn(losses: Sequence[float], width: int = 800, height: int = 450) -> Image.Image:
    """The curve on a logarithmic scale: each step grey, the mean of the last ten up to it dark, and
    the bound dashed."""
    first, _ = judged(losses)
    top = 10 ** math.ceil(math.log10(max(losses)))
    bottom = 10 ** math.floor(math.log10(min(*losses, BOUND * first)))
    left, right, high, low = 60, width - 20, 20, height - 40

    def at(step: float, loss: float) -> tuple[float, float]:
        part = math.log(loss / bottom) / math.log(top / bottom)
        return left + (right - left) * step / len(losses), low + (high - low) * part

    image = Image.new("RGB", (width, height), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    decades = range(round(math.log10(bottom)), round(math.log10(top)))
    for level in [*(m * 10.0**d for d in decades for m in (1, 2, 5)), top]:
        pen.line([at(0, level), at(len(losses), level)], fill=(225, 225, 225))
        pen.text((left - 8, at(0, level)[1]), f"{level:g}", "black", font, anchor="rm")
    for step in np.linspace(0, len(losses), 6):
        pen.text((at(step, bottom)[0], low + 8), f"{step:g}", "black", font, anchor="mt")
    pen.text(((left + right) / 2, height - 2), "step", "black", font, anchor="mb")
    means = [float(np.mean(losses[max(0, i - LAST) : i])) for i in range(1, len(losses) + 1)]
    for values, colour, thick in ((losses, (170, 180, 200), 1), (means, (30, 60, 140), 3)):
        pen.line([at(i, value) for i, value in enumerate(values, 1)], fill=colour, width=thick)
    for step in np.arange(0, len(losses), len(losses) / 60):
        ends = at(step, BOUND * first), at(step + len(losses) / 120, BOUND * first)
        pen.line(ends, fill=(200, 40, 40), width=2)
    place = (right, at(0, BOUND * first)[1] - 4)
    pen.text(place, f"{BOUND:.0%} of the first loss", (200, 40, 40), font, anchor="rb")
    return image


def main(arguments: Sequence[str]) -> None:
    """The command.

    Raises:
      UserError: it was stopped, or the folder cannot be written.
      SystemExit: 1 where the loss did not fall as far as it must.
    """
    p = Parser(prog=NAME, description="Trains small networks on eight clips until they know them.")
    p.add_argument("--output", type=Path, required=True, help="the folder for the curve")
    p.add_argument("--steps", type=int, default=500, help="of training")
    p.add_argument("--seed", type=int, default=0, help="of clips, weights and training")
    args = p.parse_args(arguments)
    if args.steps < LAST:
        raise UserError(f"--steps {args.steps}, expected {LAST} at least")
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="overfit-") as folder:
        losses = overfit(Path(folder), networks(), steps=args.steps, seed=args.seed)
    seconds = time.perf_counter() - begun
    write_curve(args.output, losses)
    first, last = judged(losses)
    print(
        f"first loss {first:.4f}, last {last:.4f} (mean of {LAST} steps), "
        f"ratio {last / first:.3f}; {len(losses)} steps in {seconds:.0f} s with compiling"
    )
    if not last < BOUND * first:
        print(f"{NAME}: the ratio must be under {BOUND:g}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run(NAME, main)
