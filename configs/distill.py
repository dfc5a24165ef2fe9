"""Distillation: four steps without guidance in the place of twenty with it.

    python -m memo_jax.train --config configs/distill.py --data DIR --model STAGE2B --run DIR

STAGE2B is the model that joint training made; it is the teacher, and what the student starts from.
`configs/distill.py:guidance` takes out guidance alone and keeps the teacher's nineteen steps; its
model may be the teacher of four. `configs/distill.py:smoke` is two steps of the bundled model on
one CPU.
"""

from ml_collections import ConfigDict

VARIANTS = ("", "guidance", "smoke")


def get_config(arg: str = "") -> ConfigDict:
    """10,000 steps; the teacher takes 19 of its own for the student's 4, at the guidance of its
    sampler. `arg` is one of `VARIANTS`."""
    if arg not in VARIANTS:
        raise ValueError(f"no variant {arg!r}; expected one of {VARIANTS}")
    config = ConfigDict()
    config.stage = "distill"
    config.model = ""
    config.data = ""
    config.form = "latents"
    config.decoupled = ("MEAD",)
    config.frames = 16
    config.past_frames = (16,)
    config.drop = {"reference": 0.0, "audio": 0.0, "emotion": 0.0, "past": 0.0}
    config.student_steps = 4
    config.teacher_substeps = 6
    config.teacher_guidance = None  # the model's own
    config.seed = 0
    config.batch_size = 64
    config.accumulate = 1
    config.steps = 10_000
    config.learning_rate = 1e-5
    config.warmup_steps = 500
    config.weight_decay = 0.0
    config.grad_clip = 1.0
    config.robust_threshold = None
    config.ema_decay = 0.999
    config.dtype = "bfloat16"
    config.remat = "module"
    config.fsdp_axis = 8
    config.log_every = 10
    config.checkpoint_every = 500
    config.sample_every = 1000
    config.run = {"keep_every": 0, "tensorboard": True}
    if arg == "guidance":
        config.update(student_steps=19, teacher_substeps=1)
    if arg == "smoke":
        config.update(
            model="tiny", batch_size=2, steps=2, dtype="float32", remat="none", log_every=1
        )
        config.update(frames=2, past_frames=(2,), fsdp_axis=1, sample_every=0, teacher_substeps=1)
    return config.lock()
