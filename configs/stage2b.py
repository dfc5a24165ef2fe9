"""Stage 2, joint: all but the VAE and the encoders, with 16, 32 or 48 past frames by batch.

    python -m memo_jax.train --config configs/stage2b.py --data DIR --model STAGE2A --run DIR

STAGE2A is the model that the warm-up made. `configs/stage2b.py:smoke` is two steps of the
bundled model on one CPU.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """600,000 steps in all of stage 2, of which the warm-up had 15,000; `arg` is "" or "smoke"."""
    if arg not in ("", "smoke"):
        raise ValueError(f"no variant {arg!r}; expected nothing or 'smoke'")
    config = ConfigDict()
    config.stage = "2b"
    config.model = ""
    config.data = ""
    config.form = "latents"
    config.decoupled = ("MEAD",)
    config.frames = 16
    config.past_frames = (16, 32, 48)
    config.seed = 0
    config.batch_size = 256
    config.accumulate = 1
    config.steps = 585_000
    config.learning_rate = 1e-5
    config.grad_clip = 1.0
    config.robust_threshold = 0.1
    config.ema_decay = None
    config.dtype = "bfloat16"
    config.remat = "module"
    config.fsdp_axis = 8
    config.log_every = 50
    config.checkpoint_every = 1000
    config.sample_every = 5000
    config.run = {"keep_every": 50_000, "tensorboard": True}
    if arg == "smoke":
        config.update(
            model="tiny", batch_size=2, steps=2, dtype="float32", remat="none", log_every=1
        )
        config.update(frames=2, past_frames=(2,), fsdp_axis=1, sample_every=0)
    return config.lock()
