"""The bench of generation: its figures add up, and its file holds what it says."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_model import SAMPLER

from memo_jax.bench import __main__ as command
from memo_jax.bench import generation, machine, operations, profile, random_models
from memo_jax.command import run
from memo_jax.errors import UserError
from memo_jax.weights import build


@pytest.fixture(scope="module")
def stored(tmp_path_factory, small):
    """What the command prints and writes for a small model of drawn weights."""
    path = tmp_path_factory.mktemp("bench") / "figures.json"
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *words, **_: said.append(" ".join(map(str, words))))
        command.main(
            [
                *("--size", "full", "--dtype", "float32", "--steps", "1", "--profile", "--quiet"),
                *("--json", str(path)),
            ]
        )
    return json.loads(path.read_text()), said


def test_figures(stored):
    found, _ = stored
    figures, settings = found["figures"], found["settings"]
    assert (
        found["kind"] == "generation" and settings["steps"] == 1 and settings["preset"] == "exact"
    )
    assert settings["dtype"] == "float32" and settings["image_size"] == SAMPLER.image_size
    # Four chunks of a clip each; the first is warm-up.
    assert figures["frames"] == generation.MIN_CHUNKS * SAMPLER.clip_frames
    chunks = figures["model_seconds_per_frame_of_chunks"]
    assert len(chunks) == generation.MIN_CHUNKS - 1 and min(chunks) > 0
    assert figures["model_seconds_per_frame"] == np.median(chunks)
    assert (
        figures["end_to_end_seconds_per_frame"] * figures["frames"] > figures["first_frame_seconds"]
    )
    assert 0 < figures["compile_seconds"] < figures["first_frame_seconds_with_compilation"]


def test_what_it_was_measured_on(stored):
    found, _ = stored
    here = found["machine"]
    assert here["platform"] == "cpu" and here["versions"]["jax"] == jax.__version__
    assert here["threads"] >= 1 and (here["others"] is None or 0 <= here["others"] <= 1)
    assert here["commit"] is None or len(here["commit"]) == 40
    memory = found["memory"]
    assert "resident" in memory["of"] and memory["peak_bytes"] > 50 * 2**20
    assert found["peak"]["mfu"] is None and "no published" in found["peak"]["why"]


def test_it_is_told(stored):
    found, said = stored
    text = "\n".join(said)
    for what in ("s/frame", "first frames", "compilation", "peak memory", "TFLOP/frame"):
        assert what in text
    assert f"{found['figures']['model_seconds_per_frame']:.4f} s/frame" in text


def test_use_of_the_peak():
    """At its peak all of it is used; the same work in twice the time uses half."""
    for kind, tflops in (
        ("NVIDIA H200", 989.4),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("TPU v5 lite", 197.0),
        ("TPU v4", 137.5),  # two devices make a chip
    ):
        assert machine.peak(kind)[0] == tflops
    full = generation.use_of_peak(989.4e12, "NVIDIA H200")
    half = generation.use_of_peak(989.4e12 / 2, "NVIDIA H200")
    assert full["mfu"] == pytest.approx(1.0) and half["mfu"] == pytest.approx(0.5)
    assert "datasheet" in full["source"]
    assert generation.use_of_peak(1e12, "cpu")["mfu"] is None


def test_operations_grow_with_the_steps(small):
    def counted(**changes):
        return operations.per_frame(small, dataclasses.replace(SAMPLER, **changes))

    one, two, alone, alone_twice = (
        counted(steps=steps, guidance=guidance) for guidance in (3.5, 1.0) for steps in (1, 2)
    )
    # Without guidance there is half the work of a step, and less for the portrait.
    assert two > one > alone > 0
    assert 0.4 < (alone_twice - alone) / (two - one) < 0.6


def test_operations_of_steps_that_differ(small):
    """Each step counts as what it is, though all are one program's: as many of one kind more or
    less are as much more or less."""

    def counted(**changes):
        return operations.per_frame(small, dataclasses.replace(SAMPLER, **changes))

    exact, alone = counted(steps=4), counted(steps=4, guidance_interval=(0.9, 0.95))
    half = counted(steps=4, guidance_interval=(0.3, 0.9))  # two of four
    assert half == pytest.approx((exact + alone) / 2, rel=1e-6)
    one, two = (counted(steps=4, cache_steps=n) for n in (2, 3))
    two_whole = counted(steps=2)
    assert two_whole < one < exact  # two of four shallow; then too
    assert two == one
    assert counted(steps=4, latent_carry=True) < exact


def test_drawn_weights(small):
    """The same ones each time, none of them all zeros, matrices in the dtype of products."""
    name = "image_proj"
    first, again = (
        build.flatten(nnx.state(random_models.random_module(name, small[name], d)))
        for d in (jnp.bfloat16, jnp.bfloat16)
    )
    for path, value in first.items():
        assert np.array_equal(value, again[path]) and np.abs(value).max() > 0
        assert value.dtype == (jnp.bfloat16 if value.ndim > 1 else jnp.float32)
    assert np.asarray(first["norm/scale"]).mean() == pytest.approx(1, abs=0.2)


def test_profile(stored):
    found, said = stored
    kernels = found["profile"]["kernels"]
    assert 0 < len(kernels) <= 10 and found["profile"]["different_kernels"] >= len(kernels)
    seconds = [kernel["seconds"] for kernel in kernels]
    assert seconds == sorted(seconds, reverse=True)
    assert found["profile"]["kernel_seconds"] >= sum(seconds) > 0
    assert any(kernels[0]["name"][:100] in line for line in said)


def test_the_longest_kernel_comes_first():
    big, small = jnp.ones((700, 700)), jnp.ones((8, 8))
    work = jax.jit(lambda a, b: (a @ a @ a, jnp.sin(b)))
    jax.block_until_ready(work(big, small))
    found = profile.profiled(lambda: jax.block_until_ready(work(big, small)))
    names = [kernel["name"] for kernel in found["kernels"]]
    assert found["wall_seconds"] > 0 and "sin" not in names[0]
    assert not any(name.startswith("end: ") for name in names)


class Event:
    def __init__(self, name, duration_ns):
        self.name, self.duration_ns, self.stats = name, duration_ns, ()


class Group:
    """A plane of lines or a line of events."""

    def __init__(self, name, members):
        self.name, self.lines, self.events = name, members, members


def test_kernels_of_a_gpu_and_of_a_tpu():
    streams = [
        Group("Stream #13(Compute)", [Event("gemm", 5e9), Event("add", 1e9), Event("gemm", 2e9)]),
        Group("XLA Ops", [Event("gemm.7", 5e9)]),  # the same again, by another name
    ]
    host = Group("/host:CPU", [Group("python", [Event("gemm", 9e9)])])
    found = profile.summed([Group("/device:GPU:0", streams), host])
    assert found == [profile.Kernel("gemm", 7.0, 2), profile.Kernel("add", 1.0, 1)]
    ops = [Event("while.3", 9e9), Event("fusion.2", 4e9)]
    found = profile.summed([Group("/device:TPU:0", [Group("XLA Ops", ops)]), host])
    assert found == [profile.Kernel("fusion.2", 4.0, 1)]


def test_commit_of_no_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "__file__", str(tmp_path / "a" / "b" / "machine.py"))
    assert machine.commit() == {"commit": None, "changed": None}
    monkeypatch.setenv("PATH", str(tmp_path))  # no git either
    assert machine.commit() == {"commit": None, "changed": None}


def test_a_busy_machine_is_told():
    assert machine.warning(None) is None and machine.warning(0.01) is None
    assert "80%" in machine.warning(0.8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "0"], "--steps 0: expected 1 to 1000"),
        (["--seconds", "-1"], "--seconds -1.0: expected 0 to 36000"),
        (["--rounds", "0"], "--rounds 0: expected 1 to 1000"),
        (["--guidance", "nan"], "--guidance nan: expected a number"),
        (["--json", "/no/such/folder/a.json"], "its folder does not exist; make it first"),
        (["--json", "/"], "is a folder"),
        (["--chunk", "0"], "--chunk 0: expected 1 to 1000"),
        (["--preset", "quick"], "--preset 'quick': expected exact, fast"),
        (["--preset-differences", "--preset", "fast"], "of all presets and of nothing else"),
        (["--model", "nothing/like/this"], "nothing/like/this"),
        (["--compare", "torch", "--pairs", "vea"], "--pairs: no 'vea'; expected some of unet"),
    ],
)
def test_mistakes_are_one_line(arguments, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", *arguments, "--quiet"])
    monkeypatch.setattr(machine, "others", lambda: None)
    with pytest.raises(SystemExit) as stop:
        run("memo_jax.bench", command.main)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and words in said and said.count("\n") == 1


def test_a_file_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(command.Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(UserError, match="cannot be written: full"):
        command.write(str(tmp_path / "a.json"), {})
    assert not list(tmp_path.iterdir())
