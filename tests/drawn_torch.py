"""PyTorch networks with drawn weights, for tests that compare ours with them."""

from typing import Any


def drawn(module: Any, seed: int) -> Any:
    """The module with every parameter and statistic drawn, the signal kept at its size."""
    import torch

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
