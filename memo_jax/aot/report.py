"""What a plan says: numbers of one device, and the time they would take at published speeds."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from memo_jax.aot.chips import EFFICIENCY, ICI_SHARE, Chip
from memo_jax.aot.count import Collectives

_GIB = 2.0**30


@dataclass
class Report:
    """One program on one topology, per device.

    Attributes:
      what: the program in words; topology, chip: where it would run; devices: of it.
      clips: that one run takes or makes, over all devices.
      positions: of a frame's latents.
      composed: whether the numbers are of pieces compiled apart; `pieces` says how many.
      given: {what: bytes} of arguments; temporary: bytes beside them at the worst moment; code:
        bytes of the program itself.
      usable: bytes that programs can have.
      flops: operations, with what is computed again and the padding of kernels; model_flops
        without both.
      moved: bytes read from and written to memory.
      collectives: kind, devices of a group, how many, bytes of their whole values.
      seconds: that compiling took.
      refused: the compiler's own words where the program does not fit.
      largest: the largest values that the program makes, and their bytes; of a whole one alone.
      pairs: shapes with a number for every pair of positions; of a whole one alone.
    """

    what: str
    topology: str
    chip: Chip
    devices: int
    clips: int
    positions: int
    composed: bool
    given: dict[str, float]
    temporary: float
    code: float
    usable: float
    flops: float
    model_flops: float
    moved: float
    collectives: list[tuple[str, int, int, float]]
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)
    pieces: tuple[int, int] | None = None
    refused: str = ""
    largest: list[tuple[str, float]] = field(default_factory=list)
    pairs: list[str] = field(default_factory=list)

    @property
    def peak(self) -> float:
        """Bytes of memory that the program needs."""
        return sum(self.given.values()) + self.temporary + self.code

    @property
    def fits(self) -> bool:
        """Whether it runs in a device's memory."""
        return not self.refused and self.peak <= self.usable

    @property
    def times(self) -> dict[str, float]:
        """Seconds of a run that computing, memory and links would take alone."""
        chip = self.chip
        peak = chip.tflops * 1e12 / chip.devices
        return {
            "compute": self.flops / (peak * EFFICIENCY),
            "memory": self.moved / (chip.bandwidth * 1e9 / chip.devices),
            "links": sum(map(sent, self.collectives)) / (chip.ici * 1e9 / chip.devices * ICI_SHARE),
        }

    @property
    def step_seconds(self) -> float:
        """An estimate: the longest of the three, as if they overlapped perfectly."""
        return max(self.times.values())

    @property
    def mfu(self) -> float:
        """The model's own operations in that time, as a share of the chip's peak."""
        peak = self.chip.tflops * 1e12 / self.chip.devices
        return self.model_flops / (peak * self.step_seconds) if self.step_seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it, with what follows from the numbers."""
        return {
            **dataclasses.asdict(self),
            "peak": self.peak,
            "fits": self.fits,
            "times": self.times,
            "step_seconds": self.step_seconds,
            "mfu": self.mfu,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Report":
        """The inverse of `to_dict`."""
        names = {f.name for f in dataclasses.fields(cls)}
        fields = {name: value for name, value in values.items() if name in names}
        fields["chip"] = Chip(**fields["chip"])
        fields["collectives"] = [tuple(entry) for entry in fields["collectives"]]
        fields["largest"] = [tuple(entry) for entry in fields["largest"]]
        fields["pieces"] = tuple(fields["pieces"]) if fields["pieces"] else None
        return cls(**fields)

    def __str__(self) -> str:
        """Lines to read."""
        chip, per = self.chip, self.clips / self.devices
        lines = [
            f"{self.what} on {self.topology}: {self.devices} devices ({chip.kind}), "
            f"{self.clips} clips, {per:g} on each"
        ]
        if self.settings:
            lines.append("  " + ", ".join(f"{k}={v}" for k, v in self.settings.items()))
        if self.composed and self.pieces:
            lines.append(
                f"  composed: the whole was not compiled; {self.pieces[0]} pieces of it were, of "
                f"which {self.pieces[1]} differ"
            )
        lines.append("memory of one device, GiB")
        for name, size in [
            *self.given.items(),
            ("activations, temporary", self.temporary),
            ("code", self.code),
        ]:
            if size:
                lines.append(f"  {name:<28}{size / _GIB:9.2f}")
        verdict = "fits" if self.fits else "does not fit"
        lines.append(
            f"  {'peak':<28}{self.peak / _GIB:9.2f} of {self.usable / _GIB:.2f}: {verdict}"
        )
        if self.refused:
            lines.append(f"  the compiler: {self.refused}")
        if self.largest:
            sizes = ", ".join(f"{shape} {size / _GIB:.2f}" for shape, size in self.largest)
            lines.append(f"  the largest values made, GiB: {sizes}")
            scores = ", ".join(self.pairs) or "none"
            lines.append(f"  values of {self.positions} x {self.positions} positions: {scores}")
        lines.append("work of one device")
        own = f"{self.model_flops / 1e12:.2f}"
        lines.append(f"  {self.flops / 1e12:.2f} TFLOP, of which the model's own {own}")
        lines.append(f"  {self.moved / 1e9:.1f} GB read from and written to memory")
        for kind, group, number, size in self.collectives:
            lines.append(f"  {number} {kind} among {group}, {size / 1e9:.3f} GB")
        times = ", ".join(f"{name} {seconds:.3f} s" for name, seconds in self.times.items())
        lines += [
            f"estimate, not measured (at {EFFICIENCY:.0%} of the peak of {chip.tflops:g} TFLOP/s, "
            f"{chip.bandwidth:g} GB/s, {ICI_SHARE:.0%} of {chip.ici:g} GB/s a chip; {chip.source})",
            f"  {times}",
            f"  {self.step_seconds:.3f} s a run, {self.clips / max(self.step_seconds, 1e-9):.2f} "
            f"clips/s in all, {self.mfu:.1%} of the peak (MFU)",
            f"compiled in {self.seconds:.0f} s",
        ]
        return "\n".join(lines)


def sent(collective: tuple[str, int, int, float]) -> float:
    """Bytes that one device sends in a ring, for values of these bytes in all."""
    kind, group, _, size = collective
    share = (group - 1) / group if group else 1.0
    return size * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(kind, share)


def listed(found: Collectives) -> list[tuple[str, int, int, float]]:
    """Collectives as a report has them."""
    return [(kind, group, *found[kind, group]) for kind, group in sorted(found)]
