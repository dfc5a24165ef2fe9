r"""Four steps of `tiny` without guidance, learnt from ten with it of the model itself.

python -m memo_jax.train --config configs/tiny/distill.py --data LATENTS --model tiny --run DIR
"""

from ml_collections import ConfigDict

VARIANTS = ("", "guidance", "smoke")


def get_config(arg: str = "") -> ConfigDict:
    """800 steps of 4 clips; `arg` is one of `VARIANTS`, of which "guidance" keeps ten steps."""
    if arg not in VARIANTS:
        raise ValueError(f"no variant {arg!r}; expected one of {VARIANTS}")
    config = ConfigDict()
    config.stage = "distill"
    config.model = ""
    config.data = ""
    config.form = "latents"
    config.decoupled = ("puppets",)
    config.seed = 0
    config.frames = 16
    config.past_frames = (16,)
    config.portrait_past = 0.45  # as its teacher has learnt it
    config.other_past = 0.15
    config.drop = {"reference": 0.0, "audio": 0.0, "emotion": 0.0, "past": 0.0}
    config.student_steps = 4
    config.teacher_substeps = 3
    config.teacher_guidance = None  # the model's own
    config.batch_size = 4
    config.steps = 800
    config.learning_rate = 3e-4
    config.warmup_steps = 50
    config.decay_steps = 600
    config.weight_decay = 0.0
    config.grad_clip = 1.0
    config.robust_threshold = None
    config.ema_decay = 0.998
    config.dtype = "float32"
    config.log_every = 25
    config.checkpoint_every = 100
    config.run = {"tensorboard": False}
    if arg == "guidance":
        config.update(student_steps=10, teacher_substeps=1)
    if arg == "smoke":
        config.update(model="tiny", batch_size=2, steps=2, log_every=1)
        config.update(frames=2, past_frames=(2,), teacher_substeps=1)
    return config.lock()
