"""`python -m memo_jax.doctor`: what is here, what is missing, and the line that mends it.

Nothing but Python's own library is imported before main runs: a broken installation is what this
is for. Devices are looked at in a process of their own, which may crash or hang.
"""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

ROOT = Path("/")  # of the machine; another one in tests
PACKAGE = Path(__file__).parent

OK: Final = "ok"
MISSING: Final = "missing"
PROBLEM: Final = "problem"

PROBE_SECONDS = 120  # a TPU's first use can take most of a minute
WALK_SECONDS = 1.0  # for the size of one cache
LITTLE_SPACE = 2 * 10**9

# What is installed only for some uses, by its extra.
OPTIONAL = {
    "onnxruntime": ("onnx", "the published face models and the vocal separator"),
    "torch": ("convert", "only for old checkpoints that nothing else reads"),
    "apache-beam": ("prepare", "only for preparing training data"),
}


@dataclass(frozen=True)
class Finding:
    """One line: `fix` is what to type or do, `needed` whether sample cannot run without it."""

    name: str
    state: Literal["ok", "missing", "problem"]
    detail: str
    fix: str = ""
    needed: bool = False
    group: str = ""

    @property
    def stops(self) -> bool:
        """Whether sample cannot run because of it."""
        return self.needed and self.state != OK


def main(arguments: Sequence[str]) -> None:
    """The command.

    Raises:
      SystemExit: 1 where something that sample needs is missing, 2 for bad usage.
    """
    args = _parser().parse_args(arguments)
    found = examine(args.model)
    if args.json:
        data = {
            "model": args.model,
            "can_sample": not any(one.stops for one in found),
            "findings": [dataclasses.asdict(one) for one in found],
        }
        print(json.dumps(data, indent=1))
    else:
        print(table(found, args.model))
    if any(one.stops for one in found):
        sys.exit(1)


