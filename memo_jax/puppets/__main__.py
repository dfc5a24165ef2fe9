"""`python -m memo_jax.puppets`: writes a data set of drawn talking faces, or a preview of one."""

import argparse
import os
import tempfile
import time
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from memo_jax.audio.timing import SAMPLE_RATE
from memo_jax.command import Parser, run
from memo_jax.data.store import Store, write_shards
from memo_jax.errors import UserError, one_line
from memo_jax.io.video_write import VideoWriter
from memo_jax.puppets.clips import SPEECH, PuppetSet, Take, records
from memo_jax.puppets.sheet import contact_sheet, crowd, strip
from memo_jax.puppets.world import render


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = Parser(
        prog="memo_jax.puppets",
        description="Draws talking faces whose every movement is known, as training data.",
    )
    p.add_argument("--output", help="the folder to write, a new one")
    p.add_argument("--preview", help="write clip 0 (.mp4) or a contact sheet (.png) and stop")
    p.add_argument("--clips", type=int, default=64, help="how many")
    p.add_argument("--seed", type=int, default=0, help="same seed: same data set, to the byte")
    p.add_argument("--size", type=int, default=64, help="pixels of the square")
    p.add_argument("--fps", type=int, default=25, help="frames per second")
    p.add_argument("--seconds", type=float, default=4.0, help="of each clip")
    p.add_argument("--held-out", action="store_true", help="people and sounds for evaluation only")
    p.add_argument("--per-identity", type=int, default=8, help="clips of each person")
    p.add_argument("--speech", choices=SPEECH, default="synth", help="whose voice")
    p.add_argument("--beds", type=float, default=0.4, help="share of clips with music or noise")
    p.add_argument("--shard-size", type=int, default=64, help="clips in a file")
    p.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    return p


def main(arguments: Sequence[str]) -> None:
    """The command.

    Raises:
      UserError: whatever the user can mend.
    """
    args = parser().parse_args(arguments)
    if (args.output is None) == (args.preview is None):
        raise UserError("give either --output FOLDER or --preview FILE.mp4 or FILE.png")
    if not 0 <= args.beds <= 1:
        raise UserError(f"--beds {args.beds:g}, expected 0 to 1")
    plan = PuppetSet(
        clips=args.clips,
        seed=args.seed,
        size=args.size,
        fps=args.fps,
        seconds=args.seconds,
        held_out=args.held_out,
        per_identity=args.per_identity,
        speech=args.speech,
        beds=args.beds,
    )
    if args.preview:
        _preview(Path(args.preview), plan)
        return
    begun = time.perf_counter()
    made = records(plan, min(args.workers, plan.clips))
    write_shards(args.output, _shown(made, plan.clips, args.quiet), args.shard_size)
    store, seconds = Store(args.output), time.perf_counter() - begun
    print(
        f"{args.output}: {len(store)} clips, {store.hours * 60:.1f} minutes, "
        f"{-(-plan.clips // plan.per_identity)} people, in {seconds:.0f} s"
    )


def _shown(made: Iterator[bytes], total: int, quiet: bool) -> Iterator[bytes]:
    """With a bar that appears only when the first one is asked for: a refusal is one line."""
    yield from tqdm(made, total=total, unit="clip", disable=quiet)


def _preview(path: Path, plan: PuppetSet) -> None:
    """Clip 0 with its sound; or, of up to 8 people, what they show and how clip 0 goes; or more."""
    if path.suffix.lower() != ".png":
        write_video(path, plan.take(0), plan.size)
        print(path)
        return
    people = list(dict.fromkeys(plan.person(i) for i in range(plan.clips)))
    if len(people) > 8:
        image = crowd(people, plan.size, 20)
    else:
        sheet = contact_sheet(people, plan.size)
        image = np.concatenate([sheet, strip(plan.take(0), plan.size)])
    try:
        Image.fromarray(image).save(path)
    except OSError as error:
        raise UserError(f"preview {str(path)!r} cannot be written: {one_line(error)}") from error
    print(path)


def write_video(path: Path, take: Take, size: int) -> None:
    """A take as a video with its sound.

    Raises:
      UserError: the file cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder, "sound.wav")
        with wave.open(str(sound), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes(np.rint(take.sound * 32768).astype("<i2").tobytes())
        with VideoWriter(path, size, size, take.fps, sound=sound) as writer:
            writer.write(render(take.truth, size))


if __name__ == "__main__":
    run("memo_jax.puppets", main)
