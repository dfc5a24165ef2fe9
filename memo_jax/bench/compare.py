"""PyTorch's implementations and ours of the same networks, timed in turns in one process.

Both get the same numbers and as many threads, float32, on a CPU. Both are warmed first, and what
they give is compared, so that what is timed is known to be the same network.
"""

import gc
import importlib.metadata
import importlib.util
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from memo_jax.bench import machine
from memo_jax.bench.pairs import FULL, PAIRS, Pair, Sizes
from memo_jax.errors import UserError

_PACKAGES = ("torch", "diffusers")


def check(pairs: Sequence[str]) -> None:
    """Refuse what cannot be compared.

    Raises:
      UserError: an unknown pair, no PyTorch, or no CPU.
    """
    for name in pairs:
        if name not in PAIRS:
            raise UserError(f"--pairs: no {name!r}; expected some of {', '.join(PAIRS)}")
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--compare torch needs {' and '.join(missing)}, not installed here; "
            "pip install -e '.[test]'"
        )
    if jax.default_backend() != "cpu":
        raise UserError(
            f"--compare torch is for CPUs and JAX is on a {jax.default_backend()}; "
            "set JAX_PLATFORMS=cpu"
        )


def compare(
    sizes: Sizes = FULL,
    *,
    pairs: Sequence[str] = (),
    rounds: int = 5,
    threads: int | None = None,
    quiet: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Time pairs and give what is stored.

    Args:
      pairs: their names; all unless given.
      rounds: turns of each.
      threads: that PyTorch uses; as many as XLA unless given.
      tell: is given a line for each pair.

    Raises:
      UserError: as `check`.
    """
    names = list(pairs or PAIRS)
    check(names)
    import torch

    torch.set_num_threads(threads or machine.threads())
    found = {}
    for name in names:
        with torch.inference_mode():
            pair = PAIRS[name](sizes)
            found[name] = _timed(name, pair, rounds, quiet)
        del pair
        gc.collect()  # the next pair's weights need the room
        tell(line(name, found[name]))
    return {
        "kind": "comparison with torch",
        "settings": {
            "rounds": rounds,
            "dtype": "float32",
            "threads": torch.get_num_threads(),
            "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "pairs": found,
    }


def line(name: str, found: dict[str, Any]) -> str:
    """A pair's figures for people to read."""
    ours, theirs = (float(np.median(found[f"{who}_seconds"])) for who in ("ours", "theirs"))
    low, high = found["ratio_quartiles"]
    return (
        f"{name:9} {found['ratio']:.2f} of torch's time (quartiles {low:.2f} to {high:.2f}); "
        f"{ours:.3f} s against {theirs:.3f} s; results differ by {found['difference']:.1e}; "
        f"{found['what']}"
    )


def _timed(name: str, pair: Pair, rounds: int, quiet: bool) -> dict[str, Any]:
    once = pair.once or (lambda: None)
    with tqdm(total=rounds + 1, desc=f"{name}, warming", disable=quiet) as bar:
        once()
        ours, theirs = pair.ours(), pair.theirs()
        difference = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        for work in (once, pair.ours, pair.theirs):
            work()
        bar.update()
        bar.set_description(name)
        taken: dict[str, list[float]] = {"once": [], "ours": [], "theirs": []}
        turn = [("once", once), ("ours", pair.ours), ("theirs", pair.theirs)]
        for i in range(rounds):
            for who, work in turn if i % 2 == 0 else reversed(turn):
                begun = time.perf_counter()
                work()
                taken[who].append(time.perf_counter() - begun)
            bar.update()
    own = np.array(taken["ours"]) + np.array(taken["once"]) / pair.steps * bool(pair.once)
    ratios = own / np.array(taken["theirs"])
    return {
        "what": pair.what,
        "difference": difference,
        "ours_seconds": own.tolist(),
        "theirs_seconds": taken["theirs"],
        "once_seconds": taken["once"] if pair.once else None,
        "steps": pair.steps,
        "ratio": float(np.median(ratios)),
        "ratio_quartiles": [float(q) for q in np.quantile(ratios, (0.25, 0.75))],
    }
