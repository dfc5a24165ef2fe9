"""What training saves memory by changes no result: what is computed again, and what is stored."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smallest
from flax import nnx
from golden_case import relative_error
from small_model import random_module

from memo_jax.train import conditions
from memo_jax.train.loss import kept_loss

REMATS = ("none", "dots", "module", "layer")
NORMS = 4


def inputs(b=1, frames=2, side=4):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return conditions.Inputs(
        latents=normal(b, frames, side, side, 4),
        noise=normal(b, frames, side, side, 4),
        sigma=np.linspace(0.3, 0.7, b, dtype=np.float32),
        images=normal(b, 3, side, side, 4),
        face=normal(b, 6),
        audio=normal(b, frames, 5, 2, 4),
        emotion=np.arange(b * NORMS, dtype=np.int32).reshape(b, NORMS) % 10,
    )


@pytest.fixture(scope="module")
def compiled():
    """What compiled_memory.py found."""
    program = Path(__file__).with_name("compiled_memory.py")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    ran = subprocess.run(
        [sys.executable, program], check=True, env=environment, timeout=280, stdout=subprocess.PIPE
    )
    return json.loads(ran.stdout)


def test_programs_take_less_memory(compiled):
    kept = compiled["none"]["temporaries"]
    assert all(compiled[remat]["temporaries"] < 0.9 * kept for remat in REMATS[1:])


@pytest.mark.parametrize("remat", REMATS[1:])
def test_what_is_computed_again_is_the_same(compiled, remat):
    assert compiled[remat]["error"] <= 1e-6
    assert compiled[remat]["loss"] == pytest.approx(compiled["none"]["loss"], rel=1e-6)


@pytest.mark.parametrize("name", ["reference_net", "diffusion_net"])
def test_less_is_kept_from_forward_to_backward(name):
    config = dataclasses.replace(smallest.PARTS[name], **smallest.MORE)
    graphdef, params = nnx.split(random_module(name, config))
    given = inputs(frames=4, side=8)
    faces, audio = np.ones((1, 2, 8), np.float32), np.ones((1, 4, 2, 8), np.float32)
    labels, level = np.zeros(1, np.int32), np.ones(1, np.float32)

    def run(params, remat):
        net = nnx.merge(graphdef, params)
        if name == "reference_net":
            return net(given.images, faces, remat)
        return net(given.noise, level, None, faces, audio, labels, remat=remat)

    def kept(remat):
        backward = jax.eval_shape(
            lambda p: jax.vjp(functools.partial(run, remat=remat), p)[1], params
        )
        return sum(leaf.size for leaf in jax.tree.leaves(backward))

    sizes = [kept(remat) for remat in REMATS]
    weights = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes)
    # Parameters are among what is kept.
    assert sizes[-1] - weights < 0.1 * (sizes[0] - weights)


@pytest.mark.parametrize("rows", ["own", "mixed"])
def test_portrait_and_past_apart_are_as_together(model, rows):
    graphdef, params = nnx.split(model.modules["reference_net"])
    given = inputs(b=2)
    faces = np.random.default_rng(1).normal(size=(2, 2, 8)).astype(np.float32)

    @jax.jit
    def both(params):
        net = nnx.merge(graphdef, params)
        net.config = dataclasses.replace(net.config, face_rows=rows)
        each = net.each_image(faces, 3)
        parts = [net(given.images[:, cut], each[:, cut]) for cut in (slice(1), slice(1, None))]
        together = net(given.images, faces).entries
        return together, {
            name: jnp.concatenate([part.entries[name] for part in parts], axis=1)
            for name in together
        }

    together, apart = both(params)
    assert all(relative_error(apart[name], together[name]) <= 1e-5 for name in together)


def test_frozen_parameters_in_bfloat16_change_no_bit(trainer, model):
    # One kernel is adapted; all the rest is frozen, emotion tables too.
    target = "diffusion_net/mid_block/attentions/0/transformer_blocks/0/attn1/to_q"
    own = trainer(dtype="bfloat16", lora_rank=1, lora_targets=(target,))
    state, frozen = own.init(model)
    exact = {path: value.astype(jnp.float32) for path, value in own.values(model).items()}
    stored = [path for path, value in frozen.items() if value.dtype == jnp.bfloat16]
    matrices = [path for path, value in exact.items() if path.endswith("/kernel")]
    assert len(stored) >= len(matrices) - 1 > 50
    assert any(not np.array_equal(frozen[path], exact[path]) for path in stored)

    def velocity(frozen):
        return kept_loss(own.nets(state.trained, frozen), inputs(), None)[1].velocity

    # Otherwise XLA leaves out roundings that the program asks for.
    strictly = {"xla_allow_excess_precision": False}
    run = jax.jit(velocity, compiler_options=strictly)
    assert np.array_equal(run(frozen), run(exact))
    # The test would see it if they did.
    other = exact | {path: value * 1.01 for path, value in exact.items() if path in stored}
    assert not np.array_equal(run(other), run(exact))
