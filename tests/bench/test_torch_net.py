"""The published structure in plain PyTorch: against what the release gave."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from golden_case import relative_error

from memo_jax.bench import pairs
from memo_jax.bench.random_models import random_module
from memo_jax.bench.torch_net import PublishedNet, tensors
from memo_jax.config import DiffusionNetConfig, MotionConfig
from memo_jax.weights import to_torch

torch = pytest.importorskip("torch", reason="it is what we compare with")

MANIFEST = Path(__file__).parents[1] / "manifests" / "diffusion_net.json"


@pytest.fixture(autouse=True)
def _calmly():
    """One thread: several wait for each other where other tests run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "name", ["e_diffusion_net", "e_diffusion_net_b1", "e_diffusion_net_16frames"]
)
def test_recorded_clips(name, golden):
    case = golden(name)
    config, batch = case.config, case.config["batch"]
    net = PublishedNet(DiffusionNetConfig.from_torch(config["kwargs"]), case.w())
    use = torch.arange(batch) >= batch // 2 if config["uc_mask"] else None
    memory = None
    for i in range(len(config["clips"])):
        features = tensors(case.under(f"in/clip{i}/ref/"))
        given = tensors(
            {
                "faces": case.inp(f"clip{i}/context"),
                "audio": case.inp(f"clip{i}/audio"),
                "emotion": case.inp("emotion"),
            }
        )
        for s, timestep in enumerate(config["timesteps"]):
            step = f"clip{i}/step{s}"
            got, after = net(
                torch.from_numpy(case.inp(f"{step}/latents")),
                torch.full((batch,), float(timestep)),
                features,
                *given.values(),
                memory,
                use,
            )
            assert relative_error(got.numpy(), case.out(f"{step}/pred")) <= 1e-5
        memory = after


def test_no_weight_is_left_out(sizes):
    weights = to_torch("diffusion_net", random_module("diffusion_net", sizes.net))
    read = Reads(tensors(weights))
    net = PublishedNet(sizes.net, {})
    net.weights = read
    run(net, sizes)
    assert read.names >= set(weights)


def test_every_published_name_and_shape():
    """The full size, without numbers."""
    manifest = json.loads(MANIFEST.read_text())
    config = DiffusionNetConfig.from_torch(manifest["config"])
    net = PublishedNet(config, {})
    with torch.device("meta"):
        net.weights = Reads(
            {name: torch.empty(leaf["shape"]) for name, leaf in manifest["params"].items()}
            | {
                name: torch.empty(1, config.motion.max_frames, width_at(manifest, name))
                for name in manifest["buffers"]
            }
        )
        out = run(net, pairs.FULL, config)
    assert out.shape == (2, 4, pairs.FULL.frames, 16, 16)
    assert net.weights.names >= set(net.weights)


def test_what_the_release_cannot_run_is_refused(sizes):
    with pytest.raises(ValueError, match="fades and activates otherwise"):
        PublishedNet(replace(sizes.net, motion=MotionConfig()), {})
    with pytest.raises(ValueError, match="attends jointly"):
        PublishedNet(replace(sizes.net, audio_attention="cross"), {})
    with pytest.raises(ValueError, match="reference_rows is mixed"):
        PublishedNet(replace(sizes.net, reference_rows="own"), {})
    with pytest.raises(ValueError, match="group norms of single frames"):
        PublishedNet(replace(sizes.net, norm_per_frame=False), {})


class Reads(dict):
    """Tensors by name, and which of them were read."""

    def __init__(self, *args):
        super().__init__(*args)
        self.names = set()

    def __getitem__(self, name):
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name, default=None):
        self.names.add(name)
        return super().get(name, default)


def run(net, sizes, config=None):
    """A step of a net that may have no numbers; nobody is without portrait."""
    config = config or sizes.net
    side, b = sizes.net_side, 2
    shapes = pairs.feature_shapes(config, side, 1 + sizes.past, b)
    features = {}
    maps = dict(shapes.map_sizes)
    for name, leaf in shapes.entries.items():
        _, images, s, c = leaf.shape
        shape = (c, *maps[name]) if name in maps else (s, c)
        features[name] = torch.zeros(b * images, *shape)
    out, _ = net(
        torch.zeros(b, config.in_channels, sizes.frames, side, side),
        torch.full((b,), 500.0),
        features,
        torch.zeros(b, sizes.faces, config.cross_attention_dim),
        torch.zeros(b, sizes.frames, sizes.sounds, config.audio_attention_dim),
        torch.zeros(b, dtype=torch.long),
    )
    return out


def width_at(manifest, buffer):
    """The width of the attention that a position code belongs to."""
    return manifest["params"][buffer.replace("pos_encoder.pe", "to_q.weight")]["shape"][1]


def test_tensors_are_copied_only_where_needed():
    fine, turned, kept = np.zeros((2, 3)), np.zeros((2, 3)).T, np.zeros(3)
    kept.setflags(write=False)
    found = tensors({"fine": fine, "turned": turned, "kept": kept})
    for name, value in (("fine", fine), ("turned", turned), ("kept", kept)):
        assert found[name].is_contiguous() and found[name].shape == value.shape
        assert np.shares_memory(found[name].numpy(), value) == (name == "fine")
