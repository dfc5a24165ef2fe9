"""`python -m memo_jax.sample`: a portrait and a recording become a video."""

import argparse
import hashlib
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from memo_jax.command import (
    Parser,
    keep_compilations,
    run,
    share_one_arena,
    stopping,
    with_config,
)
from memo_jax.diffusion.presets import EXACT, PRESETS, told
from memo_jax.errors import UserError, one_line
from memo_jax.io.crop import Paster, preview
from memo_jax.io.video_write import VideoWriter, check_output
from memo_jax.models.exchange import split_of
from memo_jax.pipeline import Pipeline, Run
from memo_jax.pipeline.hearing import Hearing
from memo_jax.pipeline.jobs import on_devices, read_jobs
from memo_jax.pipeline.memory import CHOICES
from memo_jax.pipeline.resume import Partial
from memo_jax.pipeline.scene import Scene
from memo_jax.train.run import is_run, run_model

ASSETS = Path(__file__).parent / "assets"

# With --resume, what a kill that cannot be caught may cost.
SECONDS_BETWEEN_SAVES = 600


def parser() -> argparse.ArgumentParser:
    """The command's options; their defaults make the bundled portrait speak."""
    p = Parser(
        prog="memo_jax.sample",
        description="Makes a video of the person in a picture speaking a recording.",
    )
    p.add_argument("--image", default=str(ASSETS / "portrait.png"), help="any picture of a face")
    p.add_argument(
        "--audio",
        default=str(ASSETS / "recording.wav"),
        help="any recording: wav, mp3, m4a, flac, ogg, or the sound of a video",
    )
    p.add_argument("--output", default="out.mp4", help="the video to write (.mp4, .mov, .mkv)")
    p.add_argument(
        "--model",
        default="tiny",
        help="a preset, a model folder, a training run, or published weights",
    )
    p.add_argument("--seed", type=int, default=0, help="same seed, same machine: same frames")
    p.add_argument("--steps", type=int, help="Euler steps (the model's own: 20)")
    p.add_argument("--guidance", type=float, help="strength of guidance (3.5); 1 or less is none")
    p.add_argument(
        "--noise-span",
        type=int,
        metavar="N",
        help="clips over which the noise changes, so that the head goes on where the last clip "
        "left it (the model's own: 1, each clip anew, as published)",
    )
    p.add_argument(
        "--emotion", help="happy, or by seconds: 0-3:neutral,3-:happy (heard in the sound)"
    )
    p.add_argument("--crop", default="auto", help="auto, none, or x,y,w,h in pixels")
    p.add_argument("--face", default="auto", help="auto, largest, or a number where several are")
    p.add_argument(
        "--paste-back", action="store_true", help="put the moving head back into the full picture"
    )
    p.add_argument("--preview", help="write the picture with the crop marked as PNG and stop")
    p.add_argument(
        "--vocals", default="auto", choices=("auto", "on", "off"), help="separate the voice first"
    )
    p.add_argument("--dtype", choices=("float32", "bfloat16"), help="what matmuls run in")
    p.add_argument("--chunk", type=int, default=1, help="clips per call of the device")
    p.add_argument(
        "--mesh",
        metavar="guidance=2,frames=4",
        help="devices that make every clip together; one unless given",
    )
    p.add_argument("--face-models", help="folder with the published ONNX face models")
    p.add_argument("--crf", type=int, default=18, help="video quality: 0 best, 51 smallest")
    p.add_argument(
        "--memory",
        default="auto",
        choices=CHOICES,
        help="low: less device memory, slower; auto takes it where it is needed",
    )
    add_approximations(p)
    p.add_argument("--config", help="a config file (configs/sample.py) for options not given")
    p.add_argument(
        "--compile-only",
        action="store_true",
        help="compile into the cache and stop: later runs of any length start at once",
    )
    p.add_argument(
        "--batch",
        metavar="JOBS.jsonl",
        help='many videos: lines such as {"image": "a.png", "audio": "a.wav", "output": "a.mp4"}',
    )
    p.add_argument(
        "--resume",
        action="store_true",
        help="keep what is done when stopped, in OUTPUT.partial, and go on from it",
    )
    p.add_argument("--quiet", action="store_true", help="no progress bar and no notes")
    return p


