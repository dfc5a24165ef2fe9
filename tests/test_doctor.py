"""The doctor: what it finds, the line that mends it, and that nothing makes it fall over."""

import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save_file

from memo_jax import doctor
from memo_jax.weights import manifest

ROOT = Path(__file__).parents[1]
TINY = ROOT / "memo_jax" / "assets" / "models" / "tiny"
MEMO = manifest.model("memoavatar/memo")
COMPONENTS_OF_MEMO = {file.component for _, file in MEMO.files()}


class Probe:
    """Stands for the process that starts JAX."""

    returncode = 1

    def __init__(self, out, err=""):
        self.answer = (out, err)

    def communicate(self, timeout=None):
        return self.answer

    @classmethod
    def of(cls, backend="cpu"):
        device = {"kind": "a kind", "bytes": 16 * 10**9}
        return cls(json.dumps({"backend": backend, "devices": [device], "attention": "XLA"}))


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """An empty machine with JAX on the CPU, and nothing in any cache."""
    monkeypatch.setattr(doctor, "ROOT", tmp_path / "machine")
    monkeypatch.setattr(doctor, "_start_probe", Probe.of)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("MEMO_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))  # where no nvidia-smi is
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    return tmp_path


@pytest.fixture
def said(machine, capsys):
    """`said(*arguments)` is (status, {name: finding}) and that the table says the same."""

    def said(*arguments):
        statuses, out = [], []
        for form in ([], ["--json"]):
            try:
                doctor.main([*arguments, *form])
                statuses.append(0)
            except SystemExit as end:
                statuses.append(end.code)
            captured = capsys.readouterr()
            out.append(captured.out)
            assert captured.err == ""
        table, data = out[0], json.loads(out[1])
        assert statuses[0] == statuses[1] == (not data["can_sample"])
        assert ("can run with" in table) == data["can_sample"]
        for one in data["findings"]:
            assert one["name"] in table and (one["state"] == "ok" or one["fix"] in table)
        return statuses[0], {one["name"]: one for one in data["findings"]}

    return said


@pytest.fixture
def published(tmp_path):
    """A folder in the published layout: every file is whole, and none is a network."""
    folder = tmp_path / "memo"
    for part, file in MEMO.files():
        path = folder / part.place(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            save_file({"a": np.zeros(3, np.float32)}, path)
        else:
            path.write_bytes(b"\x80" if path.suffix == ".pt" else b"{}")
    return folder


def test_the_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "memo_jax.doctor"],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "MEMO_JAX_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.splitlines()[-1] == "memo_jax.sample can run with --model tiny"


@pytest.mark.parametrize("library", ["jax", "av", "numpy", "huggingface_hub", "orbax"])
def test_a_library_that_cannot_be_imported(tmp_path, library):
    """As it is on machines: JAX itself may be what is broken."""
    (tmp_path / library).mkdir()
    (tmp_path / library / "__init__.py").write_text("raise ImportError('it is broken')")
    done = subprocess.run(
        [sys.executable, "-m", "memo_jax.doctor"],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.stderr == ""
    assert "Traceback" not in done.stdout and "it is broken" in done.stdout
    assert "h264" in done.stdout or library in ("av", "numpy")
    assert "cannot run with --model tiny" in done.stdout.splitlines()[-1]


def test_tiny(said):
    status, found = said()
    assert status == 0 and found["vae"]["state"] == "ok" and found["aac"]["state"] == "ok"
    assert "16.0 GB" in found["device 0"]["detail"]


def test_a_missing_dependency(said, monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "einops":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1" if name == "tqdm" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    status, found = said()
    assert status == 1
    assert found["einops"]["state"] == "missing" and "pip install" in found["einops"]["fix"]
    assert found["tqdm"]["state"] == "problem" and not found["tqdm"]["needed"]


def test_a_checkout_that_is_not_installed(said, monkeypatch):
    def requires(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", requires)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[\w.-]+", line)[0] for line in project["dependencies"]}
    assert names | set(doctor.OPTIONAL) <= set(said()[1])


@pytest.mark.parametrize(
    ("version", "wanted", "holds"),
    [
        ("1.2.3", "", True),
        ("1.2", ">=1.2.0", True),
        ("1.10", ">=1.9,<2", True),
        ("2.0", "<2,>=1.9", False),
        ("1.8.9", ">=1.9", False),
        ("2.13.0+cpu", "==2.13.0", True),
        ("2.13.1", "==2.13.0", False),
        ("3", "!=3.0", False),
    ],
)
def test_version_ranges(version, wanted, holds):
    assert doctor.within(version, wanted) is holds


def test_a_gpu_that_jax_does_not_use(said, machine, monkeypatch):
    (machine / "machine/proc/driver/nvidia").mkdir(parents=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    status, found = said()
    assert status == 0  # it runs, only slowly
    assert found["NVIDIA GPU"]["fix"] == "pip install -e '.[cuda]'"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "there")
    assert "driver" in said()[1]["NVIDIA GPU"]["fix"]
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert said()[1]["NVIDIA GPU"]["fix"] == "unset JAX_PLATFORMS"
    monkeypatch.setattr(doctor, "_start_probe", lambda: Probe.of("gpu"))
    assert "NVIDIA GPU" not in said()[1]


@pytest.mark.parametrize("device", ["accel0", "vfio/0"])
def test_a_tpu_that_jax_does_not_use(said, machine, monkeypatch, device):
    path = machine / "machine/dev" / device
    path.parent.mkdir(parents=True)
    path.touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert said()[1]["TPU"]["fix"] == "pip install -e '.[tpu]'"
    monkeypatch.setattr(doctor, "_start_probe", lambda: Probe.of("tpu"))
    assert "TPU" not in said()[1]


def test_jax_that_does_not_start(said, monkeypatch):
    err = "Traceback ...\nRuntimeError: no such backend\n(see above)\n"
    monkeypatch.setattr(doctor, "_start_probe", lambda: Probe("", err))
    status, found = said()
    assert status == 1 and "no such backend" in found["jax"]["detail"]


@pytest.mark.parametrize("code", ["import os; os.abort()", "import time; time.sleep(60)"])
def test_jax_that_crashes_or_hangs(said, monkeypatch, code):
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 1)

    def start():
        pipe = subprocess.PIPE
        return subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True)

    monkeypatch.setattr(doctor, "_start_probe", start)
    status, found = said()
    assert status == 1 and found["jax"]["state"] == "problem"


