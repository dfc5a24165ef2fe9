"""From a portrait and a recording to frames, as a library."""

from memo_jax.pipeline.pipeline import Pipeline, Run, Video

__all__ = ["Pipeline", "Run", "Video"]
