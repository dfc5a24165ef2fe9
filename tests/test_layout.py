"""The tree is the data flow: imports point up the list of rooms, and the core stays light."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "memo_jax"

# In the order data flows. A module imports its own room and the rooms before it.
ROOMS = (
    *("errors", "config", "io", "audio", "models", "weights", "judges", "diffusion", "sharding"),
    *("pipeline", "data", "train", "aot", "prepare", "metrics", "puppets", "evaluate", "bench"),
    *("command", "commands", "memo_jax"),
)
COMMANDS = {"sample", "train", "prepare", "evaluate", "plan", "bench", "doctor"}
HEAVY = {"torch", "tensorflow", "tensorflow_io", "onnxruntime", "apache_beam"}
# These read differently in NNX's two modes, or hide state (Flax's Dropout holds its rngs).
BANNED_NNX = set(
    "jit grad value_and_grad scan vmap pmap remat cached_partial Optimizer "
    "BatchNorm BatchStat Cache Dropout Intermediate".split()
)
MAX_LINES = 500
DISTRIBUTIONS = packages_distributions()  # "cv2" -> ["opencv-python-headless"]


def room_of(module: str) -> str:
    """The room of a dotted module: `memo_jax.train.loop` -> `train`; a command -> `commands`.

    The package's own `__init__` is the room after all others. Raises ValueError on a stranger.
    """
    _, *parts = module.split(".")
    if not parts:
        return "memo_jax"
    if "__main__" in parts or (len(parts) == 1 and parts[0] in COMMANDS - set(ROOMS)):
        return "commands"
    if parts[0] not in ROOMS[:-2]:
        raise ValueError(f"{module}: {parts[0]!r} is no room of the house")
    return parts[0]


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and dotted name of all imports, those inside functions too; relative ones resolved.

    `from a.b import c` gives `a.b.c`: what `c` is, only its owner knows.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")
            base = base[: len(base) - node.level + is_package] if node.level else []
            stem = ".".join(base + ([node.module] if node.module else []))
            yield from ((node.lineno, f"{stem}.{alias.name}") for alias in node.names)


def wrong_directions(module: str, source: str, is_package: bool = False) -> list[str]:
    """The imports of `source` that point down the list of rooms, or at no room at all."""
    own, wrong = ROOMS.index(room_of(module)), []
    for line, name in imports(ast.parse(source), module, is_package):
        if name.split(".")[0] != "memo_jax" or name == "memo_jax.__version__":
            continue
        try:
            room = room_of(name)
        except ValueError as stranger:
            wrong.append(f"{module}:{line}: {stranger}")
            continue
        if ROOMS.index(room) > own:
            wrong.append(f"{module}:{line}: {ROOMS[own]} must not import {name} ({room})")
    return wrong


def at_import(tree: ast.Module) -> ast.Module:
    """The part that runs when the module is imported: no function bodies, no TYPE_CHECKING."""

    class Strip(ast.NodeTransformer):
        def visit_FunctionDef(self, node):
            return None

        visit_AsyncFunctionDef = visit_FunctionDef

        def visit_If(self, node):
            if "TYPE_CHECKING" in ast.unparse(node.test):
                return node.orelse or None
            return self.generic_visit(node)

    return Strip().visit(tree)


def third_party(tree: ast.AST, module: str) -> Iterator[tuple[int, str]]:
    """Line and top-level package of the imports that come from neither Python nor this house."""
    for line, name in imports(tree, module, is_package=False):
        top = name.split(".")[0]
        if top and top != "memo_jax" and top not in sys.stdlib_module_names:
            yield line, top


def undeclared(module: str, source: str, core: set[str], extras: set[str]) -> list[str]:
    """Imports that need what pyproject.toml does not ask for, and heavy ones at import time."""
    at_top = set(third_party(at_import(ast.parse(source)), module))
    found = []
    for line, top in third_party(ast.parse(source), module):
        needs = {normal(d) for d in DISTRIBUTIONS.get(top, [top])}
        if (line, top) in at_top and top in HEAVY:
            found.append(f"{module}:{line}: import {top} inside the function that needs it")
        elif not needs & (core if (line, top) in at_top else core | extras):
            found.append(f"{module}:{line}: {top} is not in pyproject.toml")
    return found


def normal(requirement: str) -> str:
    """The distribution a requirement names: `ml_collections>=1.1` -> `ml-collections`."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", requirement)[0]).lower()


