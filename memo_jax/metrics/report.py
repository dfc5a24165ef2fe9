"""The table as one page of HTML with everything inside it, and as Markdown and JSON."""

import base64
import contextlib
import html
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from memo_jax.errors import UserError
from memo_jax.io.image import resize
from memo_jax.io.paths import fail
from memo_jax.judges.syncnet import REACH
from memo_jax.metrics import plotting
from memo_jax.metrics.quality import NAMES
from memo_jax.metrics.table import ARROWS, Example, Table, shown, to_json, to_markdown
from memo_jax.metrics.videos import LONGEST, BrokenVideo
from memo_jax.prepare.media import MediaConfig, Video
from memo_jax.prepare.reasons import Reject

MOMENTS = 8  # pictures of each video
HEIGHT = 128  # pixels of one
COLOURS = {"generated": "#c1440e", "real": "#33658a"}
UNITS = {
    "identity": "cosine with the reference",
    "identity kept": "cosine with the own first face",
    "sharpness": "variance of the Laplacian",
    "colour": "CIELAB from the first second",
    "flicker": "levels",
    "motion": "levels",
    "frozen": "share of frames",
}
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; color: #222;
  padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ddd;
  vertical-align: top }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
tr.extra, tr.quality { color: #555 }
td.note { font-size: 13px; color: #555; max-width: 30rem }
.warning { background: #fff4d6; border-left: 4px solid #d9a400; padding: .4rem .8rem;
  margin: .4rem 0 }
img { max-width: 100%; height: auto }
figure { margin: 1rem 0 }
figcaption { font-size: 13px; color: #555 }
"""


def write_report(table: Table, output: Path) -> dict[str, Path]:
    """`report.html`, `table.md` and `table.json` in a folder, each whole or not at all.

    The page needs no other file and no network.

    Returns:
      The three files by their kind.

    Raises:
      UserError: matplotlib is not installed, or the folder cannot be written.
    """
    texts = {"html": page(table), "md": to_markdown(table), "json": to_json(table)}
    names = {"html": "report.html", "md": "table.md", "json": "table.json"}
    return {kind: write_text(Path(output) / names[kind], text) for kind, text in texts.items()}


def page(table: Table) -> str:
    """The report as HTML; raises UserError without matplotlib."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>Generated videos against real ones</title><style>{STYLE}</style>",
        "<h1>Generated videos against real ones</h1>",
        _list(f"{name}: {value}" for name, value in table.about.items()),
        *(f"<p class='warning'>{html.escape(text)}</p>" for text in table.warnings),
        _rows(table),
    ]
    for title, png in plots(table).items():
        parts.append(_figure(png, title))
    if table.examples:
        parts.append("<h2>Pictures</h2>")
    for example in table.examples:
        sheet = contact_sheet(example)
        if sheet is not None:
            under = " above, the real one below" if example.real else ""
            parts.append(_figure(_png(sheet), f"{example.name}: generated{under}"))
    if table.broken:
        parts.append(f"<h2>Videos left out: {len(table.broken)}</h2>")
        parts.append(_list(f"{b.set} {b.name}: {b.reason}" for b in table.broken))
    return "\n".join(parts) + "</html>\n"


def plots(table: Table) -> dict[str, bytes]:
    """Title -> PNG of curves over time, distances by count, and offsets; what there is."""
    pyplot = plotting.pyplot()
    found: dict[str, bytes] = {}

    def grid(title: str, names: Sequence[str]) -> None:
        columns = min(len(names), 3)
        rows = -(-len(names) // columns)
        size = (4.2 * columns, 3.0 * rows)
        figure, panels = pyplot.subplots(
            rows, columns, figsize=size, layout="constrained", squeeze=False
        )
        for i, axes in enumerate(panels.flat):
            if i < len(names):
                _curve(axes, names[i], table.curves[names[i]])
            else:
                axes.set_axis_off()
        found[title] = _saved(figure, pyplot)

    identity = [name for name in ("identity", "identity kept") if name in table.curves]
    if identity:
        grid("Identity, second by second", identity)
    quality = [name for name in NAMES if name in table.curves]
    if quality:
        grid("Quality, second by second", quality)
    if table.counts.get("FVD"):
        figure, axes = pyplot.subplots(figsize=(5, 3), layout="constrained")
        axes.plot(*zip(*table.counts["FVD"], strict=True), "o-", color=COLOURS["generated"])
        axes.set_xscale("log", base=2)
        axes.set_xlabel("windows of each set")
        axes.set_ylabel("FVD")
        found["FVD by the number of windows: not level yet means too few"] = _saved(figure, pyplot)
    if table.offsets:
        figure, axes = pyplot.subplots(figsize=(5, 3), layout="constrained")
        bins = [x - 0.5 for x in range(-REACH, REACH + 2)]
        for name, offsets in table.offsets.items():
            share = np.full(len(offsets), 1 / max(len(offsets), 1))
            axes.hist(
                offsets, bins=bins, weights=share, alpha=0.6, label=name, color=COLOURS.get(name)
            )
        axes.set_xlabel("sync offset, frames at 25 a second")
        axes.set_ylabel("share of videos")
        axes.legend(fontsize="small")
        found["Where SyncNet finds the sound"] = _saved(figure, pyplot)
    return found


def contact_sheet(example: Example) -> UInt8[np.ndarray, "h w 3"] | None:
    """Moments of a generated video from its beginning to its end, those of the real one below;
    None where it can no longer be read."""
    rows = []
    for path in (example.generated, example.real):
        shown_ = _moments(path) if path is not None else None
        if shown_ is not None:
            rows.append(np.concatenate(shown_, axis=1))
    if not rows:
        return None
    width = max(row.shape[1] for row in rows)
    padded = [
        np.pad(row, ((0, 4), (0, width - row.shape[1]), (0, 0)), constant_values=255)
        for row in rows
    ]
    return np.concatenate(padded)


def _moments(path: Path) -> list[np.ndarray] | None:
    """Pictures of one height, evenly over a video. It is decoded once and to its end, as its
    length is not known before; what is held doubles its distance whenever there is too much."""
    held: list[np.ndarray] = []
    step = 1
    try:
        with Video(path, MediaConfig(least_fps=1.0, longest_side=LONGEST)) as video:
            for picture in video.pictures():
                if picture.index % step:
                    continue
                frame = picture.rgb()
                width = max(1, round(HEIGHT * frame.shape[1] / frame.shape[0]))
                held.append(resize(frame, (HEIGHT, width)))
                if len(held) == 4 * MOMENTS:
                    held, step = held[::2], 2 * step
    except (Reject, UserError, BrokenVideo):
        return None
    at = np.linspace(0, len(held) - 1, min(MOMENTS, len(held))).round().astype(int)
    return [held[i] for i in at] or None


def _curve(axes: Any, name: str, sets: Mapping[str, Sequence[float]]) -> None:
    for key, values in sets.items():
        seconds = np.arange(1, len(values) + 1)
        marker = "." if len(values) < 3 else ""  # a line of one second is none
        axes.plot(seconds, values, label=key, color=COLOURS.get(key), marker=marker)
    axes.set_title(name, fontsize="medium")
    axes.set_xlabel("second")
    axes.set_ylabel(UNITS.get(name, ""))
    axes.legend(fontsize="small")


def _saved(figure: Any, pyplot: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    pyplot.close(figure)
    return buffer.getvalue()


def _png(picture: UInt8[np.ndarray, "h w 3"]) -> bytes:
    return cv2.imencode(".png", np.ascontiguousarray(picture[..., ::-1]))[1].tobytes()


def _figure(png: bytes, caption: str) -> str:
    data = base64.b64encode(png).decode()
    text = html.escape(caption)
    return (
        f"<figure><img alt='{html.escape(caption, quote=True)}' "
        f"src='data:image/png;base64,{data}'><figcaption>{text}</figcaption></figure>"
    )


def _rows(table: Table) -> str:
    lines = [
        "<table><tr><th>measure<th>generated<th>real<th>counted<th>note</tr>",
    ]
    for row in table.rows:
        name = f"{row.name} {ARROWS[row.better]}".strip()
        lines.append(
            f"<tr class='{row.group}'><td>{html.escape(name)}"
            f"<td class='n'>{shown(row.generated)}<td class='n'>{shown(row.real)}"
            f"<td>{html.escape(row.counted)}<td class='note'>{html.escape(row.note)}</tr>"
        )
    return "\n".join(lines) + "</table>"


def _list(items: Any) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>"


def write_text(path: Path, text: str) -> Path:
    """A file, whole or not at all; raises UserError where it cannot be written."""
    unfinished = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, "utf-8")
        os.replace(unfinished, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise fail(f"{str(path)!r} cannot be written", error) from error
    return path
