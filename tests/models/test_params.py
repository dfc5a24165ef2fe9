"""Every leaf of every network is a parameter in float32, and new modules start silent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from memo_jax.config import MotionConfig
from memo_jax.models.audio_attention import NORMS_PER_MODULE, AudioModule
from memo_jax.models.motion import MotionMemory, MotionModule
from memo_jax.weights.build import CountingRngs
from memo_jax.weights.components import COMPONENTS

# The recorded sizes: (case, key of the configuration).
SIZES = {
    "vae": ("h_vae", "kwargs"),
    "reference_net": ("d_reference_net", "kwargs"),
    "diffusion_net": ("e_diffusion_net", "kwargs"),
    "image_proj": ("f_projections", "image_proj"),
    "audio_proj": ("f_projections", "audio_proj"),
    "emotion_classifier": ("f_projections", "emotion_classifier"),
    "wav2vec2": ("g_wav2vec", "wav2vec2_config"),
    "emotion2vec": ("m_emotion2vec", "model_conf"),
}


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_leaf_is_a_param(golden, name):
    part = COMPONENTS[name]
    if name in SIZES:
        case, key = SIZES[name]
        config = part.config.from_torch(golden(case).config[key])
    else:
        config = part.config(block_out_channels=(32, 64, 64, 64))
    module = nnx.eval_shape(lambda: part.module(config, dtype=jnp.bfloat16, rngs=CountingRngs()))
    state = nnx.state(module)
    leaves = [leaf for _, leaf in nnx.to_flat_state(state)]
    assert leaves and all(type(leaf) is nnx.Param for leaf in leaves)
    assert all(leaf.get_value().dtype == jnp.float32 for leaf in leaves)
    assert len(leaves) == len(jax.tree.leaves(nnx.state(module, nnx.Param)))


def fresh(call):
    """What `call` gives, its constructors included, as one program: initialisers are many."""
    return jax.jit(call, compiler_options={"xla_backend_optimization_level": 0})()


def test_a_new_motion_module_changes_nothing():
    x = np.random.default_rng(0).normal(size=(1, 3, 2, 2, 32)).astype(np.float32)

    def call():
        module = MotionModule(32, MotionConfig(num_heads=2), dtype=jnp.float32, rngs=CountingRngs())
        memory = module.remember("at", x.reshape(1, 3, 4, 32), None)
        return module("at", x, MotionMemory(memory))

    assert np.array_equal(fresh(call), x)


def test_a_new_audio_module_changes_no_picture():
    rng = np.random.default_rng(0)
    video = rng.normal(size=(1, 3, 2, 2, 32)).astype(np.float32)
    audio = rng.normal(size=(1, 3, 4, 12)).astype(np.float32)
    labels = np.zeros((1, NORMS_PER_MODULE), np.int32)

    def call():
        module = AudioModule(32, 16, 12, 2, 8, 10, dtype=jnp.float32, rngs=CountingRngs())
        return module(video, audio, labels)

    got, heard = fresh(call)
    assert np.array_equal(got, video) and not np.array_equal(heard, audio)
