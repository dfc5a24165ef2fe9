"""Options of `python -m memo_jax.sample --config configs/sample.py`.

Fields are the command's options with underscores; what is given on the command line wins.
`configs/sample.py:fast` takes fewer steps.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """Settings of the published sampler; `arg` is "" or "fast"."""
    if arg not in ("", "fast"):
        raise ValueError(f"no variant {arg!r}; expected nothing or 'fast'")
    config = ConfigDict()
    config.steps = 8 if arg == "fast" else 20
    config.guidance = 3.5
    config.seed = 0
    config.crop = "auto"
    config.vocals = "auto"
    return config.lock()
