"""Stage 1, face adaptation: single frames; Reference Net, spatial attention, image projection.

    python -m memo_jax.train --config configs/stage1.py --data DIR --model START --run DIR

START is what `python -m tools.convert_weights init` writes. `configs/stage1.py:smoke` is two steps
of the bundled model on one CPU.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """15,000 steps; `arg` is "" or "smoke"."""
    if arg not in ("", "smoke"):
        raise ValueError(f"no variant {arg!r}; expected nothing or 'smoke'")
    config = ConfigDict()
    config.stage = "1"
    config.model = ""
    config.data = ""
    config.form = "latents"
    config.seed = 0
    config.batch_size = 256
    config.accumulate = 1
    config.steps = 15_000
    config.learning_rate = 1e-5
    config.grad_clip = 1.0
    config.robust_threshold = 0.1
    config.ema_decay = None
    config.dtype = "bfloat16"
    config.remat = "module"
    config.fsdp_axis = 1
    config.log_every = 50
    config.checkpoint_every = 1000
    config.sample_every = 0
    config.run = {"keep_every": 5000, "tensorboard": True}
    if arg == "smoke":
        config.update(
            model="tiny", batch_size=2, steps=2, dtype="float32", remat="none", log_every=1
        )
    return config.lock()
