"""Recorded inputs and outputs of the PyTorch implementation, and how closeness to them is told.

A case is `tests/golden/<name>.npz`. Its keys are `w/<state dict name>` for weights
(`w/<net>/<name>` where a case holds several networks), `in/<name>`, `out/<name>`, and `config`,
a JSON string. Weights keep the PyTorch layout. Names hold `.` and `/` literally.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "golden"


class GoldenCase:
    """One archive; arrays are read when they are asked for.

    >>> case = GoldenCase("f_projections")
    >>> weights, audio = case.w("audio_proj"), case.inp("audio")
    """

    def __init__(self, name: str, folder: Path = FOLDER):
        path = folder / f"{name}.npz"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in folder.glob("*.npz"))) or "none"
            raise FileNotFoundError(f"no golden case {name!r} in {folder}; there are: {known}")
        self.name = name
        self._archive = np.load(path, allow_pickle=False)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration the case was recorded with."""
        return json.loads(str(self._archive["config"][()]))

    def inp(self, name: str) -> np.ndarray:
        """The input `name`."""
        return self._read(f"in/{name}")

    def out(self, name: str) -> np.ndarray:
        """The expected output `name`."""
        return self._read(f"out/{name}")

    def w(self, prefix: str = "") -> dict[str, np.ndarray]:
        """PyTorch weights of a network or module, its name cut off: `w("net/conv_in")`."""
        if not prefix or prefix.endswith(("/", ".")):
            return self.under(f"w/{prefix}")
        network = any(key.startswith(f"w/{prefix}/") for key in self._archive.files)
        return self.under(f"w/{prefix}/" if network else f"w/{prefix}.")

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        """Every array whose key starts with `prefix`, named by the rest: `under("in/clip0/")`."""
        return {name: self._read(prefix + name) for name in self.names(prefix)}

    def names(self, prefix: str = "") -> list[str]:
        """The rest of every key that starts with `prefix`, in stored order; at least one."""
        found = [key.removeprefix(prefix) for key in self._archive.files if key.startswith(prefix)]
        if not found:
            raise KeyError(f"{self.name}: no key starts with {prefix!r}; {self._near(prefix)}")
        return found

    def has(self, key: str) -> bool:
        """Whether the archive holds `key`, for example `"in/mask"`."""
        return key in self._archive.files

    def _read(self, key: str) -> np.ndarray:
        if key not in self._archive.files:
            raise KeyError(f"{self.name}: no key {key!r}; {self._near(key)}")
        return self._archive[key]

    def _near(self, key: str) -> str:
        section = key.split("/")[0] + "/"
        near = [k for k in self._archive.files if k.startswith(section)] or self._archive.files
        return f"there are: {', '.join(near[:40])}{' ...' if len(near) > 40 else ''}"


def relative_error(got: Any, want: Any) -> float:
    """max |got - want| / max |want| over all elements, in float64; shapes must agree.

    nan where `got` holds a nan, so that a comparison with a bound fails. A `want` that is zero
    everywhere gives 0 if `got` is zero too, and inf if not.
    """
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, f"got shape {got.shape}, want {want.shape}"
    assert want.size, "nothing to compare: want is empty"
    difference, scale = np.abs(got - want).max(), np.abs(want).max()
    if scale == 0:
        return 0.0 if difference == 0 else float("nan" if np.isnan(difference) else "inf")
    return float(difference / scale)
