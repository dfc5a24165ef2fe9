r"""Stage 2 of `tiny`, joint: everything but the VAE, with 16, 32 or 48 past frames by batch.

python -m memo_jax.train --config configs/tiny/stage2b.py --data LATENTS --model STAGE2A --run DIR

Then on from there, with guidance's null branch:

python -m memo_jax.train --config configs/tiny/stage2b.py:null --data LATENTS --model DIR --run NULL

And with the loss in the velocity, which counts the last steps of generation, where details are
made, as much as the others:

python -m memo_jax.train --config configs/tiny/stage2b.py:velocity --data LATENTS --model NULL \
    --run NEW
"""

from ml_collections import ConfigDict

VARIANTS = ("", "null", "velocity", "coupled", "fixed", "smoke")


def get_config(arg: str = "") -> ConfigDict:
    """2,500 steps of 4 clips; `arg` is one of `VARIANTS`."""
    if arg not in VARIANTS:
        raise ValueError(f"no variant {arg!r}; expected one of {VARIANTS}")
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
    if arg in ("null", "velocity"):  # of 16 past frames, as generation has, which is quicker
        config.past_frames = (16,)
        config.portrait_past = 0.5
        config.drop = {"null": 0.1}
        config.steps = 2_600
        config.learning_rate = 7e-4
        config.decay_steps = 2_000
    if arg == "velocity":
        config.loss = "velocity"
        config.steps = 1_500
        config.decay_steps = 1_000
        config.checkpoint_every = 250
    if arg == "coupled":  # the portrait is of the same clip: the ablation of decoupling
        config.decoupled = ()
    if arg == "fixed":  # the ablation of dynamic past frames
        config.past_frames = (16,)
    if arg == "smoke":
        config.update(model="tiny", batch_size=2, steps=2, log_every=1)
        config.update(frames=2, past_frames=(2,))
    return config.lock()
