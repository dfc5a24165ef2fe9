r"""Stage 2 of `tiny`, joint: everything but the VAE, with 16, 32 or 48 past frames by batch.

python -m memo_jax.train --config configs/tiny/stage2b.py --data LATENTS --model STAGE2A --run DIR

Then on from there, each from the run of the one before (`stage2b.py:null` and so on):

null      with guidance's null branch
velocity  with the loss in the velocity, which counts the last steps of generation, where details
          are made, as much as the others
emotion   with past frames of another emotion than the one asked for, as where a video changes it
detail    with more low noise levels, where brows and lids are made
polish    the same with a rate that falls from the first step, and a longer mean of the weights

The ablations are shorter, each from a run of stage2a.py:ablation or :coupled (docs/tiny.md):

dynamic   as above; what the others are compared with
fixed     always 16 past frames
coupled   the portrait is of the same clip
"""

from ml_collections import ConfigDict

NULL = {
    "past_frames": (16,),  # as generation has, which is quicker
    "portrait_past": 0.5,
    "drop": {"null": 0.1},
    "steps": 2_600,
    "learning_rate": 7e-4,
    "decay_steps": 2_000,
}
VELOCITY = NULL | {
    "loss": "velocity",
    "steps": 1_500,
    "decay_steps": 1_000,
    "checkpoint_every": 250,
}
EMOTION = VELOCITY | {
    "portrait_past": 0.45,
    "other_past": 0.15,
    "steps": 1_200,
    "decay_steps": 700,
    "checkpoint_every": 200,
}
DETAIL = EMOTION | {"level_mean": -0.5, "steps": 1_500, "decay_steps": 800}
POLISH = DETAIL | {
    "steps": 2_000,
    "learning_rate": 5e-4,
    "decay_steps": 1_900,
    "ema_decay": 0.999,
}
ABLATION = {
    "portrait_past": 0.5,
    "drop": {"null": 0.1},
    "loss": "velocity",
    "steps": 600,
    "learning_rate": 7e-4,
    "decay_steps": 300,
    "checkpoint_every": 200,
}

VARIANTS = {
    "": {},
    "null": NULL,
    "velocity": VELOCITY,
    "emotion": EMOTION,
    "detail": DETAIL,
    "polish": POLISH,
    "dynamic": ABLATION,
    "fixed": ABLATION | {"past_frames": (16,)},
    "coupled": ABLATION | {"decoupled": ()},
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
    """2,500 steps of 4 clips; `arg` is one of `VARIANTS`."""
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
    config.past_frames = (16, 32, 48)
    config.portrait_past = 0.4  # videos start from a picture that feels otherwise
    config.batch_size = 4
    config.steps = 2_500
    config.learning_rate = 5e-4
    config.warmup_steps = 100
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
