"""Fine-tuning as published: audio and motion modules alone, from the released model.

    python -m memo_jax.train --config configs/finetune.py --data DIR --run DIR

For one small device, `--config.lora_rank=16` trains low-rank changes of the attention projections
instead. `configs/finetune.py:smoke` is two steps of the bundled model on one CPU.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """10,000 steps from memoavatar/memo; `arg` is "" or "smoke"."""
    if arg not in ("", "smoke"):
        raise ValueError(f"no variant {arg!r}; expected nothing or 'smoke'")
    config = ConfigDict()
    config.stage = "finetune"
    config.model = "memoavatar/memo"
    config.data = ""
    config.form = "latents"
    config.frames = 16
    config.past_frames = (16,)
    config.seed = 0
    config.batch_size = 8
    config.accumulate = 1
    config.steps = 10_000
    config.learning_rate = 1e-5
    config.grad_clip = 1.0
    config.robust_threshold = 0.1
    config.ema_decay = None
    config.lora_rank = 0
    config.dtype = "bfloat16"
    config.remat = "module"
    config.fsdp_axis = 1
    config.log_every = 10
    config.checkpoint_every = 500
    config.sample_every = 500
    config.run = {"keep_every": 0, "tensorboard": True}
    if arg == "smoke":
        config.update(
            model="tiny", batch_size=2, steps=2, dtype="float32", remat="none", log_every=1
        )
        config.update(frames=2, past_frames=(2,), sample_every=0)
    return config.lock()
