"""What the judges' tests share: files as published, and how closeness is told."""

import json
from pathlib import Path

import numpy as np
import pytest

MANIFESTS = Path(__file__).parents[1] / "manifests" / "judges"


@pytest.fixture(scope="session")
def manifest():
    """`manifest(name)`: the tensors of a published file, {name: shape}."""

    def manifest(name):
        content = json.loads((MANIFESTS / f"{name}.json").read_text())
        shapes = {key: tuple(entry["shape"]) for key, entry in content["params"].items()}
        assert len(shapes) == content["n_tensors"]
        values = sum(int(np.prod(shape)) for shape in shapes.values())
        assert values == content["n_values_state_dict"]
        learned = set(shapes) - set(content["buffers"])
        assert content["n_parameters"] == sum(int(np.prod(shapes[key])) for key in learned)
        return shapes

    return manifest
