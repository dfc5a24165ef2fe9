"""Rules account for every parameter; a step on eight devices is that on one."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from golden_case import relative_error

from memo_jax import config as configs
from memo_jax import sharding
from memo_jax.errors import UserError
from memo_jax.weights.components import COMPONENTS

NETWORKS = ("vae", "reference_net", "diffusion_net", "image_proj", "audio_proj")
# Parameters of half a GB and less beside matrices that are cut: what each device holds twice.
WHOLE_SHARE = 0.005


class Device:
    """Stands in for one of a described topology's."""

    platform = "tpu"
    device_kind = "described"
    process_index = 0

    def __init__(self, i):
        self.id = i

    def __lt__(self, other):
        return self.id < other.id


@pytest.fixture(scope="module")
def published():
    """Shapes of the published model's networks, by whole path."""
    return {
        f"{name}/{path}": leaf
        for name in NETWORKS
        for path, leaf in COMPONENTS[name].abstract(COMPONENTS[name].config())[1].items()
    }


def mesh_of(data, fsdp):
    return sharding.make_mesh(data, fsdp, [Device(i) for i in range(data * fsdp)])


@pytest.mark.parametrize("fsdp", [4, 16, 64])
def test_the_published_model_is_cut_almost_whole(published, fsdp):
    layout = sharding.shardings(published, mesh_of(2, fsdp))
    assert layout.keys() == published.keys()
    whole = total = 0
    for path, leaf in published.items():
        local = layout[path].shard_shape(leaf.shape)
        assert np.prod(local) in (leaf.size, leaf.size / fsdp), path
        total += leaf.size
        whole += leaf.size * (np.prod(local) == leaf.size)
    assert whole <= WHOLE_SHARE * total


@pytest.mark.parametrize(
    ("path", "shape", "spec"),
    [
        ("diffusion_net/a/to_q/kernel", (320, 640), (None, "fsdp")),
        ("diffusion_net/a/to_q/kernel", (320, 641), ("fsdp", None)),
        ("diffusion_net/a/to_q/kernel", (321, 641), ()),
        ("diffusion_net/a/ff/out/kernel", (1280, 320), ("fsdp", None)),
        ("diffusion_net/a/conv1/kernel", (3, 3, 320, 640), (None, None, None, "fsdp")),
        ("diffusion_net/conv_out/kernel", (3, 3, 320, 4), (None, None, "fsdp", None)),
        ("diffusion_net/a/norm/scale", (320,), ()),
        ("diffusion_net/a/embedding", (16, 320), ()),
    ],
)
def test_the_first_axis_of_the_rule_that_divides_is_cut(published, path, shape, spec):
    params = {**published, path: jax.ShapeDtypeStruct(shape, np.float32)}
    layout = sharding.shardings(params, mesh_of(1, 8))
    assert layout[path].spec == jax.sharding.PartitionSpec(*spec)
    alone = sharding.shardings(params, mesh_of(8, 1))
    assert alone[path].is_fully_replicated


def test_rules_and_parameters_must_account_for_each_other(published):
    mesh = mesh_of(1, 2)
    with pytest.raises(ValueError, match="no rule for net/new_thing/kernel"):
        sharding.shardings({**published, "net/new_thing/kernel": np.zeros((2, 2))}, mesh)
    vectors = {path: leaf for path, leaf in published.items() if path.endswith("/bias")}
    with pytest.raises(ValueError, match=r"no parameter for '.*conv"):
        sharding.shardings(vectors, mesh)


def test_every_stages_parameters_use_every_rule():
    still = configs.DiffusionNetConfig(audio_modules=False, motion_resolutions=(), mid_motion=False)
    parts = {"reference_net": None, "diffusion_net": still, "image_proj": None}
    shapes = {
        f"{name}/{path}": leaf
        for name, config in parts.items()
        for path, leaf in COMPONENTS[name].abstract(config or COMPONENTS[name].config())[1].items()
    }
    assert sharding.shardings(shapes, mesh_of(1, 2)).keys() == shapes.keys()


@pytest.mark.parametrize(("data", "fsdp"), [(3, 2), (0, 3), (8, 0), (0, 16)])
def test_a_mesh_is_made_of_all_devices(data, fsdp):
    with pytest.raises(UserError, match="on 8 devices"):
        sharding.make_mesh(data, fsdp, [Device(i) for i in range(8)])
    assert dict(sharding.make_mesh(0, 4, [Device(i) for i in range(8)]).shape) == {
        "data": 2,
        "fsdp": 4,
    }


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What one step gave on each mesh."""
    file = tmp_path_factory.mktemp("eight") / "found.npz"
    program = Path(__file__).parent / "eight_devices.py"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, program, file], check=True, env=environment, timeout=280)
    return dict(np.load(file))


def under(ran, prefix):
    return {key.removeprefix(prefix): value for key, value in ran.items() if key.startswith(prefix)}


@pytest.mark.parametrize("mesh", ["2x4", "8x1"])
def test_loss_and_gradients_are_those_of_one_device(ran, mesh):
    one, eight = under(ran, "1x1/metrics/"), under(ran, f"{mesh}/metrics/")
    assert 0 < one["kept"] < 8 and one["finite"]
    for name, want in one.items():
        assert relative_error(eight[name], want) <= 1e-5, name
    first, second = under(ran, "1x1/mu/"), under(ran, f"{mesh}/mu/")
    largest = max(np.abs(value).max() for value in first.values())
    assert first.keys() == second.keys()
    assert all(np.abs(first[path] - second[path]).max() <= 1e-5 * largest for path in first)


def test_each_device_holds_its_part(ran):
    assert ran["2x4/batch"][0] == ran["8x1/batch"][0] == 1
    kernel = "diffusion_net/mid_block/attentions/0/transformer_blocks/0/attn1/to_q/kernel"
    for kind in ("trained", "mu"):
        assert list(ran[f"2x4/shard/{kind}/{kernel}"]) == [32, 8]
        assert list(ran[f"8x1/shard/{kind}/{kernel}"]) == [32, 32]
