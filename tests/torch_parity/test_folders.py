"""Folders that diffusers and transformers wrote, through ours, to folders that they read."""

import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax import nnx
from golden_case import relative_error
from safetensors.numpy import save_file
from small_model import same_weights

from memo_jax.config import StableDiffusionConfig, VAEConfig
from memo_jax.weights.build import flatten
from memo_jax.weights.components import COMPONENTS, assemble
from memo_jax.weights.exporting import export_model
from memo_jax.weights.folder import read_component
from memo_jax.weights.found import find, only
from memo_jax.weights.importing import import_model
from memo_jax.weights.layouts import LAYOUTS, recognise
from memo_jax.weights.rules import export_tensors, torch_names
from memo_jax.weights.spec import read_spec
from memo_jax.weights.starting import REPORT, start_model

torch = pytest.importorskip("torch", reason="PyTorch is the judge here")
diffusers = pytest.importorskip("diffusers", reason="diffusers is the judge here")
transformers = pytest.importorskip("transformers", reason="transformers is the judge here")
theirs = pytest.importorskip("diffusers.loaders.single_file_utils")

MANIFESTS = Path(__file__).parents[1] / "manifests"

PLACES = {"vae": "vae", "unet": "wide_unet", "motion_adapter": "adapter", "wav2vec2": "wav2vec2"}
CLASSES = {
    "vae": diffusers.AutoencoderKL,
    "unet": diffusers.UNet2DConditionModel,
    "motion_adapter": diffusers.MotionAdapter,
    "wav2vec2": transformers.Wav2Vec2Model,
}


@pytest.fixture(scope="module")
def folders(pair, tmp_path_factory):
    """Folders as PyTorch users have them: sd15/{unet,vae,model_index.json}, adapter, wav2vec2."""
    root = tmp_path_factory.mktemp("theirs")
    (root / "sd15").mkdir()
    (root / "sd15" / "model_index.json").write_text("{}")
    for component, case in PLACES.items():
        place = "sd15/" + component if component in ("vae", "unet") else component
        pair(case).torch.save_pretrained(root / place)
    return root


