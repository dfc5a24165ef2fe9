"""The autoencoder of `tiny`, from nothing, on drawn faces.

python tools/make_tiny.py START
python -m memo_jax.puppets --output DATA --clips 4000 --per-identity 4 --seed 1
python -m memo_jax.train --config configs/tiny/vae.py --data DATA --model START --run DIR
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """16,000 steps of 4 pictures; `arg` is "" or "smoke"."""
    if arg not in ("", "smoke"):
        raise ValueError(f"no variant {arg!r}; expected nothing or 'smoke'")
    config = ConfigDict()
    config.stage = "vae"
    config.model = ""
    config.data = ""
    config.form = "images"
    config.decoupled = ()
    config.seed = 0
    config.batch_size = 2
    config.steps = 16_000
    config.learning_rate = 2e-3
    config.warmup_steps = 200
    config.decay_steps = 8_000
    config.weight_decay = 0.0
    config.grad_clip = 1.0
    config.robust_threshold = None
    config.ema_decay = 0.995
    config.dtype = "float32"
    config.kl_weight = 1e-4
    config.edge_weight = 0.5
    config.log_every = 100
    config.checkpoint_every = 1000
    config.run = {"tensorboard": False}
    if arg == "smoke":
        config.update(model="tiny", batch_size=2, steps=2, log_every=1)
    return config.lock()
