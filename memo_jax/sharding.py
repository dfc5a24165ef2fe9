"""Meshes, and which axis of a parameter is cut over them.

A mesh for training has the axes "data" and "fsdp". Batches are cut over both. A parameter, with its
gradient and optimizer state, is cut over "fsdp" along one axis, and whole in every group of "data".
A mesh for one video has the axes of `models/exchange.py`, over which no parameter is cut.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from memo_jax.errors import UserError
from memo_jax.models.exchange import FRAMES, GUIDANCE, Split

DATA, FSDP = "data", "fsdp"
BATCH = P((DATA, FSDP))

# (pattern of whole parameter paths, axes in order of preference): the first rule that matches
# decides, and the parameter is cut along the first of its axes that the mesh's fsdp size divides;
# along none, where it divides none.
#
# Which axis changes no result and little speed, because a matrix is gathered before it is used.
# So a rule names the axis most likely to divide: the wider one.
RULES: tuple[tuple[str, tuple[int, ...]], ...] = (
    # Vectors and small tables: a few kilobytes, whose gathering would cost more than it saves.
    (r".*/(bias|scale|embedding|pe)", ()),
    # From wide to narrow: the ends of feed-forwards and networks.
    (r".*/(out|conv_out|proj1|post_quant_conv)/kernel", (-2, -1)),
    # Convolutions: their windows (3 x 3) divide by nothing, outputs are as wide as inputs or wider.
    (r".*/conv\w*/kernel", (-1, -2)),
    # Projections of attentions and all other dense layers: as wide out as in, or wider.
    (
        r".*/(to_[qkv]|add_[qkv]_proj|to_out|to_add_out|proj_in|proj_out|proj|proj2|proj3"
        r"|linear_1|linear_2|time_emb_proj|modulation|quant_conv)/kernel",
        (-1, -2),
    ),
)


def make_mesh(data: int, fsdp: int, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of `data` x `fsdp` devices in their order; `data` 0 means as many as `fsdp` leaves.

    Neighbours in the order are neighbours along "fsdp", whose traffic is the heavier. `devices`
    are all that JAX sees unless given; a described topology's will do.

    Raises:
      UserError: the sizes do not make up the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    size = (data or len(devices) // max(fsdp, 1)) * fsdp
    if fsdp < 1 or size != len(devices):
        raise UserError(
            f"a mesh of data={data} x fsdp={fsdp} on {len(devices)} devices; their product must be "
            "the number of devices (data=0 is what fsdp leaves)"
        )
    # Auto: with the default (Explicit), sharded convolutions and folds ask for out_sharding.
    return Mesh(np.array(devices).reshape(-1, fsdp), (DATA, FSDP), axis_types=(AxisType.Auto,) * 2)


def video_mesh(split: Split, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of a split: the first of the devices, neighbours along "frames", whose traffic is
    the heavier. `devices` are all of this process unless given; a described topology's will do.

    Raises:
      UserError: there are too few.
    """
    devices = jax.local_devices() if devices is None else list(devices)
    if len(devices) < split.devices:
        raise UserError(
            f"--mesh {split} takes {split.devices} devices, and there are {len(devices)} "
            f"({devices[0].platform}); give fewer"
        )
    grid = np.array(devices[: split.devices]).reshape(split.guidance, split.frames)
    return Mesh(grid, (GUIDANCE, FRAMES), axis_types=(AxisType.Auto,) * 2)


def shardings(params: Mapping[str, Any], mesh: Mesh) -> dict[str, NamedSharding]:
    """How each parameter, by whole path, is laid over the mesh.

    `params` are those of whole networks: arrays, or anything that has a shape.

    Raises:
      ValueError: a parameter that no rule matches, or a rule that decides for no parameter.
    """
    rules = {path: rule for path in params if (rule := _rule(path)) is not None}
    problems = [f"no rule for {path}" for path in params if path not in rules]
    used = set(rules.values())
    problems += [f"no parameter for {RULES[i][0]!r}" for i in range(len(RULES)) if i not in used]
    if problems:
        raise ValueError("sharding rules: " + "; ".join(problems))
    return {
        path: NamedSharding(mesh, _cut(leaf.shape, RULES[rules[path]][1], mesh.shape[FSDP]))
        for path, leaf in params.items()
    }


def _rule(path: str) -> int | None:
    return next((i for i, (p, _) in enumerate(RULES) if re.fullmatch(p, path)), None)


def _cut(shape: Sequence[int], axes: Iterable[int], size: int) -> P:
    for axis in axes:
        if size > 1 and shape[axis] % size == 0:
            spec: list[str | None] = [None] * len(shape)
            spec[axis] = FSDP
            return P(*spec)
    return P()


def whole(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, P())


def over_batch(mesh: Mesh) -> NamedSharding:
    """The first axis cut over all devices."""
    return NamedSharding(mesh, BATCH)


def put(values: Mapping[str, Any], layout: Mapping[str, NamedSharding]) -> dict[str, jax.Array]:
    """Arrays of the host, the same on each, laid out on the mesh; no program is compiled."""
    return {path: _put(np.asarray(value), layout[path]) for path, value in values.items()}


def _put(value: np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch, as its part of the whole batch on the mesh.

    Raises:
      UserError: the rows do not divide over the devices.
    """
    sharding = over_batch(mesh)
    local = len(mesh.local_devices)
    for name, rows in batch.items():
        if len(rows) % local:
            raise UserError(
                f"{len(rows)} rows of {name} on {local} devices of this process; "
                "make the batch size a multiple of the number of devices"
            )
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(rows))
        for name, rows in batch.items()
    }
