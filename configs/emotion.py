"""Options of `python -m memo_jax.train.emotion --config configs/emotion.py`.

Fields are the command's options with underscores; what is given on the command line wins.
`configs/emotion.py:smoke` trains a narrow classifier for two epochs.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """The paper's classifier and clip, and our choice of the rest; `arg` is "" or "smoke"."""
    if arg not in ("", "smoke"):
        raise ValueError(f"no variant {arg!r}; expected nothing or 'smoke'")
    config = ConfigDict()
    config.layers = 5
    config.channels = 32 if arg == "smoke" else 2048
    config.clip = 1.0
    config.batch_size = 512
    config.learning_rate = 1e-4
    config.weight_decay = 0.01
    config.contrastive = 0.1
    config.temperature = 0.1
    config.epochs = 2 if arg == "smoke" else 100
    config.patience = 10
    config.seed = 0
    return config.lock()
