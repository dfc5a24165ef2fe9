"""The optimizer, by optax, and where its state lies."""

from collections.abc import Mapping
from typing import Any

import jax
import optax
from jax.sharding import NamedSharding

from memo_jax.train.config import TrainConfig

# Adafactor keeps a row and a column in the place of a matrix with both sides at least this long.
_FACTORED_FROM = 32


def learning_rate(config: TrainConfig) -> optax.Schedule:
    """Update number -> rate: linear warm-up, constant, linear decay to 0 at the run's end."""

    def rate(step: Any) -> Any:
        share = 1.0 + 0.0 * step
        if config.warmup_steps:
            share = jax.numpy.minimum(share, (step + 1.0) / config.warmup_steps)
        if config.decay_steps:
            left = (config.total_steps - step) / config.decay_steps
            share = jax.numpy.clip(left, 0.0, share)
        return config.rate * share

    return rate


def make(config: TrainConfig) -> optax.GradientTransformation:
    """Clipping by the global norm, then AdamW or Adafactor with the same decoupled decay of all
    trained parameters, as the release has it."""
    clip = optax.clip_by_global_norm(config.grad_clip)
    rate = learning_rate(config)
    if config.optimizer == "adamw":
        adamw = optax.adamw(
            rate,
            b1=config.beta1,
            b2=config.beta2,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
        )
        return optax.chain(clip, adamw)
    return optax.chain(
        clip,
        optax.scale_by_factored_rms(min_dim_size_to_factor=_FACTORED_FROM),
        optax.clip_by_block_rms(1.0),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(rate),
    )


def state_layout(
    optimizer: optax.GradientTransformation,
    params: Mapping[str, Any],
    layout: Mapping[str, NamedSharding],
    whole: NamedSharding,
) -> tuple[Any, Any]:
    """The optimizer state's shapes and shardings: what is as large as its parameter lies as the
    parameter does, all else (counts, Adafactor's rows and columns) whole."""
    shapes = jax.eval_shape(optimizer.init, params)
    shardings = optax.tree_map_params(
        optimizer,
        lambda leaf, param, sharding: sharding if leaf.shape == param.shape else whole,
        shapes,
        params,
        layout,
        transform_non_params=lambda _: whole,
    )
    return shapes, shardings
