"""The numbered layouts of the original checkpoints: every name of the published files, and back."""

import json
from pathlib import Path

import numpy as np
import pytest

from memo_jax.config import MotionAdapterConfig, MotionConfig, StableDiffusionConfig, VAEConfig
from memo_jax.errors import UserError
from memo_jax.weights.components import COMPONENTS
from memo_jax.weights.layouts import recognise, unaccounted
from memo_jax.weights.rules import export_tensors, import_tensors

MANIFESTS = Path(__file__).parents[1] / "manifests" / "original"
SOFTMAX = MotionConfig(attention="softmax")
# File -> what is in it, component by component.
FULL = {
    "stable_diffusion_v1_5": {"unet": StableDiffusionConfig(), "vae": VAEConfig()},
    "animatediff_v1": {
        "motion_adapter": MotionAdapterConfig(
            mid=False, motion=MotionConfig(max_frames=24, attention="softmax")
        )
    },
    "animatediff_v2": {"motion_adapter": MotionAdapterConfig(motion=SOFTMAX)},
    "animatediff_v3": {"motion_adapter": MotionAdapterConfig(mid=False, motion=SOFTMAX)},
}


def tensors_of(name):
    """Views of one zero under the names and in the shapes of a published file."""
    manifest = json.loads((MANIFESTS / f"{name}.json").read_text())
    return {k: np.broadcast_to(np.float32(0), shape) for k, shape in manifest.items()}


def shapes_of(layout, config):
    _, params = COMPONENTS[layout.component].abstract(config)
    return {path: leaf.shape for path, leaf in params.items()}


def test_every_manifest_is_here():
    assert set(FULL) == {path.stem for path in MANIFESTS.glob("*.json")}


@pytest.mark.parametrize("name", FULL)
def test_the_published_names_and_shapes(name):
    tensors = tensors_of(name)
    layouts = recognise(tensors)
    assert {layout.component for layout in layouts} == set(FULL[name])
    assert unaccounted(tensors, layouts) == []
    for layout in layouts:
        own = layout.own(tensors)
        config = layout.config(own)
        assert config == FULL[name][layout.component]
        shapes = shapes_of(layout, config)
        assert set(import_tensors(name, layout.rules(config), own, shapes)) == set(shapes)


SMALL = {
    "unet": StableDiffusionConfig(
        in_channels=5,
        block_out_channels=(32, 64, 64),
        down_attention=(True, True, False),
        up_attention=(False, True, True),
        layers_per_block=3,
        cross_attention_dim=24,
    ),
    "vae": VAEConfig(block_out_channels=(32, 32, 64), layers_per_block=1),
    "motion_adapter": MotionAdapterConfig(
        block_out_channels=(32, 64),
        layers_per_block=1,
        motion=MotionConfig(max_frames=7, attention="softmax"),
    ),
}


@pytest.mark.parametrize("prefix", [True, False])
@pytest.mark.parametrize("component", SMALL)
def test_there_and_back_to_the_bit(component, prefix):
    """The config, too, is told by the tensors alone."""
    from memo_jax.weights.layouts import LAYOUTS

    layouts = [x for x in LAYOUTS if x.component == component and x.rules]
    layout = next(x for x in layouts if bool(x.prefix) == prefix or len(layouts) == 1)
    config, rng = SMALL[component], np.random.default_rng(0)
    values = {
        path: rng.normal(size=shape).astype(np.float32)
        for path, shape in shapes_of(layout, config).items()
    }
    out = export_tensors(component, layout.rules(config), values)
    file = {layout.prefix + name: tensor for name, tensor in out.items()}
    (found,) = recognise(file)
    assert found is layout and found.config(found.own(file)) == config
    back = import_tensors(component, found.rules(config), found.own(file), shapes_of(found, config))
    assert back.keys() == values.keys()
    assert all(np.array_equal(back[path], value) for path, value in values.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_emb.0.0.weight": (4, 4)}, "Stable Diffusion XL"),
        ({"input_blocks.1.1.proj_in.weight": (320, 320)}, "Stable Diffusion 2"),
        ({"input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": None}, "not those of Stable"),
    ],
)
def test_a_relative_of_stable_diffusion_is_told_apart(change, message):
    tensors = tensors_of("stable_diffusion_v1_5")
    for name, shape in change.items():
        name = f"model.diffusion_model.{name}"
        if shape is None:
            del tensors[name]
        else:
            tensors[name] = np.broadcast_to(np.float32(0), shape)
    layout = next(x for x in recognise(tensors) if x.component == "unet")
    with pytest.raises(UserError, match=message):
        layout.config(layout.own(tensors))


def test_a_strange_tensor_in_a_whole_checkpoint():
    tensors = tensors_of("stable_diffusion_v1_5")
    tensors["control_model.input_hint_block.0.weight"] = np.zeros(3)
    assert unaccounted(tensors, recognise(tensors)) == ["control_model.input_hint_block.0.weight"]
