"""Training in miniature: a data set for the bundled model, and a trainer of two small arrays.

    python tests/stand_in.py --config FILE --data DIR --model tiny --run DIR

is the training command with that trainer in the place of the real one.
"""

import io
import os
import subprocess
import sys
import time
from unittest import mock

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from PIL import Image
from small_model import random_module

from memo_jax.audio.emotion import EMOTIONS
from memo_jax.audio.logmel import LogMelConfig
from memo_jax.command import run
from memo_jax.config import (
    AudioProjectionConfig,
    DiffusionNetConfig,
    ImageProjectionConfig,
    MotionConfig,
    ReferenceNetConfig,
    SamplerConfig,
    VAEConfig,
)
from memo_jax.data.clip import Clip
from memo_jax.data.store import write_shards
from memo_jax.data.windows import WindowConfig
from memo_jax.sharding import FSDP, put, put_batch, whole
from memo_jax.train import __main__ as command
from memo_jax.train.log import read_metrics
from memo_jax.train.state import TrainState
from memo_jax.weights.folder import Model, write_model
from memo_jax.weights.spec import ModelSpec, Part

CONFIG = """
from ml_collections import ConfigDict

def get_config(arg=""):
    return ConfigDict({fields!r}).lock()
"""


def clip_of(number, frames=20, size=64):
    """A clip of latents as the model `tiny` wants them, and plain pictures; for `tiniest`, of
    size 16."""
    side = size // (2 if size == 16 else 4)  # what the models' VAEs make of it
    rng = np.random.default_rng(number)
    shade = io.BytesIO()
    Image.new("RGB", (size, size), (number, 99, 99)).save(shade, "PNG")
    return Clip(
        images=(shade.getvalue(),) * frames,
        latents_mean=rng.normal(size=(frames, side, side, 4)).astype(ml_dtypes.bfloat16),
        latents_std=np.full((frames, side, side, 4), 0.1, ml_dtypes.bfloat16),
        size=size,
        fps=25.0,
        audio=rng.normal(size=(frames, 4, 32)).astype(ml_dtypes.bfloat16),
        emotion=(np.arange(frames) % len(EMOTIONS)).astype(np.int8),
        emotions=EMOTIONS,
        face=rng.normal(size=192).astype(np.float32),
    )


def write_data(folder, clips=8, size=64):
    """A data set of `clips` clips in two shards."""
    made = (clip_of(number, size=size) for number in range(clips))
    write_shards(folder, made, shard_size=(clips + 1) // 2)
    return folder


def write_tiniest(folder):
    """A whole model whose step compiles in seconds: all that is real, in the middle block."""
    unet = {
        "block_out_channels": (32,),
        "down_attention": (False,),
        "up_attention": (False,),
        "layers_per_block": 1,
        "num_heads": 2,
        "cross_attention_dim": 8,
        "norm_num_groups": 4,
    }
    configs = {
        "vae": VAEConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4),
        "reference_net": ReferenceNetConfig(**unet),
        "diffusion_net": DiffusionNetConfig(
            **unet,
            audio_attention_dim=8,
            motion=MotionConfig(num_heads=2, attentions_per_block=1),
            motion_resolutions=(),
        ),
        "image_proj": ImageProjectionConfig(embedding_dim=192, tokens=2, cross_attention_dim=8),
        "audio_proj": AudioProjectionConfig(
            window=5, layers=4, channels=32, hidden_dim=8, tokens=2, out_dim=8
        ),
    }
    sampler = SamplerConfig(
        image_size=16, fps=25, clip_frames=4, past_frames=2, first_past_frames=2, steps=2
    )
    spec = ModelSpec(
        name="tiniest",
        sampler=sampler,
        parts={name: Part(config) for name, config in configs.items()},
        identity="pixels",
        log_mel=LogMelConfig(),
    )
    modules = {name: random_module(name, config) for name, config in configs.items()}
    write_model(folder, Model(spec, modules))
    return folder


def write_config(path, **fields):
    """A config file of these fields, over those of a short run of one frame a sample."""
    defaults = {
        "stage": "2a",
        "frames": 2,
        "past_frames": (2,),
        "seed": 3,
        "batch_size": 4,
        "steps": 12,
        "learning_rate": 0.1,
        "dtype": "float32",
        "log_every": 1,
        "checkpoint_every": 4,
        "keep": 2,
        "run": {"tensorboard": False},
    }
    path.write_text(CONFIG.format(fields=defaults | fields))
    return path