def test_encoders_that_are_not_there(said, monkeypatch):
    import av

    def add_stream(*args, **options):
        raise ValueError("no such codec")

    class Output:
        def __init__(self, *args, **options):
            self.add_stream = add_stream

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            return None

    monkeypatch.setattr(av, "open", Output)
    status, found = said()
    assert status == 1 and "no such codec" in found["aac"]["detail"]


def test_storage_that_is_full_or_closed(said, machine, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(10**9, 0, 10**9))
    assert "MEMO_JAX_CACHE" in said()[1]["cache"]["fix"]

    def closed(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", closed)
    status, found = said()
    assert status == 0 and "Permission denied" in found["downloads"]["detail"]


@pytest.mark.parametrize(
    ("damage", "name", "state"),
    [
        (lambda m: shutil.rmtree(m / "vae"), "vae", "missing"),
        (lambda m: (m / "vae/_METADATA").write_text("x"), "vae", "problem"),
        (lambda m: (m / "model.json").write_text("x"), "model.json", "problem"),
    ],
)
def test_a_damaged_native_model(said, machine, damage, name, state):
    folder = shutil.copytree(TINY, machine / "model")
    damage(folder)
    status, found = said("--model", str(folder))
    assert status == 1 and found[name]["state"] == state and found[name]["fix"]


def test_a_published_model(said, published):
    status, found = said("--model", str(published))
    assert status == 0
    assert {found[name]["state"] for name in COMPONENTS_OF_MEMO} == {"ok"}
    assert "non-commercial" in found["face_analysis"]["detail"]
    assert "MIT" in found["vae"]["detail"]


@pytest.mark.parametrize(
    ("place", "name", "status"),
    [
        ("wav2vec2", "wav2vec2", 1),
        ("audio_proj", "audio_proj", 1),
        ("emotion2vec", "emotion2vec", 0),
        ("misc/face_analysis", "face_analysis", 0),
        ("misc/vocal_separator", "vocal_separator", 0),
    ],
)
def test_a_published_model_without_a_part(said, published, place, name, status):
    shutil.rmtree(published / place)
    got, found = said("--model", str(published))
    assert got == status and found[name]["state"] == "missing"
    assert found[name]["fix"].startswith("hf download ") and str(published) in found[name]["fix"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("vae/diffusion_pytorch_model.safetensors", b"\x10\0\0\0\0\0\0\0{}"),
        ("vae/config.json", b"{"),
        ("emotion2vec/model.pt", b"<html>"),
    ],
)
def test_a_damaged_published_file(said, published, file, content):
    (published / file).write_bytes(content)
    status, found = said("--model", str(published))
    assert status == 1 and Path(file).name in found[file.split("/")[0]]["detail"]


def test_onnx_files_without_what_runs_them(said, published, monkeypatch):
    real = importlib.util.find_spec
    without = lambda name, *more: None if name == "onnxruntime" else real(name, *more)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", without)
    status, found = said("--model", str(published))
    assert status == 1 and found["onnxruntime"]["fix"] == "pip install -e '.[onnx]'"


def test_a_hub_model(said, machine):
    status, found = said("--model", "memoavatar/memo")
    assert status == 1 and found["vae"]["state"] == "missing" and "MIT" in found["vae"]["detail"]
    for part, file in MEMO.files():  # as huggingface_hub keeps what it fetched
        repository = machine / "hub" / f"models--{part.source.repository.replace('/', '--')}"
        commit = part.source.revision or "c" * 40
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / "main").write_text(commit)
        path = repository / "snapshots" / commit / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    status, found = said("--model", "memoavatar/memo")
    assert status == 0 and found["vae"]["state"] == "ok"


@pytest.mark.parametrize(
    "model", ["someone/else", "stabilityai/sd-vae-ft-mse", "no model", "é" * 999]
)
def test_a_model_that_is_not_here(said, model):
    status, found = said("--model", model)
    assert status == 1 and found["model"]["fix"]


def test_judges(said, machine):
    """None is needed to sample; each has the line that puts it where it is looked for."""
    status, found = said()
    assert status == 0
    for name, judge in manifest.judges().items():
        assert found[name]["state"] == "missing" and found[name]["group"] == "judges"
        assert str(machine / "cache" / "judges" / judge.file) in found[name]["fix"]
    path = machine / "cache" / "judges" / "i3d_torchscript.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a web page")
    status, found = said()
    assert status == 0 and found["fvd"]["state"] == "problem"
    assert "10 bytes" in found["fvd"]["detail"]


def test_a_folder_that_is_no_model(said, tmp_path):
    status, found = said("--model", str(tmp_path))
    assert status == 1 and "convert_weights" in found["model"]["fix"]
