"""A model of the published architecture, with recorded weights, that compiles in seconds."""

import contextlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_case import GoldenCase

from memo_jax.audio.config import Emotion2VecConfig, Wav2Vec2Config
from memo_jax.audio.logmel import LogMelConfig
from memo_jax.config import EmotionClassifierConfig, SamplerConfig
from memo_jax.weights import build
from memo_jax.weights.components import COMPONENTS, Component, load_torch
from memo_jax.weights.folder import Model
from memo_jax.weights.spec import REQUIRED, ModelSpec, Part

CASE = "j_pipeline_cfg1.0"

# 16 x 16 pixels, four frames a clip: 0.16 s.
SAMPLER = SamplerConfig(
    image_size=16, fps=25, clip_frames=4, past_frames=4, first_past_frames=4, steps=2, guidance=3.5
)
LOG_MEL = LogMelConfig(moments=3, bands=8)
WAV2VEC2 = Wav2Vec2Config(
    width=8,
    layers=3,
    heads=2,
    hidden=16,
    conv_channels=(8,) * 7,
    position_kernel=16,
    position_groups=2,
)
CLASSIFIER = EmotionClassifierConfig(in_features=32, layers=2, channels=16)


def random_module(name, config, seed=0):
    """A component with every parameter drawn: nothing is hidden by a zero."""
    graphdef, shapes = COMPONENTS[name].abstract(config)
    rng = np.random.default_rng(seed)
    values = {}
    for path, leaf in shapes.items():
        n = rng.normal(size=leaf.shape).astype(np.float32)
        if path.endswith("/scale"):
            n = 1 + 0.1 * n
        elif leaf.ndim > 1:
            n = n / np.sqrt(np.prod(leaf.shape[:-1]), dtype=np.float32)
        values[path] = jnp.asarray(n)
    return nnx.merge(graphdef, build.unflatten(values))


def emotion2vec():
    """The recorded case's config and module."""
    case = GoldenCase("m_emotion2vec")
    module = load_torch("emotion2vec", case.config["model_conf"], case.w())
    return Emotion2VecConfig.from_torch(case.config["model_conf"]), module


def generator_modules(case=CASE):
    """The five networks that make frames, with a recorded case's weights."""
    case = GoldenCase(case)
    return {name: load_torch(name, case.config[name], case.w(name)) for name in REQUIRED}


def small_model(sampler=SAMPLER, log_mel=LOG_MEL, case=CASE, folder: Path | None = None, **more):
    """A model in memory. `more` are components beside the five, as (config, module)."""
    modules = generator_modules(case)
    parts = {name: Part(module.config, "a recorded case") for name, module in modules.items()}
    for name, (config, module) in more.items():
        modules[name], parts[name] = module, Part(config, "drawn")
    spec = ModelSpec(name="small", sampler=sampler, parts=parts, log_mel=log_mel)
    return Model(spec, modules, folder)


def same_weights(a, b):
    """Whether two modules have the same parameters to the bit."""
    first, second = (build.flatten(nnx.state(module)) for module in (a, b))
    return first.keys() == second.keys() and all(
        first[k].dtype == second[k].dtype and np.array_equal(first[k], second[k]) for k in first
    )


@contextlib.contextmanager
def structures_kept():
    """Structures of components are traced once: loading a model spends half its time on them."""
    traced, kept = Component.abstract, {}

    def abstract(self, config, dtype=jnp.float32):
        try:
            hash(key := (self.name, config, dtype))
        except TypeError:  # a config that makes no sense
            return traced(self, config, dtype)
        if key not in kept:
            kept[key] = traced(self, config, dtype)
        return kept[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Component, "abstract", abstract)
        yield


@contextlib.contextmanager
def quick_compilation():
    """Programs are compiled without LLVM's optimisations: half the time at these sizes."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
