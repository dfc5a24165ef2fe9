"""Truths of frames that stand still, for portraits and contact sheets."""

from collections.abc import Mapping

import numpy as np

from memo_jax.puppets.emotion import number
from memo_jax.puppets.truth import FIELDS, Truth


def still(
    seed: int,
    emotion: str = "neutral",
    intensity: float = 1.0,
    values: Mapping[str, float] | None = None,
) -> Truth:
    """One frame of a person at rest; `values` are fields of `Truth` that differ from rest."""
    values = dict(values or {})
    rest = dict.fromkeys(FIELDS, 0.0) | {
        "width": 0.5,
        "scale": 1.0,
        "loudness": -100.0,
        "emotion": float(number(emotion)),
        "intensity": intensity,
    }
    unknown = set(values) - set(FIELDS)
    if unknown:
        raise ValueError(f"no fields {sorted(unknown)}")
    return Truth.from_array(np.array([[(rest | values)[name] for name in FIELDS]]), seed)
