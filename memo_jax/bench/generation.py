"""Figures of generation: seconds for a frame, from the model alone to the whole way to a file."""

import math
import statistics
import tempfile
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from memo_jax.audio.timing import SAMPLE_RATE
from memo_jax.bench import machine, operations
from memo_jax.diffusion.presets import told
from memo_jax.io.sound import read_recording
from memo_jax.io.video_write import VideoWriter
from memo_jax.pipeline import Pipeline

ASSETS = Path(__file__).parents[1] / "assets"

# The first chunk is warm-up; a median needs some more.
MIN_CHUNKS = 4


def measure(pipe: Pipeline, *, seconds: float = 0.0, quiet: bool = False) -> dict[str, Any]:
    """Generate the bundled portrait speaking, twice, and tell how long what took.

    The first pass compiles, and gives the steady state: the time from one chunk's frames to the
    next's while nothing else is done. The second goes from the picture's and the recording's files
    to a finished video, all programs compiled.

    Args:
      seconds: of video; at least four chunks are made.
    """
    sampler = pipe.sampler
    size = pipe.chunk * sampler.clip_frames
    chunks = max(MIN_CHUNKS, math.ceil(seconds * sampler.fps / size))
    frames = chunks * size
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=2 * frames, unit="frame", desc="generating", disable=quiet) as bar,
    ):
        recording = Path(folder) / "recording.wav"
        write_sound(recording, frames, sampler.fps)
        begun = time.perf_counter()
        ends = []
        for made in pipe.stream(ASSETS / "portrait.png", recording, crop="none", vocals="off"):
            ends.append(time.perf_counter())
            bar.update(len(made))
        cold = ends[0] - begun
        steady = np.diff(ends) / size

        begun, first = time.perf_counter(), 0.0
        side, video = sampler.image_size, Path(folder) / "video.mp4"
        with VideoWriter(video, side, side, sampler.fps, sound=recording) as writer:
            for made in pipe.stream(ASSETS / "portrait.png", recording, crop="none", vocals="off"):
                first = first or time.perf_counter() - begun
                writer.write(made)
                bar.update(len(made))
        whole = time.perf_counter() - begun
    return {
        "frames": frames,
        "model_seconds_per_frame": statistics.median(steady),
        "model_seconds_per_frame_of_chunks": [float(value) for value in steady],
        "end_to_end_seconds_per_frame": whole / frames,
        "first_frame_seconds": first,
        "first_frame_seconds_with_compilation": cold,
        "compile_seconds": pipe.compile_seconds,
    }


def one_chunk(pipe: Pipeline) -> Callable[[], Any]:
    """What generates a chunk from its start and waits for it, with all before it done: what to
    profile. It can be called once."""
    frames = pipe.chunk * pipe.sampler.clip_frames
    scene = pipe.scene(ASSETS / "portrait.png", crop="none")
    hearing = pipe.hear((sound(frames, pipe.sampler.fps), SAMPLE_RATE), vocals="off")
    run = pipe.start(scene, hearing)
    run.compile()
    jax.block_until_ready(run.carry)
    return lambda: list(run)


def report(pipe: Pipeline, measured: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """What is stored of a pipeline's `measure`: its figures, how they came about (`settings` are
    what the pipeline does not know itself), and the operations behind them."""
    sampler, device = pipe.sampler, jax.devices()[0]
    memory = machine.memory(device)  # before counting takes some
    configs = {name: part.config for name, part in pipe.spec.parts.items()}
    count = operations.per_frame(configs, sampler)
    return {
        "kind": "generation",
        "settings": settings
        | {
            "chunk": pipe.chunk,
            "image_size": sampler.image_size,
            "fps": sampler.fps,
            "clip_frames": sampler.clip_frames,
            "past_frames": sampler.past_frames,
            "steps": sampler.steps,
            "guidance": sampler.guidance,
            "sampler": told(sampler),
            "device_memory": sampler.device_memory,
        },
        "figures": measured,
        "memory": memory,
        "operations_per_frame": count,
        "peak": use_of_peak(count / measured["model_seconds_per_frame"], device.device_kind),
        "device": device.device_kind,
    }


def lines(found: dict[str, Any]) -> list[str]:
    """A report for people to read."""
    figures, settings, peak = found["figures"], found["settings"], found["peak"]
    each, spread = figures["model_seconds_per_frame"], figures["model_seconds_per_frame_of_chunks"]
    memory = found["memory"]
    if peak["mfu"] is None:
        share = peak["why"]
    else:
        share = f"{peak['mfu']:.1%} of {peak['tflops']:g} TFLOP/s ({peak['source']})"
    return [
        f"{settings['model']}: {settings['image_size']} x {settings['image_size']}, "
        f"{settings['dtype']}, preset {settings['preset']}: {settings['sampler']}, memory "
        f"{settings['device_memory']}, on {found['device']}",
        f"model alone        {each:.4f} s/frame "
        f"(median of {len(spread)} chunks, {min(spread):.4f} to {max(spread):.4f})",
        f"end to end         {figures['end_to_end_seconds_per_frame']:.4f} s/frame",
        f"first frames       {figures['first_frame_seconds']:.2f} s; with compilation "
        f"{figures['first_frame_seconds_with_compilation']:.2f} s",
        f"compilation        {figures['compile_seconds']:.2f} s",
        f"peak memory        {memory['peak_bytes'] / 2**30:.2f} GiB ({memory['of']})",
        f"operations         {found['operations_per_frame'] / 1e12:.4g} TFLOP/frame",
        f"model FLOP use     {share}",
    ]


def use_of_peak(per_second: float, kind: str) -> dict[str, Any]:
    """How much of a device's published peak so many operations in a second are."""
    published = machine.peak(kind)
    if published is None:
        why = f"no published bfloat16 peak is known for {kind!r}"
        return {"mfu": None, "tflops": None, "source": None, "why": why}
    tflops, source = published
    return {"mfu": per_second / 1e12 / tflops, "tflops": tflops, "source": source, "why": None}


def sound(frames: int, fps: int) -> Float[np.ndarray, " n"]:
    """The bundled recording, over again until it lasts as long as these video frames."""
    samples = read_recording(ASSETS / "recording.wav", SAMPLE_RATE).samples
    return np.resize(samples, frames * SAMPLE_RATE // fps)


def write_sound(path: Path, frames: int, fps: int) -> None:
    """`sound` as a WAV of 16 bits."""
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(SAMPLE_RATE)
        samples = np.clip(sound(frames, fps), -1, 1)
        out.writeframes((samples * 32767).astype("<i2").tobytes())
