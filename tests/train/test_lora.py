"""Low-rank changes: the same merged and apart, trained alone, and as PEFT names them."""

import jax
import numpy as np
import pytest
import smallest
from flax import nnx
from golden_case import relative_error

from memo_jax.errors import UserError
from memo_jax.train import lora
from memo_jax.weights import build
from memo_jax.weights.components import assemble, to_torch
from memo_jax.weights.folder import Model

RANK, SCALE = 2, 3.0
TARGET = r"diffusion_net/mid_block/.*/(to_q|to_k|to_v|to_out)"


@pytest.fixture(scope="module")
def own(trainer):
    return trainer(
        lora_rank=RANK,
        lora_alpha=RANK * SCALE,
        lora_targets=(TARGET,),
        robust_threshold=None,
        learning_rate=1e-2,
    )


@pytest.fixture(scope="module")
def trained(own, model):
    """The state and frozen parameters, and both after two steps."""
    state, frozen = own.init(model)
    before = jax.tree.map(np.asarray, state.trained)
    kept = jax.tree.map(np.asarray, frozen)
    for _ in range(2):
        state, metrics = own.step(smallest.PAST)(state, frozen, own.put(smallest.batch()))
        assert bool(metrics["finite"])
    return before, kept, state, frozen


def test_merged_is_the_layer_and_its_low_rank_path_apart():
    rng = np.random.default_rng(0)
    params = {"x/kernel": rng.normal(size=(6, 5)).astype(np.float32)}
    factors = lora.start(["x"], {"x/kernel": params["x/kernel"]}, RANK, seed=0)
    assert np.array_equal(lora.merged(params, factors, SCALE)["x/kernel"], params["x/kernel"])
    factors["x/lora_b"] = rng.normal(size=(RANK, 5)).astype(np.float32)
    x = rng.normal(size=(3, 6)).astype(np.float32)
    apart = x @ params["x/kernel"] + SCALE * (x @ factors["x/lora_a"]) @ factors["x/lora_b"]
    assert relative_error(x @ lora.merged(params, factors, SCALE)["x/kernel"], apart) <= 1e-6


def test_only_factors_are_trained_and_have_a_state(own, trained):
    before, kept, state, frozen = trained
    paths = {path.rsplit("/", 1)[0] for path in before}
    assert paths and all(lora.A in p or lora.B in p for p in own.trained)
    assert {f"{path}/{part}" for path in paths for part in (lora.A, lora.B)} == set(state.trained)
    assert all(np.array_equal(frozen[path], value) for path, value in kept.items())
    assert set(kept) >= set(own.shapes)
    adam = state.opt_state[1][0]
    assert set(adam.mu) == set(adam.nu) == set(before)
    assert all(np.any(state.trained[f"{path}/{lora.B}"] != 0) for path in paths)
    assert not any(np.array_equal(state.trained[path], value) for path, value in before.items())


def test_the_model_with_merged_kernels_loses_as_the_factors_do(own, trained, model, trainer):
    _, _, state, frozen = trained
    weights = own.weights(state, frozen)
    assert set(weights) == {f"{path.rsplit('/', 1)[0]}/kernel" for path in own.trained}
    assert not any(np.allclose(weights[path], frozen[path], atol=1e-4) for path in weights)
    graphdef, params = nnx.split(model.modules["diffusion_net"])
    values = build.flatten(params) | {p.removeprefix("diffusion_net/"): weights[p] for p in weights}
    changed = Model(model.spec, {**model.modules, "diffusion_net": assemble(graphdef, values)})

    plain = trainer("finetune", robust_threshold=1.0)
    beginning, rest = plain.init(changed)
    batch = smallest.batch()
    _, told = plain.step(smallest.PAST)(
        beginning.replace(step=state.step + 0), rest, plain.put(batch)
    )
    _, apart = own.step(smallest.PAST)(_copy(state), frozen, own.put(batch))
    assert relative_error(apart["losses"], told["losses"]) <= 1e-5


def _copy(state):
    """Because a step takes its state's memory."""
    return jax.tree.map(lambda x: x + 0, state)


def test_peft_files_hold_the_factors_under_pytorchs_names(trained, model):
    _, _, state, _ = trained
    config = smallest.PARTS["diffusion_net"]
    tensors, described = lora.to_peft("diffusion_net", config, state.trained, SCALE, RANK)
    assert (described["r"], described["lora_alpha"]) == (RANK, RANK * SCALE)
    assert len(tensors) == len(state.trained) == 2 * len(described["target_modules"])
    torch_names = to_torch("diffusion_net", model.modules["diffusion_net"])
    for module in described["target_modules"]:
        a, b = (tensors[f"base_model.model.{module}.lora_{side}.weight"] for side in "AB")
        weight = torch_names[f"{module}.weight"]
        assert (b @ a).shape == weight.shape[:2]
    path = "diffusion_net/mid_block/attentions/0/transformer_blocks/0/attn1/to_out"
    name = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
    assert np.array_equal(tensors[f"{name}.lora_A.weight"].T, state.trained[f"{path}/{lora.A}"])


def test_a_target_that_matches_nothing():
    with pytest.raises(UserError, match="matches none of the model's 0 dense layers"):
        lora.targets(("to_q",), {"conv/kernel": np.zeros((3, 3, 2, 2))})
