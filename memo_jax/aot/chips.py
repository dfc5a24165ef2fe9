"""What a chip has, by what its maker has published."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memo_jax.errors import UserError

# What a whole training step of a diffusion model reaches of the peak: SDXL's sampler was measured
# at 61 % on v5e, published video training at 30 % on v5p.
EFFICIENCY = 0.45
# A mesh axis uses some of a chip's links, not all at once.
ICI_SHARE = 0.5


@dataclass(frozen=True)
class Chip:
    """One kind of chip.

    Attributes:
      name: as topologies spell it.
      kind: as JAX calls the device.
      devices: that JAX sees in one chip; all other numbers are of the whole chip.
      tflops: peak in bfloat16.
      hbm: GiB of memory; bandwidth: of it, GB/s.
      left: GiB of one device's memory that programs can have, as the compiler's refusals say; the
        rest is the runtime's. Not published.
      ici: what it sends to its neighbours over all links, GB/s.
      source: where the numbers are published.
    """

    name: str
    kind: str
    devices: int
    tflops: float
    hbm: float
    left: float
    bandwidth: float
    ici: float
    source: str

    @property
    def usable(self) -> float:
        """Bytes of one device's memory that programs can have."""
        return self.left * 2**30


_DOCS = "https://docs.cloud.google.com/tpu/docs"

CHIPS = (
    Chip("v4", "TPU v4", 2, 275, 32, 15.25, 1200, 268, f"{_DOCS}/v4"),
    Chip("v5e", "TPU v5 lite", 1, 197, 16, 15.75, 800, 200, f"{_DOCS}/v6e"),
    Chip("v5p", "TPU v5", 1, 459, 95, 95.74, 2765, 600, f"{_DOCS}/v5p"),
    Chip("v6e", "TPU v6 lite", 1, 918, 32, 31.25, 1600, 400, f"{_DOCS}/v6e"),
    Chip("tpu7x", "TPU7x", 2, 2307, 192, 94.75, 7380, 600, f"{_DOCS}/tpu7x"),
)


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as `v5p:4x4x4`.

    Raises:
      UserError: there is no such chip.
    """
    name = topology.partition(":")[0]
    for chip in CHIPS:
        if chip.name == name:
            return chip
    raise UserError(
        f"--topology {topology!r}: no chip {name!r}; expected CHIP:SHAPE with one of "
        f"{', '.join(chip.name for chip in CHIPS)}, say v5p:4x4x4"
    )


def described(topology: str) -> Sequence[Any]:
    """The devices of a topology that need not be there.

    Raises:
      UserError: there is no TPU compiler, or no such topology.
    """
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(topology, "tpu").devices
    except Exception as error:  # the plugin has errors of its own
        text = " ".join(str(error).split())
        if "libtpu" in text and "lockfile" not in text:
            raise UserError(
                "the TPU compiler (libtpu) is not installed; pip install -e '.[tpu]'"
            ) from error
        raise UserError(
            f"--topology {topology!r}: {text[:160]}; expected a shape that is made, say "
            "v5e:4x4, v5e:16x16, v5p:2x2x1, v5p:4x4x4, v6e:16x16"
        ) from error
