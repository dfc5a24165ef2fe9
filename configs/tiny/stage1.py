"""Stage 1 of `tiny`: single frames. There is no Stable Diffusion of this size to start from, so
the residual blocks of the Diffusion Net learn too.

    python -m memo_jax.train.latents --data DATA --model VAE --output LATENTS
    python -m memo_jax.train --config configs/tiny/stage1.py --data LATENTS --model VAE --run DIR

VAE is the run of configs/tiny/vae.py.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """6,000 steps of 16 frames; `arg` is "" or "smoke"."""
    if arg not in ("", "smoke"):
        raise ValueError(f"no variant {arg!r}; expected nothing or 'smoke'")
    config = ConfigDict()
    config.stage = "1"
    config.model = ""
    config.data = ""
    config.form = "latents"
    config.decoupled = ()
    config.seed = 0
    config.trains = (r"reference_net/.*", r"diffusion_net/.*", r"image_proj/.*")
    config.loss = "velocity"  # counts the low noise levels, where details are made
    config.batch_size = 16
    config.steps = 6_000
    config.learning_rate = 2e-3
    config.warmup_steps = 200
    config.decay_steps = 4_000
    config.weight_decay = 0.0
    config.grad_clip = 1.0
    config.robust_threshold = None
    config.ema_decay = 0.998
    config.dtype = "float32"
    config.log_every = 50
    config.checkpoint_every = 500
    config.run = {"tensorboard": False}
    if arg == "smoke":
        config.update(model="tiny", batch_size=2, steps=2, log_every=1)
    return config.lock()