def add_approximations(p: argparse.ArgumentParser) -> None:
    """Options of samplers that cost less than the exact one; not given, the preset decides."""
    p.add_argument(
        "--preset",
        default=EXACT,
        choices=PRESETS,
        help="the sampler: exact, or an approximation that costs less",
    )
    p.add_argument(
        "--guidance-interval",
        type=_interval,
        metavar="LOW,HIGH",
        help="approximation: guidance at noise levels from LOW to HIGH only, say 0.3,0.9 of 0 to 1",
    )
    p.add_argument(
        "--cache-steps",
        type=int,
        metavar="N",
        help="approximation: deep features of a step serve N steps",
    )
    p.add_argument(
        "--latent-carry",
        action=argparse.BooleanOptionalAction,
        help="approximation: past frames are carried as latents, not encoded from pixels again",
    )


def _interval(text: str) -> tuple[float, float]:
    low, comma, high = text.partition(",")
    try:
        found = float(low), float(high)
    except ValueError:
        comma = ""
    if not comma or not 0 <= found[0] <= found[1] <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected two of 0 to 1, say 0.3,0.9")
    return found


def main(arguments: Sequence[str]) -> None:
    """The command.

    Raises:
      UserError: whatever the user can mend.
    """
    begun = time.perf_counter()
    args = with_config(parser(), arguments)
    if args.batch and (args.resume or args.preview or args.compile_only):
        raise UserError(
            "--batch goes on by itself with what is not there yet, and shows no previews; leave "
            "out --resume, --preview and --compile-only"
        )
    jobs = read_jobs(args.batch, args) if args.batch else []
    for job in jobs or [args]:
        _check(job)
    if is_run(Path(args.model)):  # under a name that tells the step, which --resume compares
        args.model = str(run_model(Path(args.model), _unsaid if args.quiet else _said))
    keep_compilations()
    share_one_arena()
    if jobs:
        _batch(args, jobs)
        return
    pipe = _load(args)
    if args.preview:
        scene = pipe.scene(args.image, crop=args.crop, face=args.face)
        _write_preview(args.preview, preview(scene.picture, scene.crop))
        return
    if args.compile_only:
        _compile(pipe, args)
        return
    print(_make(pipe, args, begun))


def _compile(pipe: Pipeline, args: argparse.Namespace) -> None:
    """Compile for this model and these options: the picture and the sound decide nothing."""
    scene = pipe.scene(args.image, crop=args.crop, face=args.face)
    hearing = pipe.hear(args.audio, emotion=args.emotion, vocals=args.vocals)
    pipe.start(scene, hearing).compile()
    kept = jax.config.values["jax_compilation_cache_dir"] or "no cache: it is lost now"
    print(f"compiled for {_device()} in {pipe.compile_seconds:.1f} s; kept in {kept}")


def _load(args: argparse.Namespace) -> Pipeline:
    return Pipeline.load(
        args.model,
        dtype=args.dtype,
        steps=args.steps,
        guidance=args.guidance,
        noise_span=args.noise_span,
        preset=args.preset,
        guidance_interval=args.guidance_interval,
        cache_steps=args.cache_steps,
        latent_carry=args.latent_carry,
        memory=args.memory,
        chunk=args.chunk,
        mesh=args.mesh,
        face_models=args.face_models,
    )


