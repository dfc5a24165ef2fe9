"""What the tests of measures share: networks and drawn pictures."""

import importlib.util
import sys
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def published():
    """The module of that name beside this file: networks in PyTorch, as published."""
    pytest.importorskip("torch", reason="PyTorch is the judge here")
    name = "metrics_published"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("published.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where TorchScript looks its types up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def filled():
    """`filled(make)`: one of our own networks with drawn weights, the signal kept at its size."""
    from memo_jax.weights.build import abstract
    from memo_jax.weights.components import assemble

    def filled(make):
        rng = np.random.default_rng(0)
        graphdef, shapes = abstract(make)
        values = {}
        for path, leaf in shapes.items():
            n = rng.standard_normal(leaf.shape, np.float32)
            if path.endswith("kernel"):
                n *= (2 / np.prod(leaf.shape[:-1])) ** 0.5
            elif path.endswith("variance"):
                n = 0.5 + np.abs(n)
            else:
                n = 0.2 * n + path.endswith("scale")
            values[path] = n.astype(np.float32)
        return assemble(graphdef, values)

    return filled


@pytest.fixture(scope="session")
def waves():
    """`waves(seed, n, h, w)`: n frames of moving waves with some noise, uint8 RGB."""

    def waves(seed, n, h=72, w=96):
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:h, :w]
        steps = rng.uniform(3, 25, (3, 2)), rng.uniform(-0.6, 0.6, 3)
        frames = [
            np.stack(
                [
                    np.sin(x / a + y / b + t * move)
                    for (a, b), move in zip(steps[0], steps[1], strict=True)
                ],
                -1,
            )
            for t in range(n)
        ]
        noisy = 128 + 90 * np.stack(frames) + rng.normal(0, 8, (n, h, w, 3))
        return np.clip(noisy, 0, 255).astype(np.uint8)

    return waves


@dataclass(frozen=True)
class Act:
    """A drawn person who speaks: frames uint8 [n, s, s, 3] at 25 fps, samples at 16 kHz."""

    frames: np.ndarray
    sound: np.ndarray

    def save(self, path, frames=None, late=0):
        """As a video, lossless; other frames where given, the sound `late` samples later."""
        from memo_jax.io.video import VideoWriter

        frames = self.frames if frames is None else frames
        heard = np.pad(self.sound, (max(late, 0), 0))[max(-late, 0) :]
        sound = path.with_suffix(".wav")
        with wave.open(str(sound), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16000)
            file.writeframes(np.rint(heard * 32767).astype("<i2").tobytes())
        with VideoWriter(path, frames.shape[2], frames.shape[1], 25, sound=sound, crf=0) as writer:
            writer.write(frames)
        sound.unlink()
        return path


@pytest.fixture(scope="session")
def acts():
    """Four puppets who speak for three seconds, in 96 pixels."""
    from memo_jax.puppets.clips import PuppetSet
    from memo_jax.puppets.world import render

    puppets = PuppetSet(clips=8, size=96, seconds=3, beds=0, silent=0, per_identity=1)
    takes = [puppets.take(i) for i in range(4)]
    return [Act(render(take.truth, 96), take.sound) for take in takes]
