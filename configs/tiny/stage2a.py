r"""Stage 2 of `tiny`, warm-up: audio and motion modules on clips of 16 frames.

python -m memo_jax.train --config configs/tiny/stage2a.py --data LATENTS --model STAGE1 --run DIR
"""

from ml_collections import ConfigDict

ABLATION = {"steps": 400, "warmup_steps": 50, "decay_steps": 150, "checkpoint_every": 200}

VARIANTS = {
    "": {},
    "ablation": ABLATION,  # of docs/tiny.md, from the bundled weights
    "coupled": ABLATION | {"decoupled": ()},  # the portrait is of the same clip
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
    """3,000 steps of 4 clips; `arg` is one of `VARIANTS`."""
    if arg not in VARIANTS:
        raise ValueError(f"no variant {arg!r}; expected one of {tuple(VARIANTS)}")
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
    config.update(VARIANTS[arg])
    return config.lock()