def _make(
    pipe: Pipeline,
    args: argparse.Namespace,
    begun: float,
    advance: Callable[[], None] = lambda: None,
) -> str:
    """Write one video; a line about it. `advance` is called before each chunk is written."""
    compiled = pipe.compile_seconds
    scene = pipe.scene(args.image, crop=args.crop, face=args.face)
    hearing = pipe.hear(args.audio, emotion=args.emotion, vocals=args.vocals)
    notes = [*([pipe.spec.notes] if pipe.spec.notes else []), *pipe.notes]
    notes += [*scene.notes, *hearing.notes]

    paste = Paster(scene.picture, scene.crop) if args.paste_back else None
    height, width = scene.picture.shape[:2] if paste else scene.image.shape[:2]
    fps = pipe.sampler.fps
    with VideoWriter(
        args.output,
        width,
        height,
        fps,
        sound=Path(args.audio),
        crf=args.crf,
        metadata=_told(pipe, args),
    ) as writer:
        for note in [] if args.quiet else notes:  # only now: a refusal is one line
            print(f"note: {note}", file=sys.stderr)
        generated = _generate(pipe, scene, hearing, args, paste, writer, advance)
    whole = time.perf_counter() - begun
    frames = hearing.frames
    return (
        f"{args.output}: {frames / fps:.2f} s, {frames} frames of {width}x{height} at {fps} fps; "
        f"{generated / frames:.3f} s/frame model, {whole / frames:.3f} s/frame end to end, "
        f"{pipe.compile_seconds - compiled:.1f} s of {whole:.1f} s compiling"
    )


def _batch(args: argparse.Namespace, jobs: list[argparse.Namespace]) -> None:
    """Make the videos that are not there yet, one at a time on each device.

    Raises:
      UserError: some failed; they are told one by one before, and do not stop the others.
    """
    missing = [job for job in jobs if not os.path.exists(job.output)]
    skipped, failed = len(jobs) - len(missing), 0
    if skipped:
        print(f"{skipped} of {len(jobs)} are there already", file=sys.stderr)

    def make(pipe: Pipeline, job: argparse.Namespace, check: Callable[[], None]) -> str:
        return _make(
            pipe, argparse.Namespace(**{**vars(job), "quiet": True}), time.perf_counter(), check
        )

    # Devices that make every clip together make one video at a time.
    devices = jax.local_devices()[: 1 if args.mesh else max(1, len(missing))]
    made = on_devices(missing, lambda: _load(args), make, devices) if missing else iter(())
    with tqdm(total=len(jobs), initial=skipped, unit="video", disable=args.quiet) as bar:
        for job, line in made:
            bar.update()
            if isinstance(line, UserError):
                failed += 1
                tqdm.write(f"failed: {job.output}: {one_line(line)}", file=sys.stderr)
            else:
                tqdm.write(line)
    if failed:
        raise UserError(
            f"{failed} of {len(jobs)} videos failed, told above; mend those lines and run it again"
        )


def _said(line: str) -> None:
    print(line, file=sys.stderr)


def _unsaid(line: str) -> None:
    pass


def _generate(
    pipe: Pipeline,
    scene: Scene,
    hearing: Hearing,
    args: argparse.Namespace,
    paste: Paster | None,
    writer: VideoWriter,
    advance: Callable[[], None],
) -> float:
    """Write all frames; the seconds that took, without compilation."""
    begun, compiled = time.perf_counter(), pipe.compile_seconds
    run = pipe.start(scene, hearing, seed=args.seed)
    bar = tqdm(total=hearing.frames, unit="frame", desc=f"on {_device()}", disable=args.quiet)

    def show(frames: np.ndarray) -> None:
        advance()
        # Pasted one by one: a chunk of full pictures may not fit in memory.
        for part in np.split(frames, len(frames)) if paste else [frames]:
            writer.write(paste(part) if paste else part)
        bar.update(len(frames))

    with bar:
        if args.resume:
            _generate_kept(pipe, scene, hearing, args, run, show)
        else:
            for frames in run:
                show(frames)
    return time.perf_counter() - begun - (pipe.compile_seconds - compiled)