class StandIn:
    """The interface of `train.step.Trainer`: a line fitted to noise, with Adam and an average.

    Environment: STAND_IN_SECONDS is how long a step takes; STAND_IN_NAN the step whose loss is
    none.
    """

    def __init__(self, config, spec, mesh):
        self.config, self.mesh = config, mesh
        self.optimizer = optax.adam(config.rate)
        self.layout = {
            "image_proj/proj/bias": NamedSharding(mesh, P(FSDP)),
            "audio_proj/proj1/bias": whole(mesh),
        }
        self.nan_at = int(os.environ.get("STAND_IN_NAN", -1))
        self.seconds = float(os.environ.get("STAND_IN_SECONDS", 0))

    def init(self, model=None):
        sizes = {"image_proj/proj/bias": 128, "audio_proj/proj1/bias": 64}
        values = {name: np.full(n, 0.5, np.float32) for name, n in sizes.items()}
        trained = put(values, self.layout)
        state = TrainState(
            step=put({"s": np.int32(0)}, {"s": whole(self.mesh)})["s"],
            trained=trained,
            opt_state=jax.jit(self.optimizer.init, out_shardings=self._places(trained))(trained),
            ema=put(values, self.layout),
        )
        return state, {"frozen": put({"f": np.float32(2)}, {"f": whole(self.mesh)})["f"]}

    def _places(self, trained):
        """Of the optimizer's state: averages lie as their parameters do."""
        return jax.tree.map_with_path(
            lambda path, leaf: self.layout[path[-1].key] if leaf.ndim else whole(self.mesh),
            jax.eval_shape(self.optimizer.init, trained),
        )

    @property
    def window(self):
        return WindowConfig(
            frames=self.config.sample_frames,
            past_frames=max(self.config.past_choices),
            form="latents",
        )

    def put(self, batch):
        return put_batch({name: batch[name] for name in ("latents_mean", "past_mean")}, self.mesh)

    def weights(self, state, frozen, *, ema=False):
        return state.ema if ema else state.trained

    def past_frames(self, step):
        time.sleep(self.seconds)
        choices = self.config.past_choices
        return int(np.random.default_rng((self.config.seed, step)).choice(choices))

    def step(self, past_frames):
        abstract = jax.tree.map(lambda leaf: leaf.sharding, self.init()[0])
        metrics = dict.fromkeys(
            "loss loss_unfiltered dropped kept grad_norm lr losses finite".split(),
            whole(self.mesh),
        )
        return jax.jit(self._step, donate_argnums=0, out_shardings=(abstract, metrics))

    def _step(self, state, frozen, batch):
        key = jax.random.fold_in(jax.random.key(self.config.seed), state.step)

        def loss_of(trained):
            x = batch["latents_mean"].mean((1, 2, 3, 4)) + batch["past_mean"].mean((1, 2, 3, 4))
            slope, offset = (value.mean() for value in trained.values())
            guess = slope * x + offset
            losses = frozen["frozen"] * (guess - jax.random.normal(key, x.shape)) ** 2
            losses = jnp.where(state.step == self.nan_at, jnp.nan, losses)
            return losses.mean(), losses

        (loss, losses), grads = jax.value_and_grad(loss_of, has_aux=True)(state.trained)
        updates, opt_state = self.optimizer.update(grads, state.opt_state)
        trained = optax.apply_updates(state.trained, updates)
        ema = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, state.ema, trained)
        metrics = {
            "loss": loss,
            "loss_unfiltered": loss,
            "dropped": jnp.zeros((), jnp.int32),
            "kept": jnp.asarray(len(losses)),
            "grad_norm": optax.tree.norm(grads),
            "lr": jnp.asarray(self.config.rate),
            "losses": losses,
            "finite": jnp.isfinite(loss),
        }
        return TrainState(state.step + 1, trained, opt_state, ema), metrics


def main(arguments):
    """The command, with the stand-in."""
    with (
        mock.patch.object(command, "trainer_of", StandIn),
        mock.patch.object(command, "load_model", lambda *source: None),
    ):
        command.main(arguments)


def line(folder, run="run", model="tiny"):
    """The command's arguments for the data and config.py in a folder."""
    places = {"config": folder / "config.py", "data": folder / "data", "run": folder / run}
    return [f"--{name}={path}" for name, path in places.items()] + [f"--model={model}"]


def start(arguments, **environment):
    """The command with the stand-in in a process of its own."""
    script = [sys.executable, __file__, *map(str, arguments)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"} | environment
    return subprocess.Popen(script, stderr=subprocess.PIPE, text=True, env=environment)


def losses(folder):
    """The loss of every step of a run, none of them there twice."""
    lines = read_metrics(folder)
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


if __name__ == "__main__":
    run("memo_jax.train", main)
