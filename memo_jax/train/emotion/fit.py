"""Training of the classifier: cross-entropy and a supervised contrastive term, best epoch kept."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree
from orbax.checkpoint import checkpoint_managers as policies

from memo_jax.audio.emotion import EMOTIONS
from memo_jax.config import EmotionClassifierConfig
from memo_jax.errors import UserError
from memo_jax.models.projections import EmotionClassifier
from memo_jax.train.emotion.examples import TRAIN, VALID, Examples
from memo_jax.weights.build import CountingRngs

# Rows in a call where nothing is trained.
ROWS = 4096


@dataclass(frozen=True)
class FitConfig:
    """How a classifier is trained.

    Attributes:
      layers: dense layers, with ReLU between them; 1 is the linear head.
      channels: width between layers.
      batch_size: examples a step.
      learning_rate: AdamW's, constant.
      weight_decay: AdamW's.
      clip: the gradient's largest global norm.
      contrastive: the contrastive term's weight; a linear head has no hidden layer to put it on.
      temperature: of the contrastive term.
      class_weights: weigh examples so that all classes count the same.
      epochs: at most.
      patience: epochs without a better accuracy on the validation side after which to stop.
      seed: of initial weights and of the order of examples.
    """

    layers: int = 5
    channels: int = 2048
    batch_size: int = 512
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    clip: float = 1.0
    contrastive: float = 0.1
    temperature: float = 0.1
    class_weights: bool = False
    epochs: int = 100
    patience: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "channels", "batch_size", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected 1 or more")
        for name in ("learning_rate", "clip", "temperature"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"{name} is {value}, expected a number above 0")
        for name in ("weight_decay", "contrastive"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"{name} is {value}, expected 0 or more")

    @property
    def linear(self) -> "FitConfig":
        """The linear head that the table compares with."""
        return FitConfig(**{**self.__dict__, "layers": 1, "contrastive": 0.0})


@dataclass
class Fitted:
    """A trained classifier, its best epoch, and what each epoch gave."""

    module: EmotionClassifier
    best_epoch: int
    history: list[dict[str, float]] = field(default_factory=list)


class Stopped(Exception):
    """Training was asked to stop; what is done is kept."""


def contrastive_loss(
    hidden: Float[Array, "b d"], labels: Int[Array, "b"], temperature: float
) -> Float[Array, ""]:
    """Supervised contrastive loss (arXiv:2004.11362, equation 2: the sum outside the logarithm).

    The mean over rows that share their label with another; 0 where there are none. Rows are
    brought to length 1 first.
    """
    z = hidden.astype(jnp.float32)
    z = z * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(z), axis=1, keepdims=True), 1e-12))
    # In full precision: the temperature magnifies what is lost here.
    scores = jnp.matmul(z, z.T, precision=jax.lax.Precision.HIGHEST) / temperature
    others = ~jnp.eye(len(z), dtype=bool)
    positive = (labels[:, None] == labels[None, :]) & others
    log_share = scores - jax.nn.logsumexp(
        jnp.where(others, scores, -jnp.inf), axis=1, keepdims=True
    )
    counts = jnp.sum(positive, axis=1)
    rows = -jnp.sum(jnp.where(positive, log_share, 0.0), axis=1) / jnp.maximum(counts, 1)
    return jnp.sum(rows) / jnp.maximum(jnp.sum(counts > 0), 1)


def hidden_and_logits(
    module: EmotionClassifier, features: Float[Array, "b e"]
) -> tuple[Float[Array, "b d"], Float[Array, "b classes"]]:
    """The last layer's input and output; `EmotionClassifier` itself gives the latter's softmax."""
    x = features
    for layer in module.layers[:-1]:
        x = jax.nn.relu(layer(x))
    return x, module.layers[-1](x).astype(jnp.float32)


def loss(
    module: EmotionClassifier,
    features: Float[Array, "b e"],
    labels: Int[Array, "b"],
    weights: Float[Array, "classes"],
    config: FitConfig,
) -> Float[Array, ""]:
    """Cross-entropy over all outputs, the unused one too, and the contrastive term."""
    hidden, logits = hidden_and_logits(module, features)
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    total = jnp.mean(weights[labels] * entropy)
    if config.contrastive and config.layers > 1:
        total += config.contrastive * contrastive_loss(hidden, labels, config.temperature)
    return total


def class_weights(
    labels: Int[np.ndarray, "n"], classes: int, even: bool
) -> Float[np.ndarray, "classes"]:
    """1 for every class or, `even`, what makes all classes that occur weigh the same, mean 1."""
    if not even:
        return np.ones(classes, np.float32)
    counts = np.bincount(labels, minlength=classes)
    occurring = max(1, int((counts > 0).sum()))
    return (len(labels) / (occurring * np.maximum(counts, 1))).astype(np.float32)


def fit(
    examples: Examples,
    config: FitConfig,
    *,
    keep: Path | None = None,
    keep_seconds: float = 60.0,
    stop: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = lambda line: None,
) -> Fitted:
    """Train until the validation side gets no better, and give the best epoch's classifier.

    With the same arguments the result is the same, to the bit, however often it was stopped.

    Args:
      keep: a folder for the state after an epoch; what is there is gone on from.
      keep_seconds: at least that long between two states, but for the last one.
      stop: asked after every epoch.
      tell: is given a line for every epoch.

    Raises:
      Stopped: `stop` said so.
      UserError: the loss is not finite.
    """
    make = EmotionClassifierConfig(
        in_features=examples.features.shape[1],
        layers=config.layers,
        channels=config.channels,
        num_emotions=len(EMOTIONS),
    )
    key = jax.random.key(config.seed)
    k_init, k_order = jax.random.split(key)
    module = EmotionClassifier(make, rngs=CountingRngs(k_init))
    graph, state = nnx.split(module)
    optimizer = optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.adamw(config.learning_rate, weight_decay=config.weight_decay),
    )
    params = nnx.to_pure_dict(state)
    train = np.flatnonzero(examples.sides == TRAIN)
    valid = examples.sides == VALID
    features = jnp.asarray(examples.features[train])
    labels = jnp.asarray(examples.labels[train])
    weights = jnp.asarray(
        class_weights(examples.labels[train], len(EMOTIONS), config.class_weights)
    )
    batch = min(config.batch_size, len(train))

    @jax.jit
    def epoch_step(carry: PyTree, key: Array, data: PyTree) -> tuple[PyTree, Array]:
        """One pass over shuffled examples; what does not fill a batch waits for another epoch."""
        features, labels, weights = data
        order = jax.random.permutation(key, len(train))[: len(train) // batch * batch]

        def step(carry: PyTree, chosen: Int[Array, "b"]) -> tuple[PyTree, Array]:
            params, optimizer_state = carry

            def of(params: PyTree) -> Array:
                model: Any = nnx.merge(graph, params)
                return loss(model, features[chosen], labels[chosen], weights, config)

            value, gradient = jax.value_and_grad(of)(params)
            updates, optimizer_state = optimizer.update(gradient, optimizer_state, params)
            return (optax.apply_updates(params, updates), optimizer_state), value

        carry, losses = jax.lax.scan(step, carry, rearrange(order, "(s b) -> s b", b=batch))
        return carry, jnp.mean(losses)

    carry: PyTree = (params, optimizer.init(params))
    best = params
    progress: dict[str, Any] = {"best_epoch": 0, "best": -1.0, "history": []}
    states = States(keep) if keep else None
    if states and states.latest is not None:
        (carry, best), progress = states.restore((carry, best))
    saved, kept = time.monotonic(), len(progress["history"])

    def save(epoch: int) -> None:
        nonlocal saved, kept
        if states and epoch > kept:
            states.save(epoch, (carry, best), progress)
            saved, kept = time.monotonic(), epoch

    try:
        for epoch in range(len(progress["history"]) + 1, config.epochs + 1):
            if epoch - 1 - progress["best_epoch"] >= config.patience:
                break
            if stop():
                save(epoch - 1)
                raise Stopped
            k_epoch = jax.random.fold_in(k_order, epoch)
            carry, mean_loss = epoch_step(carry, k_epoch, (features, labels, weights))
            value = float(mean_loss)
            if not math.isfinite(value):
                raise UserError(
                    f"the loss is {value} in epoch {epoch}; lower --learning-rate or look for "
                    "features that are not finite"
                )
            right = predict(nnx.merge(graph, carry[0]), examples.features[valid])
            accuracy = float(np.mean(right == examples.labels[valid]))
            progress["history"].append({"loss": value, "accuracy": accuracy})
            if accuracy > progress["best"]:
                progress["best"], progress["best_epoch"], best = accuracy, epoch, carry[0]
            tell(f"epoch {epoch}: loss {value:.4f}, validation accuracy {100 * accuracy:.2f} %")
            if time.monotonic() - saved >= keep_seconds:
                save(epoch)
        save(len(progress["history"]))
    finally:
        if states:
            states.close()
    return Fitted(nnx.merge(graph, best), progress["best_epoch"], progress["history"])


def predict(module: EmotionClassifier, features: Float[np.ndarray, "n e"]) -> np.ndarray:
    """The most probable output of each row."""
    graph, state = nnx.split(module)
    params = nnx.to_pure_dict(state)
    found = []
    for at in range(0, len(features), ROWS):
        rows = features[at : at + ROWS]
        filled = np.pad(rows, ((0, min(ROWS, len(features)) - len(rows)), (0, 0)))
        found.append(np.asarray(_classes(graph, params, filled))[: len(rows)])
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _classes_of(graph: nnx.GraphDef, params: PyTree, features: Array) -> Array:
    module: Any = nnx.merge(graph, params)
    return jnp.argmax(module(features), axis=-1)


_classes = jax.jit(_classes_of, static_argnums=0)


class States:
    """The last epoch's state in a folder, whole or not at all."""

    def __init__(self, folder: Path):
        self._manager = ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.LatestN(1),
                cleanup_tmp_directories=True,
                enable_async_checkpointing=False,
            ),
        )

    @property
    def latest(self) -> int | None:
        """The last epoch that is kept."""
        return self._manager.latest_step()

    def save(self, epoch: int, tree: PyTree, progress: dict[str, Any]) -> None:
        """Keep a tree of arrays, and what JSON can hold."""
        leaves = {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
        self._manager.save(
            epoch,
            args=ocp.args.Composite(
                arrays=ocp.args.PyTreeSave(leaves), progress=ocp.args.JsonSave(progress)
            ),
        )

    def restore(self, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """What was saved last, as a tree like the one given.

        Raises:
          UserError: it cannot be read, or is of another classifier.
        """
        leaves, treedef = jax.tree.flatten(like)
        try:
            restored = self._manager.restore(
                self.latest,
                args=ocp.args.Composite(
                    arrays=ocp.args.PyTreeRestore(), progress=ocp.args.JsonRestore()
                ),
            )
        except Exception as error:  # Orbax and tensorstore raise many kinds for damaged files
            raise UserError(
                f"{self._manager.directory} cannot be read ({type(error).__name__}); remove it to "
                "train from the start"
            ) from error
        found = [restored.arrays[name] for name in sorted(restored.arrays)]
        if [np.shape(leaf) for leaf in found] != [np.shape(leaf) for leaf in leaves]:
            raise UserError(
                f"{self._manager.directory} is of another classifier; give another --run"
            )
        return jax.tree.unflatten(treedef, [jnp.asarray(leaf) for leaf in found]), restored.progress

    def close(self) -> None:
        """Wait for what is being written."""
        self._manager.close()
