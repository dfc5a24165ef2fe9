"""The networks behind FID and FVD, from the files in which their weights were published."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from memo_jax.errors import UserError, one_line
from memo_jax.metrics.i3d import EPSILON, I3D, I3DFeatures
from memo_jax.metrics.inception import InceptionFeatures, InceptionV3, Preparation
from memo_jax.weights import build
from memo_jax.weights.components import assemble
from memo_jax.weights.readers import open_tensors
from memo_jax.weights.readers.torchscript import is_program, norm_epsilons, read_program
from memo_jax.weights.rules import ConversionError, Rule, import_tensors, norm

# Names that carry nothing for features, and why.
INCEPTION_DROPPED = {
    r"fc\..*": "the classifier comes after the features",
    r"AuxLogits\..*": "the second classifier, of training alone",
    r".*\.num_batches_tracked": "counts the batches of training",
}
I3D_DROPPED = {r".*\.num_batches_tracked": "counts the batches of training"}

# The other published spelling of I3D (`InceptionI3d`), as the torchscript's.
I3D_BRANCHES = {
    "b0": "branch_0",
    "b1a": "branch_1.0",
    "b1b": "branch_1.1",
    "b2a": "branch_2.0",
    "b2b": "branch_2.1",
    "b3b": "branch_3.1",
}


def load_inception(
    path: str | Path, *, preparation: Preparation = "pytorch", batch: int | None = None
) -> InceptionFeatures:
    """FID's network with published weights (`pt_inception-2015-12-05-6726825d.pth`).

    Raises:
      UserError: no such file, or its tensors are not this network's.
    """
    with open_tensors(Path(path)) as tensors:
        network = _network(
            "InceptionV3",
            path,
            _without(tensors, INCEPTION_DROPPED),
            lambda rngs: InceptionV3(rngs=rngs),
            inception_rules(),
        )
    return InceptionFeatures(network, preparation=preparation, batch=batch)


def load_i3d(path: str | Path, *, batch: int | None = None, side: int = 224) -> I3DFeatures:
    """FVD's network with published weights: `i3d_torchscript.pt`, or a state dict of Kinetics-400
    in either of the two spellings that are published.

    The norms' epsilon is the one that the archive's program states. A state dict states none, and
    gets the original's.

    Raises:
      UserError: no such file, or its tensors are not this network's.
    """
    epsilon = _epsilon(Path(path))
    with _opened(Path(path)) as tensors:
        wanted = _without({i3d_name(name): t for name, t in tensors.items()}, I3D_DROPPED)
        network = _network(
            "I3D", path, wanted, lambda rngs: I3D(epsilon=epsilon, rngs=rngs), i3d_rules()
        )
    return I3DFeatures(network, batch=batch, side=side)


def inception_rules() -> tuple[Rule, ...]:
    """Names as pytorch-fid publishes them; ours are the same paths."""
    rules: list[Rule] = []
    for path in _kernels(lambda rngs: InceptionV3(rngs=rngs), "/conv/kernel"):
        name = path.replace("/", ".")
        rules.append(Rule(f"{name}.conv.weight", f"{path}/conv/kernel", "o i h w -> h w i o"))
        rules += _fixed_norm(f"{name}.bn", f"{path}/bn")
    return tuple(rules)


def i3d_rules() -> tuple[Rule, ...]:
    """Names as the torchscript has them; ours are the same paths but for the branch that pools,
    whose pool PyTorch counts, and the last layer."""
    rules: list[Rule] = []
    for path in _kernels(lambda rngs: I3D(rngs=rngs), "/conv3d/kernel"):
        name = path.replace("/", ".").replace("branch_3", "branch_3.1")
        layout = "o i t h w -> t h w i o"
        rules.append(Rule(f"{name}.conv3d.weight", f"{path}/conv3d/kernel", layout))
        rules += _fixed_norm(f"{name}.batch3d", f"{path}/batch3d")
    last = "conv3d_0c_1x1.conv3d"
    rules.append(Rule(f"{last}.weight", "logits/kernel", "o i 1 1 1 -> i o"))
    rules.append(Rule(f"{last}.bias", "logits/bias"))
    return tuple(rules)


def i3d_name(name: str) -> str:
    """A tensor's name as the torchscript spells it, of either spelling."""
    name = re.sub(r"^logits\.", "conv3d_0c_1x1.", name)
    name = re.sub(r"^(Conv3d|Mixed)_", lambda m: m[0].lower(), name)
    name = re.sub(r"\.bn\.", ".batch3d.", name)
    return re.sub(
        r"^(mixed_\w+)\.(b\d\w?)\.", lambda m: f"{m[1]}.{I3D_BRANCHES.get(m[2], m[2])}.", name
    )


def _fixed_norm(torch: str, ours: str) -> tuple[Rule, ...]:
    return (
        *norm(torch, ours),
        Rule(f"{torch}.running_mean", f"{ours}/mean"),
        Rule(f"{torch}.running_var", f"{ours}/variance"),
    )


def _kernels(make: Callable[[Any], nnx.Module], end: str) -> list[str]:
    """Paths of the modules that hold a parameter of this name."""
    _, shapes = build.abstract(make)
    return [path.removesuffix(end) for path in shapes if path.endswith(end)]


def _without(tensors: Mapping[str, Any], dropped: Mapping[str, str]) -> dict[str, Any]:
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not any(re.fullmatch(pattern, name) for pattern in dropped)
    }


def _epsilon(path: Path) -> float:
    """What I3D's norms add to their variances."""
    stated = norm_epsilons(path) if is_program(path) else {EPSILON}
    if len(stated) > 1:
        raise UserError(
            f"{path} has norms of epsilons {sorted(stated)}, expected one for all of I3D's; name "
            "the file that was published for it"
        )
    return stated.pop() if stated else EPSILON


@contextmanager
def _opened(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    if is_program(path):
        yield read_program(path)
    else:
        with open_tensors(path) as tensors:
            yield tensors


def _network(
    what: str,
    path: str | Path,
    tensors: Mapping[str, Any],
    make: Callable[[Any], nnx.Module],
    rules: Sequence[Rule],
) -> nnx.Module:
    graphdef, shapes = build.abstract(make)
    try:
        values = import_tensors(what, rules, tensors, {k: v.shape for k, v in shapes.items()})
    except ConversionError as error:
        raise UserError(
            f"{path} does not hold {what}'s published weights: {one_line(error.summary)}; "
            "name the file that was published for it"
        ) from error
    copies = {name: np.array(value, np.float32) for name, value in values.items()}
    if broken := [name for name, value in copies.items() if not np.isfinite(value).all()]:
        raise UserError(
            f"{path}: {broken[0]} and {len(broken) - 1} more of {what} hold what is no finite "
            "number; download it again"
        )
    return assemble(graphdef, copies)
