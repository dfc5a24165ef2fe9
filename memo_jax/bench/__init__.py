"""How fast it is: figures of generation, and of PyTorch's implementations beside it."""