class _Parser(argparse.ArgumentParser):
    """One-line errors like the other commands', whose parser is not to be had without JAX."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {_short(message)}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    p = _Parser(prog="memo_jax.doctor", description="What is here, and what is missing to sample.")
    p.add_argument("--model", default="tiny", help="a preset, a model folder, or a hub id")
    p.add_argument("--json", action="store_true", help="the same as data")
    return p


def examine(model: str) -> list[Finding]:
    """Everything that was looked at, in the order it is shown."""
    probe = _start_probe()
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("packages", _packages),
        ("devices", lambda: _devices(probe)),
        ("video", _encoders),
        ("storage", _storage),
        ("model", lambda: _model(model)),
        ("judges", _judges),
    ]
    found: dict[str, list[Finding]] = {}
    # The devices last: their process works meanwhile.
    for group, check in sorted(checks, key=lambda item: item[0] == "devices"):
        found[group] = []
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # libraries' own complaints
                for one in check():
                    found[group].append(dataclasses.replace(one, group=group))
        except Exception as error:  # what a broken library raises is a finding
            what = f"{type(error).__name__}: {_short(error)}"
            fix = "pip install what is marked above; else pip install --force-reinstall -e ."
            found[group].append(Finding(group, PROBLEM, what, fix, group != "judges", group))
    return [one for group, _ in checks for one in found[group]]


def table(found: Sequence[Finding], model: str) -> str:
    """For people to read: a line for each finding, and below it what mends it."""
    width = max(len(one.name) for one in found)
    lines: list[str] = []
    group = ""
    for one in found:
        if one.group != group:
            group = one.group
            lines += [*([""] if lines else []), group]
        mark = one.state.upper() if one.stops else one.state
        lines.append(f"  {mark:<8} {one.name:<{width}}  {one.detail}".rstrip())
        if one.fix and one.state != OK:
            lines.append(f"  {'':<8} {'':<{width}}  -> {one.fix}")
    stopping = [one.name for one in found if one.stops]
    model = _short(model)
    lines.append("")
    if stopping:
        lines.append(f"memo_jax.sample cannot run with --model {model}: {', '.join(stopping)}")
    else:
        lines.append(f"memo_jax.sample can run with --model {model}")
    return "\n".join(lines)


def _packages() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    fine = sys.version_info >= (3, 11)
    fix = "use Python 3.11 or newer"
    yield Finding("python", OK if fine else PROBLEM, version, fix, needed=True)
    for name, wanted, extra in _requirements():
        if extra and (name not in OPTIONAL or OPTIONAL[name][0] != extra):
            continue
        fix = f"pip install -e '.[{extra}]'" if extra else f"pip install '{name}{wanted}'"
        use = f" ({OPTIONAL[name][1]})" if extra else ""
        try:
            have = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            detail = f"not installed, {wanted or 'any version'} wanted{use}"
            yield Finding(name, MISSING, detail, fix, needed=not extra)
            continue
        if within(have, wanted):
            yield Finding(name, OK, f"{have}{use}")
        else:
            detail = f"{have} installed, {wanted} wanted{use}"
            yield Finding(name, PROBLEM, detail, fix)


def _requirements() -> Iterator[tuple[str, str, str]]:
    """(distribution, version range, extra or "") of every dependency."""
    lines: list[str]
    try:
        lines = importlib.metadata.requires("memo_jax") or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text("utf-8"))["project"]
        lines = list(project["dependencies"])
        for extra, more in project["optional-dependencies"].items():
            lines += [f'{line}; extra == "{extra}"' for line in more]
    for line in lines:
        requirement, _, marker = line.partition(";")
        name = re.match(r"[\w.-]+", requirement.strip())
        extra_of = re.search(r"extra == ['\"]([\w-]+)['\"]", marker)
        if name:
            wanted = re.sub(r"\[.*?\]", "", requirement.strip()[name.end() :]).strip()
            yield name[0], wanted, extra_of[1] if extra_of else ""


def within(version: str, wanted: str) -> bool:
    """Whether a version is in a range such as `>=1.2,<2`; only release numbers are compared."""

    def numbers(text: str) -> list[int]:
        release = re.match(r"\d+(\.\d+)*", text.strip())
        return [int(part) for part in release[0].split(".")] if release else []

    for clause in filter(None, wanted.replace(" ", "").split(",")):
        bound = clause.lstrip("<>=!~")
        operator = clause.removesuffix(bound)
        have, limit = numbers(version), numbers(bound)
        length = max(len(have), len(limit))
        have += [0] * (length - len(have))
        limit += [0] * (length - len(limit))
        holds = {
            "<": have < limit,
            "<=": have <= limit,
            ">": have > limit,
            ">=": have >= limit,
            "==": have == limit,
            "!=": have != limit,
        }
        if not holds.get(operator, True):
            return False
    return True


def probe() -> None:
    """Print what JAX sees as JSON; in a process of its own."""
    import jax
    import jax.numpy as jnp

    from memo_jax.models.attention import attend

    q = jnp.zeros((1, 64, 8, 40), jnp.bfloat16)  # a head width of the released networks
    traced = str(jax.make_jaxpr(attend)(q, q, q))
    kernels = {"pallas_call": "a Pallas kernel", "dot_product_attention": "cuDNN flash attention"}
    path = next((name for mark, name in kernels.items() if mark in traced), "XLA")
    devices = []
    for device in jax.local_devices():
        stats = device.memory_stats() or {}
        devices.append({"kind": device.device_kind, "bytes": stats.get("bytes_limit")})
    print(json.dumps({"backend": jax.default_backend(), "devices": devices, "attention": path}))


def _start_probe() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", "from memo_jax.doctor import probe; probe()"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "PYTHONPATH": os.pathsep.join(map(str, [PACKAGE.parent, *filter(None, sys.path)])),
        },
    )


def _devices(process: subprocess.Popen[str]) -> Iterator[Finding]:
    try:
        out, err = process.communicate(timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        detail = f"JAX does not start within {PROBE_SECONDS} s"
        fix = "end other programs that use the accelerator, or set JAX_PLATFORMS=cpu"
        yield Finding("jax", PROBLEM, detail, fix, needed=True)
        return
    try:
        seen = json.loads(out.strip().splitlines()[-1])
    except (ValueError, IndexError):
        lines = [line for line in err.splitlines() if re.match(r"[\w.]*(Error|Exception)\b", line)]
        why = lines[-1] if lines else f"it ended with status {process.returncode}"
        fix = "pip install -e '.[cuda]' (GPU), '.[tpu]' (TPU), or set JAX_PLATFORMS=cpu"
        yield Finding("jax", PROBLEM, f"JAX does not start: {_short(why)}", fix, True)
        return
    backend, devices = seen["backend"], seen["devices"]
    yield Finding("jax", OK, f"{backend}, {len(devices)} device(s)")
    for number, device in enumerate(devices):
        memory = f", {_size(device['bytes'])}" if device["bytes"] else ""
        yield Finding(f"device {number}", OK, f"{device['kind']}{memory}")
    yield Finding("attention", OK, seen["attention"])
    yield from _unused_accelerators(backend)


def _unused_accelerators(backend: str) -> Iterator[Finding]:
    """A GPU or TPU that is in the machine and that JAX does not use."""
    chosen = os.environ.get("JAX_PLATFORMS", "")
    nvidia = (ROOT / "proc/driver/nvidia").exists() or shutil.which("nvidia-smi") is not None
    vfio = ROOT / "dev/vfio"
    tpu = any((ROOT / "dev").glob("accel[0-9]*")) or (
        vfio.is_dir() and any(path.name.isdigit() for path in vfio.iterdir()) and not nvidia
    )
    kinds = {
        "gpu": ("NVIDIA GPU", nvidia, "cuda", ("jax_cuda12_plugin", "jax_cuda13_plugin")),
        "tpu": ("TPU", tpu, "tpu", ("libtpu",)),
    }
    for name, (kind, there, extra, modules) in kinds.items():
        if not there or backend == name:
            continue
        if chosen and not re.search(rf"\b({name}|cuda)\b" if name == "gpu" else name, chosen):
            detail, fix = f"{kind} here, but JAX_PLATFORMS={chosen}", "unset JAX_PLATFORMS"
        elif any(importlib.util.find_spec(module) for module in modules):
            detail = f"{kind} here, and JAX cannot use it"
            fix = {"gpu": "update the NVIDIA driver: 525 or newer", "tpu": "end what holds it"}[
                name
            ]
        else:
            detail = f"{kind} here, but this JAX has no {extra.upper()} build"
            fix = f"pip install -e '.[{extra}]'"
        yield Finding(kind, PROBLEM, detail, fix)


def _encoders() -> Iterator[Finding]:
    import av
    import numpy as np

    def video(output: Any) -> None:
        stream = output.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        output.mux([*stream.encode(frame), *stream.encode(None)])

    def sound(output: Any) -> None:
        stream = output.add_stream("aac", rate=48000)
        samples = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 48000
        output.mux([*stream.encode(frame), *stream.encode(None)])

    trials: dict[str, Callable[[Any], None]] = {"h264 (libx264)": video, "aac": sound}
    for name, encode in trials.items():
        try:
            with av.open(io.BytesIO(), "w", format="mp4") as output:
                encode(output)
            yield Finding(name, OK, "encodes")
        except Exception as error:  # FFmpeg's and PyAV's own kinds, and a codec that is not there
            detail = f"does not encode ({_short(error)})"
            fix = "pip install --force-reinstall --only-binary :all: 'av>=18,<19'"
            yield Finding(name, PROBLEM, detail, fix, needed=True)


def _storage() -> Iterator[Finding]:
    from huggingface_hub import constants

    from memo_jax.weights.cache import cache_folder

    own = cache_folder() / "compilations"
    compiled = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or own)
    places = {
        "cache": (cache_folder(), "MEMO_JAX_CACHE"),
        "compiled programs": (compiled, "JAX_COMPILATION_CACHE_DIR"),
        "downloads": (Path(constants.HF_HUB_CACHE), "HF_HOME"),
    }
    for name, (folder, variable) in places.items():
        near = folder
        while not near.exists() and near != near.parent:
            near = near.parent
        free = shutil.disk_usage(near).free
        detail = f"{folder}: {_used(folder)}, {_size(free)} free"
        try:
            with tempfile.TemporaryFile(dir=near):  # only trying tells
                pass
        except OSError as error:
            detail += f"; cannot be written ({_short(error.strerror or error)})"
            yield Finding(name, PROBLEM, detail, f"export {variable}=FOLDER")
            continue
        if free < LITTLE_SPACE:
            fix = f"make room, or export {variable}=FOLDER"
            yield Finding(name, PROBLEM, f"{detail}, which is little", fix)
        else:
            yield Finding(name, OK, detail)


def _used(folder: Path) -> str:
    """How much is in a folder, as far as can be told in a moment."""
    end, total = time.monotonic() + WALK_SECONDS, 0
    for top, _, files in os.walk(folder):
        for name in files:
            try:
                stat = os.lstat(os.path.join(top, name))
            except OSError:  # gone meanwhile
                continue
            total += stat.st_blocks * 512
        if time.monotonic() > end:
            return f"more than {_size(total)} used"
    return f"{_size(total)} used" if folder.exists() else "not used yet"


def _model(name: str) -> Iterator[Finding]:
    from memo_jax.weights import health

    for one in health.examine(name):
        yield Finding(**dataclasses.asdict(one))


def _judges() -> Iterator[Finding]:
    """Networks that measure videos; none of them is needed to make one."""
    from memo_jax.weights import judging

    for one in judging.examine_judges():
        yield Finding(**dataclasses.asdict(one))


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def _short(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else f"{text[:157]}..."


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
