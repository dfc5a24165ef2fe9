"""What was found out about two sets of videos, and how it is written down."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

Better = Literal["lower", "higher", ""]
Group = Literal["paper", "extra", "quality"]
ARROWS = {"lower": "↓", "higher": "↑", "": ""}


@dataclass(frozen=True)
class Row:
    """One measure.

    Attributes:
      name: as papers call it, or a name of its own where it is none of theirs.
      generated: of the generated videos, or between both sets; None where it could not be had.
      real: the same of the real videos, where one set has such a figure.
      better: which is.
      counted: what it was taken over.
      note: what a reader must know; why there is none, where there is none.
      group: "paper" for what papers' tables hold, "extra", "quality".
    """

    name: str
    generated: float | None
    real: float | None = None
    better: Better = ""
    counted: str = ""
    note: str = ""
    group: Group = "paper"


@dataclass(frozen=True)
class Broken:
    """A video that was left out, and why."""

    set: str
    name: str
    reason: str


@dataclass(frozen=True)
class Example:
    """A generated video to be shown, beside the real one of its name if there is one."""

    name: str
    generated: Path
    real: Path | None


@dataclass(frozen=True)
class Table:
    """A comparison.

    Attributes:
      about: what was compared, setting by setting.
      rows: the measures.
      warnings: whatever makes figures mean less than they seem to.
      broken: videos left out.
      curves: name -> set -> value of each second, a mean over the videos that last so long.
      counts: name -> [(count, value)], of measures that depend on how many there are.
      offsets: set -> sync offsets of videos, frames at 25 fps.
      examples: videos for contact sheets.
    """

    about: dict[str, str]
    rows: tuple[Row, ...]
    warnings: tuple[str, ...] = ()
    broken: tuple[Broken, ...] = ()
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    counts: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    offsets: dict[str, list[int]] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()

    def row(self, name: str) -> Row:
        """The measure of that name; raises KeyError."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)


def shown(value: float | None) -> str:
    """A figure with four digits, or a dash."""
    return "–" if value is None else f"{value:.4g}"


def to_markdown(table: Table) -> str:
    """As Markdown."""
    lines = ["# Generated videos against real ones", ""]
    lines += [f"- {name}: {value}" for name, value in table.about.items()]
    heads = ["measure", "generated", "real", "counted", "note"]
    lines += ["", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in table.rows:
        name = f"{row.name} {ARROWS[row.better]}".strip()
        cells = [name, shown(row.generated), shown(row.real), row.counted, row.note]
        lines.append(f"| {' | '.join(_cell(c) for c in cells)} |")
    if table.warnings:
        lines += ["", "## Warnings", "", *(f"- {text}" for text in table.warnings)]
    if table.broken:
        lines += ["", f"## Videos left out: {len(table.broken)}", ""]
        lines += [f"- {_cell(b.set)} {_cell(b.name)}: {_cell(b.reason)}" for b in table.broken]
    return "\n".join(lines) + "\n"


def to_json(table: Table) -> str:
    """As JSON: all of the table but its examples' places."""
    content = asdict(table)
    content["examples"] = [example.name for example in table.examples]
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
