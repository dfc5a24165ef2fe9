"""Losses and gradients of training's own loss against recorded ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax import nnx
from golden_case import relative_error

from memo_jax.diffusion import flow
from memo_jax.train.conditions import Inputs
from memo_jax.train.loss import kept_loss
from memo_jax.weights import build, load_torch
from memo_jax.weights.components import component
from memo_jax.weights.rules import export_tensors

# Emotion norms in the order in which the network takes their labels.
MODULES = (
    "down_blocks.0.audio_modules.0",
    "mid_block.audio_modules.0",
    "up_blocks.1.audio_modules.0",
    "up_blocks.1.audio_modules.1",
)
NORMS = ("norm1", "audio_norm1", "norm2", "audio_norm2")


@pytest.fixture(scope="module", params=["k_training_b1", "k_training_b2"])
def case(request, golden):
    return golden(request.param)


@pytest.fixture(scope="module")
def step(case):
    """`step(emotion, threshold)`: (loss, what samples tell) and the gradients by PyTorch's names,
    of the recorded batch with a label for each emotion norm."""
    nets = {
        name: load_torch(name, case.config[name], case.w(name))
        for name in ("reference_net", "diffusion_net", "image_proj", "audio_proj")
    }
    split = {name: nnx.split(net) for name, net in nets.items()}
    data, noise = (
        rearrange(case.inp(name), "b c f h w -> b f h w c") for name in ("latents", "noise")
    )
    sigma = flow.train_sigmas()[np.array(case.config["timestep_indices"])]
    assert np.array_equal(sigma, case.inp("sigmas"))
    batch = case.config["batch"]

    def loss(trained, frozen, emotion, threshold):
        params = {**frozen, "diffusion_net": trained}
        inputs = Inputs(
            latents=data,
            noise=noise,
            sigma=sigma,
            images=rearrange(case.inp("ref_latents"), "(b n) c h w -> b n h w c", b=batch),
            face=case.inp("face_emb"),
            audio=case.inp("audio_emb"),
            emotion=emotion,
        )
        merged = {name: nnx.merge(split[name][0], params[name]) for name in split}
        total, told = kept_loss(merged, inputs, threshold, reference_learns=False)
        # Of several parts, the count would be that of all.
        return total / jnp.maximum(jnp.sum(told.kept), 1).astype(jnp.float32), told

    quickly = {"xla_backend_optimization_level": 0}
    run = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=quickly)
    part = component("diffusion_net")
    rules = part.rules(nets["diffusion_net"].config)
    frozen = {name: params for name, (_, params) in split.items() if name != "diffusion_net"}

    def step(emotion, threshold):
        params = split["diffusion_net"][1]
        result, gradients = run(params, frozen, emotion, jnp.float32(threshold))
        return result, export_tensors("gradients", rules, build.flatten(gradients))

    return step


def labels(case, drop):
    """A label for each emotion norm; the recorded masks put the null class in its place."""
    emotion = case.inp("emotion").astype(np.int32)
    columns = []
    for module in MODULES:
        for norm in NORMS:
            dropped = case.inp(f"emotion_drop/{module}.transformer_blocks.0.{norm}.class_embedder")
            columns.append(np.where(dropped & drop, 9, emotion))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("robust", ["robust_off", "robust_on"])
@pytest.mark.parametrize("variant", ["none", "drop"])
def test_loss_and_gradients(case, step, variant, robust):
    # An infinite threshold keeps everything, so that one program serves both.
    threshold = case.config["robust_threshold"] if robust == "robust_on" else np.inf
    (loss, told), gradients = step(labels(case, variant == "drop"), threshold)
    velocity = rearrange(told.velocity, "b f h w c -> b c f h w")
    assert relative_error(velocity, case.out(f"{variant}/pred")) <= 1e-4
    assert relative_error(told.losses, case.out(f"{variant}/per_sample_loss")) <= 1e-4
    assert relative_error(loss, case.out(f"{variant}/{robust}/loss")) <= 1e-4

    names = case.config["param_names"]
    recorded = dict(zip(names, case.out(f"{variant}/{robust}/grad_norms"), strict=True))
    # The position codes are constants there and parameters without gradient here.
    extra = set(gradients) - set(recorded)
    assert all(name.endswith("pos_encoder.pe") for name in extra)
    got = {name: float(np.linalg.norm(gradients[name])) for name in gradients}
    assert all(got[name] == 0 for name in extra)
    for name, norm in recorded.items():
        if norm <= 0:  # -1: no gradient was ever computed
            assert got[name] == 0, name
    norms = np.maximum([recorded[name] for name in names], 0)
    ours = np.array([got[name] for name in names])
    assert relative_error(ours, norms) <= 1e-4
    # Some gradients vanish by symmetry (a bias of keys shifts a softmax's scores alike): what is
    # recorded of them is rounding, a millionth of the largest norm.
    assert np.all(np.abs(ours - norms) <= 1e-4 * norms + 1e-6 * norms.max())
    for name in case.config["full_grad_params"]:
        want = case.out(f"{variant}/{robust}/grad/{name}")
        assert relative_error(gradients[name], want) <= 1e-4, name


def test_dropped_labels_matter_to_their_norms_alone(case):
    kept, dropped = labels(case, False), labels(case, True)
    assert np.all(kept == kept[:, :1]) and (kept != dropped).any() and (kept == dropped).any()