@pytest.fixture(scope="module")
def native(folders, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours") / "native"
    sources = [folders / name for name in ("sd15", "motion_adapter", "wav2vec2")]
    import_model(sources, folder)
    return folder


def test_an_import_holds_what_pytorch_held(native, pair):
    spec = read_spec(native, whole=False)
    assert set(spec.parts) == set(PLACES)
    for component, case in PLACES.items():
        read = read_component(native, spec, component, jnp.float32)
        assert same_weights(read, pair(case).ours)


@pytest.mark.parametrize("component", PLACES)
@pytest.mark.parametrize("shard_size", ["10GB", 40_000])
def test_pytorch_reads_an_export(native, pair, tmp_path, component, shard_size):
    """One file or many, by the classes' own `from_pretrained`, nothing missing or left over."""
    export_model(native, tmp_path / "out", shard_size=shard_size, only=[component])
    files = list((tmp_path / "out" / component).glob("*.safetensors"))
    assert (len(files) == 1) == (shard_size == "10GB")
    kind = CLASSES[component]
    module, info = kind.from_pretrained(tmp_path / "out" / component, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, tensor in pair(PLACES[component]).torch.state_dict().items():
        assert torch.equal(module.state_dict()[name], tensor), name


def test_the_original_names_are_those_diffusers_converts(pair, tmp_path):
    """diffusers' own converters, on files of the original layouts at full size (names and shapes),
    give exactly the names and shapes of diffusers' files."""

    def meta(name):
        file = json.loads((MANIFESTS / "original" / f"{name}.json").read_text())
        return {k: torch.empty(shape, device="meta") for k, shape in file.items()}

    def known(name):
        params = json.loads((MANIFESTS / f"{name}.json").read_text())["params"]
        return {k: tuple(v["shape"]) for k, v in params.items()}

    def shapes(tensors):
        return {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    file = meta("stable_diffusion_v1_5")
    unet = theirs.convert_ldm_unet_checkpoint(dict(file), {"layers_per_block": 2})
    assert shapes(unet) == known("unet_sd15")
    config = {"down_block_types": [""] * 4, "up_block_types": [""] * 4}
    vae = theirs.convert_ldm_vae_checkpoint(dict(file), config)
    assert shapes(vae) == known("vae_sd_vae_ft_mse")
    motion = theirs.convert_animatediff_checkpoint_to_diffusers(meta("animatediff_v2"))
    adapter = known("motion_adapter_v1_5_2")
    # The position codes, which diffusers computes anew.
    assert shapes(motion) == {k: v for k, v in adapter.items() if not k.endswith("pos_embed.pe")}


def test_an_original_file_is_the_same_network(pair, tmp_path):
    """A small UNet through diffusers' converter, and through our table from the same file."""
    rng, file = np.random.default_rng(0), {}
    configs = {
        "unet": StableDiffusionConfig(block_out_channels=(32, 64, 64, 64), cross_attention_dim=24),
        "vae": VAEConfig(block_out_channels=(32, 32, 64)),
    }
    for component, config in configs.items():
        layout = next(x for x in LAYOUTS if x.component == component and x.prefix)
        _, params = COMPONENTS[component].abstract(config)
        values = {k: rng.normal(size=v.shape).astype(np.float32) for k, v in params.items()}
        for name, tensor in export_tensors("", layout.rules(config), values).items():
            file[layout.prefix + name] = np.ascontiguousarray(tensor)
    save_file(file, tmp_path / "model.safetensors")
    as_torch = {name: torch.from_numpy(tensor) for name, tensor in file.items()}
    config = {"down_block_types": [""] * 3, "up_block_types": [""] * 3}
    wanted = {
        "unet": theirs.convert_ldm_unet_checkpoint(dict(as_torch), {"layers_per_block": 2}),
        "vae": theirs.convert_ldm_vae_checkpoint(dict(as_torch), config),
    }
    assert len(recognise(file)) == 2
    for found in find(tmp_path / "model.safetensors"):
        part = COMPONENTS[found.component]
        graphdef, _ = part.abstract(found.config)
        module = assemble(graphdef, found.read(list(found.shapes)))
        ours = export_tensors("", part.rules(found.config), flatten(nnx.state(module)))
        converted = wanted[found.component]
        assert set(ours) == set(converted)
        assert all(np.array_equal(ours[name], converted[name].numpy()) for name in ours)


@pytest.fixture(scope="module")
def started(folders, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours") / "start"
    start_model(
        folder,
        sd15=folders / "sd15",
        animatediff=folders / "motion_adapter",
        wav2vec2=folders / "wav2vec2",
        seed=3,
    )
    return folder


def test_training_starts_as_stable_diffusion(started, answers, pair, inputs, run):
    """The first forward, memory empty and no portrait, is the UNet's: each new module adds zero."""
    spec = read_spec(started)
    net = read_component(started, spec, "diffusion_net", jnp.float32)
    audio = np.random.default_rng(0).normal(size=(2, 1, 5, 24)).astype(np.float32)
    emotion = np.array([3, 7], np.int32)
    (want,) = answers("wide_unet", pair("wide_unet").torch)
    got = run(
        net,
        inputs.noisy[:, None],
        inputs.timesteps,
        inputs.text,
        audio,
        emotion,
        call=lambda net, x, t, text, audio, emotion: net(x, t, None, text, audio, emotion, None),
    )
    assert relative_error(rearrange(np.asarray(got[:, 0]), "b h w c -> b c h w"), want) <= 1e-4


def test_what_training_starts_from_is_told_name_by_name(started, folders):
    lines = dict(
        line.rsplit(": ", 1)
        for line in (started / REPORT).read_text().splitlines()
        if not line.startswith("not used")
    )
    spec = read_spec(started)
    assert set(spec.parts) == {
        *("vae", "wav2vec2", "reference_net", "diffusion_net", "image_proj", "audio_proj")
    }
    module = "down_blocks.0.motion_modules.0.temporal_transformer"
    assert lines["reference_net.conv_in.weight"] == "from SD1.5"
    attention = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    assert lines[f"diffusion_net.{attention}"] == "from SD1.5"
    assert lines[f"diffusion_net.{module}.proj_in.weight"] == "from AnimateDiff"
    assert lines[f"diffusion_net.{module}.proj_out.weight"] == "AnimateDiff's, zeroed"
    assert lines["diffusion_net.down_blocks.0.audio_modules.0.proj_out.weight"] == "zeros"
    assert lines["audio_proj.proj1.weight"] == "fresh"
    # Every parameter has its line, and each holds what the line says.
    sources = {
        "from SD1.5": only(folders / "sd15", "unet"),
        "from AnimateDiff": only(folders / "motion_adapter", "motion_adapter"),
    }
    values = {
        where: {k: v for names in [one.read(list(one.shapes))] for k, v in names.items()}
        for where, one in sources.items()
    }
    told = 0
    for component in ("reference_net", "diffusion_net", "image_proj", "audio_proj"):
        found = only(started, component)
        rules, held = COMPONENTS[component].rules(found.config), found.read(list(found.shapes))
        for name, owner in torch_names(component, rules, found.shapes).items():
            where = lines[f"{component}.{name}"]
            for path in owner.ours:
                told += 1
                if where in values:
                    assert np.array_equal(held[path], values[where][path])
                elif where in ("zeros", "AnimateDiff's, zeroed"):
                    assert not held[path].any()
                else:
                    assert held[path].any()
    assert told == len(lines)


def test_what_found_no_place_is_told_too(started):
    """The Reference Net has no output layers; this adapter's position codes are for short clips."""
    text = (started / REPORT).read_text()
    unused = re.findall(r"not used in (\w+): (\S+) \((.*)\)", text)
    assert ("reference_net", "conv_out/kernel", "no such layer") in unused
    codes = [(path, why) for component, path, why in unused if component == "diffusion_net"]
    assert len(codes) == 2 * 13 and all("pos_encoder/pe" in path for path, _ in codes)
    assert all("expected (1, 32, " in why for _, why in codes)


def test_keeping_animatediffs_last_projections(folders, tmp_path):
    start_model(
        tmp_path / "kept",
        sd15=folders / "sd15",
        animatediff=folders / "motion_adapter",
        keep_motion=True,
    )
    path = "mid_block/motion_modules/0/proj_out/kernel"
    ours = only(tmp_path / "kept", "diffusion_net").read([path])[path]
    theirs = only(folders / "motion_adapter", "motion_adapter").read([path])[path]
    assert np.array_equal(ours, theirs) and ours.any()


def test_the_seed_decides_what_is_fresh(folders, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        start_model(tmp_path / name, sd15=folders / "sd15", seed=seed)
    path = "proj1/kernel"
    a, b, c = (only(tmp_path / n, "audio_proj").read([path])[path] for n in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)
    fresh = "mid_block/motion_modules/0/proj_in/kernel"
    assert only(tmp_path / "a", "diffusion_net").read([fresh])[fresh].any()
