r"""Stage 2 of `tiny`, joint: everything but the VAE, clips of 16 frames after 16 past ones.

python -m memo_jax.train --config configs/tiny/stage2b.py --data LATENTS --model STAGE2A --run DIR
"""

from ml_collections import ConfigDict

VARIANTS = {
    "": {},
    # After it, at a rate that falls from the first step. Lips and poses, which move more than they
    # should after the steps above, are made at the higher noise levels.
    "polish": {"learning_rate": 5e-4, "level_mean": 0.0, "steps": 2_000, "decay_steps": 2_000},
    # The ablations of docs/tiny.md.
    "dynamic": {"past_frames": (16, 32, 48)},
    "coupled": {"decoupled": ()},  # the portrait is of the same clip
    "smoke": {
        "model": "tiny",
        "batch_size": 2,
        "steps": 2,
        "log_every": 1,
        "frames": 2,
        "past_frames": (2,),
    },
}


def get_config(arg: str = "") -> ConfigDict:
    """3,600 steps of 4 clips; `arg` is one of `VARIANTS`."""
    if arg not in VARIANTS:
        raise ValueError(f"no variant {arg!r}; expected one of {tuple(VARIANTS)}")
    config = ConfigDict()
    config.stage = "2b"
    config.model = ""
    config.data = ""
    config.form = "latents"
    config.decoupled = ("puppets",)
    config.seed = 0
    config.frames = 16
    config.past_frames = (16,)
    config.portrait_past = 0.45  # videos start from a picture that feels otherwise
    config.other_past = 0.15  # and may change what they feel
    config.drop = {"null": 0.1}
    config.loss = "velocity"
    config.level_mean = -0.25
    config.batch_size = 4
    config.steps = 3_600
    config.learning_rate = 7e-4
    config.warmup_steps = 50
    config.decay_steps = 2_000
    config.weight_decay = 0.0
    config.grad_clip = 1.0
    config.robust_threshold = None
    config.ema_decay = 0.998
    config.dtype = "float32"
    config.log_every = 25
    config.checkpoint_every = 100
    config.run = {"tensorboard": False}
    config.update(VARIANTS[arg])
    return config.lock()
