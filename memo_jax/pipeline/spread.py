"""A pipeline's programs on one device, or on several that make every clip together.

On several, parameters, portrait, sound and past frames lie whole on each. The memory of the past,
by far the largest, is cut by branch of guidance and by position; no device ever has all of it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from einops import rearrange
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from memo_jax.config import SamplerConfig
from memo_jax.diffusion.guidance import guided
from memo_jax.diffusion.rollout import Carry
from memo_jax.errors import UserError
from memo_jax.models.exchange import FRAMES, GUIDANCE, Split, spread_over
from memo_jax.sharding import video_mesh

# Of each leaf [branches, rows, ...]; see `_by_branch`.
_SPECS: dict[str, Any] = {"memory": P(GUIDANCE, FRAMES), "past": P(), "clip": P()}
_CARRY = Carry(**_SPECS)


def check(split: Split, configs: Mapping[str, Any], sampler: SamplerConfig) -> None:
    """Whether clips can be split so; `configs` are those of the model's components.

    Raises:
      UserError: no, and why.
    """
    if split.guidance > 1 and not guided(sampler.guidance):
        raise UserError(
            f"--mesh {split}: without guidance ({sampler.guidance:g}) there is one branch; give "
            f"guidance=1, say {Split(frames=split.devices)}"
        )
    n = split.frames
    if n == 1:
        return
    net, vae = configs["diffusion_net"], configs["vae"]
    if not (net.norm_per_frame and net.motion.norm_per_frame):
        raise UserError(
            f"--mesh {split}: this model's norms look at all frames at once (norm_per_frame is "
            "off), so that they cannot be split; give frames=1"
        )
    side, deepest = sampler.image_size // vae.factor, 2 ** (len(net.block_out_channels) - 1)
    scales = {scale for scale in net.motion_resolutions if scale <= deepest}
    scales |= {deepest} if net.mid_motion else set()
    counts = [
        (f"{name} {getattr(sampler, name)}", getattr(sampler, name))
        for name in ("clip_frames", "past_frames", "first_past_frames")
    ]
    for scale in sorted(scales):
        at = -(-side // scale)
        counts.append((f"the {at} x {at} positions of a level with motion modules", at * at))
    for what, number in counts:
        if number % n:
            raise UserError(
                f"--mesh {split}: {n} does not divide {what}; give a number of frames that does"
            )


class Programs:
    """Makes programs for one device, or for those of a split, and lays out what they are given.

    `branches` of guidance there are. `devices` are those of this process unless given, of which the
    first are taken; a described topology's will do.

    Raises:
      UserError: there are fewer devices than the split says.
    """

    def __init__(self, split: Split, branches: int, devices: Any = None):
        self._split, self._branches = split, branches
        self.mesh = None if split.devices == 1 else video_mesh(split, devices)

    def start(self, run: Callable[..., tuple[Any, Carry]]) -> Any:
        """The program of `run(*whole) -> (portrait, carry)`."""
        return jax.jit(self._own(run, carried=None, given=P(), made=(P(), _CARRY)))

    def chunk(self, run: Callable[..., tuple[Carry, Any]], *, carried: int) -> Any:
        """The program of `run` of five arguments, of which number `carried` is a carry; it gives
        (carry, frames). The carry it is given is overwritten."""
        given = tuple(_CARRY if i == carried else P() for i in range(5))
        program = self._own(run, carried=carried, given=given, made=(_CARRY, P()))
        return jax.jit(program, donate_argnums=carried)

    def put(self, values: Any) -> Any:
        """Values that every device has whole."""
        return (
            values if self.mesh is None else jax.device_put(values, NamedSharding(self.mesh, P()))
        )

    def lay(self, carry: Carry) -> Carry:
        """A copy of a carry as one device has it, over the devices."""
        if self.mesh is None:
            return jax.tree.map(jax.numpy.array, carry)
        cut = _by_branch(jax.tree.map(np.asarray, carry), self._branches)
        return jax.tree.map(jax.device_put, cut, self._layout(cut))

    def abstract(self, carry: Carry) -> Carry:
        """The shapes of `lay(carry)` and how they lie, where there are several devices."""
        cut = jax.eval_shape(lambda carry: _by_branch(carry, self._branches), carry)
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            cut,
            self._layout(cut),
        )

    def gathered(self, carry: Carry) -> Carry:
        """A carry as one device has it; where there are several, on the host."""
        if self.mesh is None:
            return carry
        return _flat(jax.tree.map(np.asarray, carry))

    def shapes(self, carry: Carry) -> Carry:
        """The shapes of `gathered`, with nothing gathered."""
        return carry if self.mesh is None else jax.eval_shape(_flat, carry)

    def _layout(self, carry: Carry) -> Any:
        """Shardings of a carry that is laid out."""
        assert self.mesh is not None
        cut, whole = (NamedSharding(self.mesh, spec) for spec in (_SPECS["memory"], P()))
        memory: Any = jax.tree.map(lambda _: cut, carry.memory)
        rest: dict[str, Any] = {"past": whole, "clip": whole}
        return dataclasses.replace(carry, memory=memory, **rest)

    def _own(
        self, run: Callable[..., Any], *, carried: int | None, given: Any, made: tuple[Any, Any]
    ) -> Callable[..., Any]:
        """`run` as one device's program, of all devices' values."""
        if self.mesh is None:
            return run
        branches = self._branches // self._split.guidance

        def own(*values: Any) -> tuple[Any, Any]:
            args = [_flat(value) if i == carried else value for i, value in enumerate(values)]
            with spread_over(self._split):
                found = run(*args)
            a, b = (_by_branch(x, branches) if isinstance(x, Carry) else x for x in found)
            return a, b

        # What is whole on each device is computed alike, which JAX need not prove.
        return jax.shard_map(own, mesh=self.mesh, in_specs=given, out_specs=made, check_vma=False)


def _by_branch(carry: Carry, branches: int) -> Carry:
    """The memory's rows as [branch, position], so that both can be cut."""
    rows = jax.tree.map(
        lambda leaf: rearrange(leaf, "(b n) ... -> b n ...", b=branches), carry.memory
    )
    return dataclasses.replace(carry, memory=rows)


def _flat(carry: Carry) -> Carry:
    """The inverse."""
    rows = jax.tree.map(lambda leaf: rearrange(leaf, "b n ... -> (b n) ..."), carry.memory)
    return dataclasses.replace(carry, memory=rows)
