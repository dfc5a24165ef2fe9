"""Makes the environment in which tensorflow-io runs; JAX cannot share it (NumPy below 2).

    python -m tools.tfrecord_import.environment DIR [--python python3.11]

The folder is what `python -m tools.tfrecord_import --tensorflow DIR` takes. It needs a package
index, some minutes and 1.6 GB.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from memo_jax.command import Parser, run
from memo_jax.errors import UserError, one_line

NAME = "tfrecord_import.environment"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
PYTHONS = ((3, 10), (3, 12))
"""From what the bridge needs to the last Python for which tensorflow-io 0.37.1 was published."""

# Says that a folder is complete, and of which requirements.
MARK = "memo_jax-tfrecord-import.txt"


def main(arguments: Sequence[str]) -> None:
    """The command.

    Raises:
      UserError: whatever the user can mend.
    """
    parser = Parser(prog=NAME, description="Makes the environment of tensorflow-io.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--python", default=sys.executable, help="Python 3.10 to 3.12; this one unless given"
    )
    args: argparse.Namespace = parser.parse_args(arguments)
    make(args.folder, args.python)
    print(f"{args.folder}: ready; give it as --tensorflow {args.folder}")


def make(folder: Path, python: str) -> None:
    """Make the environment, whole or not at all; one that is there already is left alone.

    Raises:
      UserError: another Python is needed, the folder holds something else, or pip fails.
    """
    folder = folder.absolute()
    if is_made(folder):
        return
    if os.path.lexists(folder):
        raise UserError(f"{folder} exists and is no environment of this version; give a new folder")
    _check_python(python)
    try:
        _run([python, "-I", "-m", "venv", str(folder)], "the virtual environment cannot be made")
        inside = str(interpreter(folder))
        # -I, or pip would take the packages of the folder it is started in for its own.
        install = [inside, "-I", "-m", "pip", "install", "--disable-pip-version-check"]
        _run([*install, "-r", str(REQUIREMENTS)], "pip cannot install what it needs")
        _run(bridge_command(folder, "--check"), "tensorflow-io does not run in it")
        (folder / MARK).write_text(_fingerprint(), "utf-8")
    finally:
        if not is_made(folder):  # pip failed, or Ctrl-C
            shutil.rmtree(folder, ignore_errors=True)


def is_made(folder: Path) -> bool:
    """Whether a folder is a whole environment of the present requirements."""
    try:
        return (folder / MARK).read_text("utf-8") == _fingerprint()
    except OSError:
        return False


def interpreter(folder: Path) -> Path:
    """The environment's Python."""
    return folder / "bin" / "python"


def bridge_command(folder: Path, *arguments: str) -> list[str]:
    """The command line of the bridge; `clean_environment` goes with it."""
    return [str(interpreter(folder)), "-m", "tools.tfrecord_import.bridge", *arguments]


def clean_environment() -> dict[str, str]:
    """Variables for a process in the other environment: it must not see this one's packages."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    root = Path(__file__).parents[2]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": ""}
    return {**quiet, **kept, "PYTHONPATH": str(root), "PYTHONNOUSERSITE": "1"}


def _check_python(python: str) -> None:
    (first, last) = PYTHONS
    wanted = f"expected {'.'.join(map(str, first))} to {'.'.join(map(str, last))}"
    code = "import sys; print(*sys.version_info[:2])"
    try:
        told = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
        version = tuple(int(part) for part in told.stdout.split())
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"--python {python!r} does not run ({one_line(error)}); {wanted}"
        ) from error
    if not first <= version <= last:
        raise UserError(
            f"{python} is Python {'.'.join(map(str, version))}, which tensorflow-io does not take; "
            f"{wanted}: name one by --python"
        )


def _run(command: list[str], failure: str) -> None:
    """Run with pip's own progress on the screen."""
    status = subprocess.run(command, env=clean_environment(), check=False).returncode
    if status:
        raise UserError(f"{failure} (status {status}); see the lines above")


def _fingerprint() -> str:
    return hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()


if __name__ == "__main__":
    run(NAME, main)
