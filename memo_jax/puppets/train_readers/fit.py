"""Training of the readers' network: numbers, emotions and identities at once."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree, UInt8
from optax.contrib import MuonDimensionNumbers, muon

from memo_jax.errors import UserError
from memo_jax.puppets.emotion import number
from memo_jax.puppets.identity import HELD_OUT
from memo_jax.puppets.readers import CLASSES, NUMBERS, SIZE, ReaderNet
from memo_jax.puppets.train_readers.frames import (
    Pictures,
    damaged,
    shifted,
    spoken_mouths,
    training_pictures,
)
from memo_jax.train.emotion.fit import contrastive_loss
from memo_jax.weights import build


@dataclass(frozen=True)
class FitConfig:
    """How the readers are trained.

    Attributes:
      people: how many are drawn; their seeds are 0 and up.
      each: pictures of each.
      voices: whose speech moves the mouths, 4 s of each.
      together: people in a batch, each with all their pictures.
      steps: of training.
      learning_rate: Muon's highest.
      seed: of everything left to chance.
    """

    people: int = 25000
    each: int = 4
    voices: int = 100
    together: int = 24
    steps: int = 15000
    learning_rate: float = 5e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.each < 2 or self.together < 2 or min(self.voices, self.steps) < 1:
            raise UserError(
                f"{self.each} pictures of a person, {self.together} people in a batch, "
                f"{self.voices} voices, {self.steps} steps; expected 2, 2, 1 and 1 at least"
            )
        if not self.together <= self.people <= HELD_OUT:
            raise UserError(
                f"{self.people} people, expected {self.together} (a batch) to {HELD_OUT}"
            )


def draw_people(
    config: FitConfig, shown: Callable[[range], Iterator[int]] = lambda people: iter(people)
) -> Pictures:
    """The training pictures, person by person; `shown` may draw a bar as it gives the people."""
    rng = np.random.default_rng([config.seed, 0xD0])
    mouths = spoken_mouths(config.voices, rng)
    total = config.people * config.each
    frames = np.empty((total, 64, 64, 3), np.uint8)
    truth, person = [], np.repeat(np.arange(config.people), config.each)
    for k in shown(range(config.people)):
        made = training_pictures(k, config.each, mouths, np.random.default_rng([config.seed, k]))
        frames[k * config.each : (k + 1) * config.each] = made.frames
        truth.append(made.truth)
    return Pictures(frames, np.concatenate(truth), person)


def loss(
    net: ReaderNet,
    frames: UInt8[Array, "b 64 64 3"],
    at: Float[Array, "b 2"],
    numbers: Float[Array, "b k"],
    places: Float[Array, "b l 2"],
    emotion: Int[Array, " b"],
    weight: Float[Array, " b"],
    person: Int[Array, " b"],
) -> tuple[Float[Array, ""], Float[Array, " 4"]]:
    """The sum, and its main parts: squared errors of numbers and of landmarks (in pixels),
    cross-entropy and the contrastive term."""
    seen = net(frames.astype(jnp.float32) / 255, at)
    squares, first = (
        jnp.mean(jnp.square(read - numbers), axis=0) @ jnp.asarray(_WEIGHTS)
        for read in (seen.numbers, seen.first)
    )
    found = seen.places[:, : places.shape[1]]
    apart = jnp.mean(jnp.square(SIZE * (found - places)))
    entropy = jnp.mean(
        weight * optax.softmax_cross_entropy_with_integer_labels(seen.logits, emotion)
    )
    alike = contrastive_loss(seen.identity, person, 0.1)
    total = squares + 0.5 * first + 0.5 * apart + entropy + 0.2 * alike
    return total, jnp.stack([squares, apart, entropy, alike])


# Of the numbers; what is hardest counts most, what is used least counts least.
_COUNTS = {"opening": 2.0, "y": 2.0, "scale": 4.0, "width": 0.4, "rounding": 0.4, "intensity": 0.4}
_WEIGHTS = np.array([_COUNTS.get(name, 1.0) for name in NUMBERS], np.float32)


def _muon_axes(params: PyTree) -> PyTree:
    """Kernels as matrices for Muon (https://kellerjordan.github.io/posts/muon); what gives the
    results is Adam's, as are biases and scales."""

    def axes(path: tuple, leaf: Array) -> MuonDimensionNumbers | None:
        if path[0].key in ("first", "numbers", "emotion", "identity") or leaf.ndim < 2:
            return None
        last = leaf.ndim - 1
        return MuonDimensionNumbers(tuple(range(last)), (last,))

    return jax.tree_util.tree_map_with_path(axes, params)


def fit(
    pictures: Pictures,
    config: FitConfig,
    shown: Callable[[range], Iterator[int]] = lambda steps: iter(steps),
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, np.ndarray]:
    """Train on pictures of `draw_people`; parameters by path name, a mean over the last steps.

    Args:
      shown: may draw a bar as it gives the steps.
      tell: is given a line now and then.

    Raises:
      UserError: the loss is not finite.
    """
    columns = [(pictures.field(name) - a) / b for name, (a, b) in NUMBERS.items()]
    numbers = np.stack(columns, axis=1).astype(np.float32)
    emotion = np.searchsorted(CLASSES, pictures.field("emotion").astype(np.int64))
    # The fainter an expression, the less it says which one it is.
    clear = np.minimum(pictures.field("intensity") / 0.5, 1)
    weight = np.where(emotion == np.searchsorted(CLASSES, number("neutral")), 1.0, clear)
    labels = (numbers, pictures.landmarks(), emotion.astype(np.int32), weight.astype(np.float32))

    graph, state = nnx.split(ReaderNet(rngs=build.CountingRngs(jax.random.key(config.seed))))
    params = nnx.to_pure_dict(state)
    warm = min(100, config.steps // 10)
    rate = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, warm, config.steps, 0.01 * config.learning_rate
    )
    optimizer = muon(
        rate,
        consistent_rms=0.2,
        adam_learning_rate=lambda count: 0.3 * rate(count),
        muon_weight_dimension_numbers=_muon_axes,
    )

    @jax.jit
    def step(carry: PyTree, batch: PyTree) -> tuple[PyTree, Array]:
        params, mean, inner = carry

        def of(params: PyTree) -> tuple[Array, Array]:
            net: Any = nnx.merge(graph, params)
            return loss(net, *batch)

        (_, parts), gradient = jax.value_and_grad(of, has_aux=True)(params)
        updates, inner = optimizer.update(gradient, inner, params)
        params = optax.apply_updates(params, updates)
        mean = jax.tree.map(lambda m, p: m + 0.01 * (p - m), mean, params)
        return (params, mean, inner), parts

    carry: PyTree = (params, params, optimizer.init(params))
    told = np.zeros(4)
    for k in shown(range(config.steps)):
        # JAX computes a step while the next one's batch is made.
        batch = _batch(pictures, labels, config, k)
        carry, parts = step(carry, batch)
        if k == 0 or (k + 1) % 100 == 0 or k + 1 == config.steps:
            told = np.asarray(parts)
            if not math.isfinite(told.sum()):
                raise UserError(f"the loss is {told.sum()} at step {k + 1}; try another --seed")
            names = ("numbers", "landmarks", "emotion", "who")
            values = ", ".join(f"{n} {v:.3f}" for n, v in zip(names, told, strict=True))
            tell(f"step {k + 1}: {values}")
    net = nnx.state(nnx.merge(graph, carry[1]))
    return {name: np.asarray(value) for name, value in build.flatten(net).items()}


def _batch(pictures: Pictures, labels: tuple, config: FitConfig, step: int) -> tuple:
    """Some people with all their pictures, each picture damaged in its own way."""
    per_round = config.people // config.together
    order = np.random.default_rng([config.seed, 1, step // per_round]).permutation(config.people)
    first = step % per_round * config.together
    people = order[first : first + config.together]
    rows = np.add.outer(people * config.each, np.arange(config.each))
    rows = rows.ravel()
    rng = np.random.default_rng([config.seed, 2, step])
    frames, at = shifted(damaged(pictures.frames[rows], rng), rng)
    return (frames, at, *(label[rows] for label in labels), pictures.person[rows].astype(np.int32))