def _generate_kept(
    pipe: Pipeline,
    scene: Scene,
    hearing: Hearing,
    args: argparse.Namespace,
    run: Run,
    show: Callable[[np.ndarray], None],
) -> None:
    """Generate so that a stop loses nothing: go on from what is kept, and keep what is done.

    Raises:
      SystemExit: a stop was asked for; all frames so far are kept.
    """
    partial = Partial(Path(f"{args.output}.partial"), _made_from(pipe, args))
    carry = partial.carry(run.carry_shapes)
    if carry is not None:
        for frames in partial.done():
            show(frames)
        run = pipe.start(scene, hearing, seed=args.seed, carry=carry)
    done, saved = partial.frames.sealed, time.monotonic()
    with stopping("stopping after this clip; once more loses what is not kept yet") as stop:
        for frames in run:
            chunks = [frames]
            if due := bool(stop.asked) or time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                chunks += run.drain()
            for chunk in chunks:
                partial.frames.append(chunk)
                show(chunk)
                done += len(chunk)
            if due and done < hearing.frames:
                partial.save(run.carry, done)
                saved = time.monotonic()
                if stop.asked:
                    print(
                        f"{done} of {hearing.frames} frames are kept in {partial.folder}; "
                        "the same line goes on from there",
                        file=sys.stderr,
                    )
                    raise SystemExit(128 + stop.asked)
    partial.remove()


def _made_from(pipe: Pipeline, args: argparse.Namespace) -> dict[str, object]:
    """All that decides the frames of a run."""

    def digest(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()[:16]

    options = ("seed", "emotion", "crop", "face", "vocals", "dtype", "model")
    return {
        **{name: getattr(args, name) for name in options},
        "image": digest(Path(args.image).read_bytes()),
        "audio": digest(Path(args.audio).read_bytes()),
        "sampler": pipe.sampler.to_dict(),
        "networks": digest(pipe.spec.to_json().encode()),
        "version": version("memo_jax"),
    }


def _check(args: argparse.Namespace) -> None:
    """What can be refused before anything is loaded."""
    if args.batch and args.preview:
        raise UserError("--batch and --preview do not go together; leave one of them out")
    if args.preview and Path(args.preview).suffix.lower() != ".png":
        raise UserError(f"--preview {args.preview!r}: expected a name that ends in .png")
    if args.preview:
        if not os.path.isdir(os.path.dirname(args.preview) or "."):
            raise UserError(f"--preview {args.preview!r}: its folder does not exist; make it first")
    else:
        check_output(args.output)
    split_of(args.mesh)
    if args.guidance is not None and not math.isfinite(args.guidance):
        raise UserError(f"--guidance {args.guidance}: expected a number such as 3.5")
    if args.steps is not None and not 1 <= args.steps <= 1000:
        raise UserError(f"--steps {args.steps}: expected 1 to 1000")
    if args.noise_span is not None and not 1 <= args.noise_span <= 1000:
        raise UserError(f"--noise-span {args.noise_span}: expected 1 (each clip anew) to 1000")
    if args.cache_steps is not None and not 1 <= args.cache_steps <= 1000:
        raise UserError(f"--cache-steps {args.cache_steps}: expected 1 (none are cached) to 1000")
    if not 0 <= args.seed < 2**32:
        raise UserError(f"--seed {args.seed}: expected 0 to {2**32 - 1}")
    if not 0 <= args.crf <= 51:
        raise UserError(f"--crf {args.crf}: expected 0 (best) to 51 (smallest)")
    made = "preview" if args.preview else "output"
    path = getattr(args, made)
    for name in ("image", "audio"):
        if os.path.realpath(getattr(args, name)) == os.path.realpath(path):
            raise UserError(f"--{made} {path!r} is the {name} itself; give another name")


def _write_preview(path: str, picture: np.ndarray) -> None:
    try:
        Image.fromarray(picture).save(path)
    except OSError as error:
        raise UserError(f"--preview {path!r} cannot be written: {error}") from error
    print(f"{path}: the crop is what lies in the frame")


def _told(pipe: Pipeline, args: argparse.Namespace) -> dict[str, str]:
    """What the video says of itself."""
    settings = f"model={args.model} seed={args.seed} {told(pipe.sampler)}"
    return {
        "comment": f"AI-generated talking portrait; {settings}",
        "encoder_tool": f"memo_jax {version('memo_jax')}",
    }


def _device() -> str:
    device = jax.devices()[0]
    return device.platform if device.platform == "cpu" else device.device_kind


if __name__ == "__main__":
    run("memo_jax.sample", main)
