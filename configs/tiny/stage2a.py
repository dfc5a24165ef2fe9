r"""Stage 2 of `tiny`, warm-up: single frames with sound, everything but the VAE.

Many people at once teach emotions and lips many times faster than a few clips of 16 frames do.

python -m memo_jax.train --config configs/tiny/stage2a.py --data LATENTS --model STAGE1 --run DIR
"""

from ml_collections import ConfigDict

VARIANTS = {
    "": {},
    "coupled": {"decoupled": ()},  # the portrait is of the same clip (docs/tiny.md)
    "smoke": {"model": "tiny", "batch_size": 2, "steps": 2, "log_every": 1},
}


def get_config(arg: str = "") -> ConfigDict:
    """2,400 steps of 32 frames; `arg` is one of `VARIANTS`."""
    if arg not in VARIANTS:
        raise ValueError(f"no variant {arg!r}; expected one of {tuple(VARIANTS)}")
    config = ConfigDict()
    config.stage = "2b"  # all networks learn: what "2a" freezes is not done learning here
    config.model = ""
    config.data = ""
    config.form = "latents"
    config.decoupled = ("puppets",)
    config.seed = 0
    config.frames = 1
    config.past_frames = (1,)
    config.portrait_past = 0.45
    config.other_past = 0.15
    config.drop = {"null": 0.1}
    config.loss = "velocity"
    config.batch_size = 32
    config.steps = 2_400
    config.learning_rate = 1e-3
    config.warmup_steps = 100
    config.decay_steps = 1_200
    config.weight_decay = 0.0
    config.grad_clip = 1.0
    config.robust_threshold = None
    config.ema_decay = 0.995
    config.dtype = "float32"
    config.log_every = 50
    config.checkpoint_every = 200
    config.run = {"tensorboard": False}
    config.update(VARIANTS[arg])
    return config.lock()