def declared() -> tuple[set[str], set[str]]:
    """Distributions in the dependencies, and in any extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    return {normal(r) for r in project["dependencies"]}, {normal(r) for e in extras for r in e}


def dotted(path: Path) -> str:
    """`memo_jax/io/audio.py` -> `memo_jax.io.audio`; a package's `__init__` is the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = [pytest.param(p, id=dotted(p)) for p in sorted(PACKAGE.rglob("*.py"))]


@pytest.mark.parametrize("path", MODULES)
def test_imports_point_up_the_list(path):
    assert not wrong_directions(dotted(path), path.read_text(), path.name == "__init__.py")


@pytest.mark.parametrize("path", MODULES)
def test_imports_are_declared_and_light(path):
    assert not undeclared(dotted(path), path.read_text(), *declared())


@pytest.mark.parametrize("path", MODULES)
def test_nnx_is_used_as_frozen_pytrees(path):
    nodes = ast.walk(ast.parse(path.read_text()))
    used = {ast.unparse(n) for n in nodes if isinstance(n, ast.Attribute)}
    assert not used & {f"nnx.{name}" for name in BANNED_NNX}


def test_no_file_is_too_long():
    files = [
        p for top in ("memo_jax", "tests", "tools", "configs") for p in ROOT.glob(f"{top}/**/*.py")
    ]
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in files}
    assert not {name: n for name, n in lengths.items() if n > MAX_LINES}


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        (
            "memo_jax.io.audio",
            "from memo_jax.models import vae",
            "io must not import memo_jax.models",
        ),
        ("memo_jax.io.audio", "from memo_jax import models", "must not import memo_jax.models"),
        (
            "memo_jax.io.audio",
            "from ..models.vae import VAE",
            "must not import memo_jax.models.vae",
        ),
        ("memo_jax.io.audio", "def f():\n    import memo_jax.pipeline", "audio:2: io must not"),
        ("memo_jax.pipeline", "from memo_jax.train.loop import run", "pipeline must not import"),
        ("memo_jax.train.loop", "from memo_jax.train.__main__ import main", "(commands)"),
        ("memo_jax.models.vae", "from memo_jax.helpers import x", "'helpers' is no room"),
        ("memo_jax.models.vae", "from memo_jax import Pipeline", "'Pipeline' is no room"),
        ("memo_jax.models.vae", "import memo_jax", "must not import memo_jax (memo_jax)"),
    ],
)
def test_a_wrong_direction_is_seen(module, source, message):
    (found,) = wrong_directions(module, source)
    assert message in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("memo_jax.pipeline", "from memo_jax.models.vae import VAE\nfrom memo_jax.io import audio"),
        ("memo_jax.models.vae", "from .layers import Linear\nfrom ..errors import UserError"),
        ("memo_jax.sample", "from memo_jax.pipeline import Pipeline"),
        ("memo_jax.train.__main__", "from memo_jax.train.loop import run"),
        ("memo_jax.weights.folder", "from memo_jax import __version__\nimport numpy"),
    ],
)
def test_a_right_direction_is_let_pass(module, source):
    assert not wrong_directions(module, source)


def test_a_packages_own_relative_imports_stay_inside():
    assert not wrong_directions("memo_jax.io", "from .audio import decode", is_package=True)
    assert wrong_directions("memo_jax.io", "from ..models import vae", is_package=True)


def test_a_stranger_among_the_rooms_is_seen():
    with pytest.raises(ValueError, match="'utils' is no room"):
        wrong_directions("memo_jax.utils", "")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import torch", "import torch inside"),
        (
            "try:\n    import onnxruntime\nexcept ImportError:\n    pass",
            "import onnxruntime inside",
        ),
        ("class A:\n    from tensorflow import io", "import tensorflow inside"),
        ("import somelibrary.part", "somelibrary is not in pyproject.toml"),
        ("def f():\n    import somelibrary", "somelibrary is not in pyproject.toml"),
        ("import pytest", "pytest is not in pyproject.toml"),
    ],
)
def test_a_heavy_or_undeclared_import_is_seen(source, message):
    (found,) = undeclared(
        "memo_jax.models.vae", source, {"jax"}, {"torch", "onnxruntime", "pytest"}
    )
    assert message in found


def test_a_light_or_late_import_is_let_pass():
    source = (
        "import json\nimport jax.numpy as jnp\nfrom .layers import Linear\n"
        "if TYPE_CHECKING:\n    import torch\ndef f():\n    import torch"
    )
    assert not undeclared("memo_jax.models.vae", source, {"jax"}, {"torch"})


def test_torch_and_tensorflow_are_no_dependencies():
    core, _ = declared()
    assert not core & {normal(name) for name in HEAVY}
