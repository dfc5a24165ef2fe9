"""What the judges' tests share: drawn weights, files as published, and how closeness is told."""

import json
from pathlib import Path

import numpy as np
import pytest

MANIFESTS = Path(__file__).parents[1] / "manifests" / "judges"


@pytest.fixture(scope="session")
def drawn():
    """`drawn(module, seed)`: every parameter and statistic drawn, the signal kept at its size."""
    import torch

    def drawn(module, seed):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, tensor in module.state_dict().items():
                if name.endswith("num_batches_tracked"):
                    continue
                n = torch.randn(tensor.shape, generator=generator)
                if tensor.ndim > 1:
                    n = n * (2 / tensor[0].numel()) ** 0.5
                elif name.endswith("running_var"):
                    n = 0.5 + n.abs()
                elif name.endswith("weight"):  # a norm's
                    n = 1 + 0.2 * n
                else:
                    n = 0.2 * n
                tensor.copy_(n)
        return module.eval()

    return drawn


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
