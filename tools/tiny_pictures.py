"""The pictures of the bundled recording: the README's row, every emotion, mouth against sound.

    python tools/tiny_pictures.py docs --model tiny

Needs matplotlib (pip install 'memo_jax[evaluate]').
"""

import argparse
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image

from memo_jax import Pipeline
from memo_jax.audio.timing import SAMPLE_RATE
from memo_jax.io.sound import read_recording
from memo_jax.puppets.emotion import SHOWN
from memo_jax.puppets.listen import levelled, mouth_from_sound
from memo_jax.puppets.measures import lips
from memo_jax.puppets.readers import Readers
from memo_jax.sample import ASSETS

EVERY = 8  # frames of the sheet
FIRST, SIDE = 12, 96  # frames of the README's row, and pixels of each
LABEL = 80  # pixels left of a row


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where tiny_*.png go")
    parser.add_argument("--model", default="tiny")
    args = parser.parse_args()
    matplotlib.use("agg")
    pipe, readers = Pipeline.load(args.model), Readers.load()
    rows, seen = [], {}
    for emotion in (None, *SHOWN):
        video = pipe(ASSETS / "portrait.png", ASSETS / "recording.wav", emotion=emotion)
        seen[emotion] = readers.read(video.frames)
        if emotion is None:
            Image.fromarray(_row(video.frames)).save(args.folder / "tiny_first.png")
        shown = np.concatenate(list(video.frames[::EVERY]), axis=1)
        rows.append(np.concatenate([_label(emotion or "as heard", len(shown)), shown], axis=1))
    Image.fromarray(np.concatenate(rows)).save(args.folder / "tiny_sheet.png")

    sound = read_recording(ASSETS / "recording.wav", SAMPLE_RATE).samples
    opening = seen[None].opening
    truth = mouth_from_sound(
        levelled(sound, SAMPLE_RATE), SAMPLE_RATE, video.fps, len(opening)
    ).opening
    _plot(args.folder / "tiny_mouth.png", opening, truth, sound, video.fps)
    found = lips(opening, truth)
    print(f"mouth against sound: correlation {found.correlation:.3f} at lag {found.lag}")


def _row(frames: np.ndarray) -> np.ndarray:
    at = np.linspace(0, len(frames) - 1, FIRST).round().astype(int)
    return np.concatenate([cv2.resize(frames[i], (SIDE, SIDE)) for i in at], axis=1)


def _label(text: str, height: int) -> np.ndarray:
    picture = np.full((height, LABEL, 3), 255, np.uint8)
    font, place = cv2.FONT_HERSHEY_SIMPLEX, (4, height // 2 + 4)
    return cv2.putText(picture, text, place, font, 0.38, (0, 0, 0), 1, cv2.LINE_AA)


def _plot(
    path: Path, opening: np.ndarray, truth: np.ndarray, sound: np.ndarray, fps: float
) -> None:
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(8, 3.2), sharex=True, layout="constrained", height_ratios=(2, 1)
    )
    middles = (np.arange(len(opening)) + 0.5) / fps
    above.plot(middles, truth, label="what the renderer would draw")
    above.plot(middles, opening, label="what tiny shows")
    above.set_ylabel("mouth opening")
    above.legend(frameon=False, ncols=2)
    below.plot(np.arange(len(sound)) / SAMPLE_RATE, sound, linewidth=0.3)
    below.set_xlabel("seconds")
    below.set_ylabel("sound")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
