"""Makes the portrait, a puppet, and the recording that come with the package.

`python tools/make_assets.py` writes them where the package reads them.
"""

import argparse
import wave
from pathlib import Path

from assets.recording import RATE, speak
from PIL import Image

from memo_jax.puppets.still import still
from memo_jax.puppets.world import render

PERSON = 1_000_029  # a puppet that nobody trains on


def main() -> None:
    """Writes portrait.png and recording.wav; the same bytes every time."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).parents[1] / "memo_jax" / "assets"
    parser.add_argument("--output", type=Path, default=default, help="folder, made if missing")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(render(still(PERSON), 512)[0]).save(folder / "portrait.png", optimize=True)
    with wave.open(str(folder / "recording.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)  # bytes
        file.setframerate(RATE)
        file.writeframes(speak().astype("<i2").tobytes())


if __name__ == "__main__":
    main()
