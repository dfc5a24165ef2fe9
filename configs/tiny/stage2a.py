r"""Stage 2 of `tiny`, warm-up: audio and motion modules on clips of 16 frames.

python -m memo_jax.train --config configs/tiny/stage2a.py --data LATENTS --model STAGE1 --run DIR
"""

from ml_collections import ConfigDict

VARIANTS = ("", "coupled", "smoke")


def get_config(arg: str = "") -> ConfigDict:
    """3,000 steps of 4 clips; `arg` is one of `VARIANTS`."""
    if arg not in VARIANTS:
        raise ValueError(f"no variant {arg!r}; expected one of {VARIANTS}")
    config = ConfigDict()
    config.stage = "2a"
    config.model = ""
    config.data = ""
    config.form = "latents"
    config.decoupled = ("puppets",)
    config.seed = 0
    config.frames = 16
    config.past_frames = (16,)
    config.batch_size = 4
    config.steps = 3_000
    config.learning_rate = 1e-3
    config.warmup_steps = 200
    config.decay_steps = 1_000
    config.weight_decay = 0.0
    config.grad_clip = 1.0
    config.robust_threshold = None
    config.ema_decay = 0.998
    config.dtype = "float32"
    config.log_every = 50
    config.checkpoint_every = 500
    config.run = {"tensorboard": False}
    if arg == "coupled":  # the portrait is of the same clip: the ablation of decoupling
        config.decoupled = ()
    if arg == "smoke":
        config.update(model="tiny", batch_size=2, steps=2, log_every=1)
        config.update(frames=2, past_frames=(2,))
    return config.lock()
