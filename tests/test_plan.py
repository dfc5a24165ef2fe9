"""The plan command: what it refuses, what it does when the compiler dies, and real plans where
the TPU compiler is installed."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest

from memo_jax import config as configs
from memo_jax import plan
from memo_jax.aot import worker
from memo_jax.aot.chips import CHIPS, chip_of
from memo_jax.aot.report import Report
from memo_jax.errors import UserError
from memo_jax.weights.spec import ModelSpec, Part

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the TPU compiler (libtpu) is not installed"
)

GIB = 2.0**30
CONFIG = """
from ml_collections import ConfigDict

def get_config(arg=""):
    return ConfigDict(
        dict(stage="2b", batch_size=4, frames=2, past_frames=(2,), fsdp_axis=4, remat="module",
             run=dict(tensorboard=False))
    )
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "c.py"
    path.write_text(CONFIG)
    return str(path)


@pytest.fixture
def answers(monkeypatch):
    """Workers that answer from a list of temporary GiB or exceptions; and what they were asked."""
    asked = []

    def answers(*these):
        given = list(these)

        def ask(args, config, how):
            asked.append((how, config))
            answer = given.pop(0) if len(given) > 1 else given[0]
            if isinstance(answer, Exception):
                raise answer
            if callable(answer):
                answer = answer(config)
            return Report(
                what="a step",
                topology=args.topology,
                chip=chip_of(args.topology),
                devices=4,
                clips=config["batch_size"],
                positions=64,
                composed=how == "pieces",
                given={"parameters": GIB},
                temporary=answer * GIB,
                code=0.0,
                usable=15.75 * GIB,
                flops=1e12,
                model_flops=1e12,
                moved=1e9,
                collectives=[],
                seconds=1.0,
                pieces=(9, 4),
            )

        monkeypatch.setattr(plan, "_asked", ask)
        monkeypatch.setattr(plan, "check_compiler", lambda: None)
        return asked

    return answers


def arguments(config, *more):
    return ["--topology", "v5e:2x2", "--config", config, "--quiet", *more]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--topology", "v9:2x2"], "no chip 'v9'"),
        (["--topology", "v5e"], "expected CHIP:SHAPE"),
        (["--topology", "v5e:2xx"], "expected CHIP:SHAPE"),
        (["--topology", "v5e:2x2"], "no --config"),
        (["--topology", "v5e:2x2", "--generate", "--config", "c.py"], "give one of them"),
        (["--topology", "v5e:2x2", "--generate", "--mesh", "2"], "expected guidance=1 or 2"),
        (["--topology", "v5e:2x2", "--generate", "--mesh", "frames=2", "--search"], "without"),
        (["--topology", "v5e:2x2", "--config", "c.py", "--mesh", "frames=2"], "of one video"),
        (["--topology", "v5e:2x2", "--generate", "--effort", "3"], "expected -1 to 1"),
        (["--topology", "v5e:2x2", "--generate", "--json", "no/where.json"], "does not exist"),
        (["--topology", "v5e:2x2", "--config", "no.py"], "does not exist"),
        (["--topology", "v5e:2x2", "--config", "c.py", "--memory", "low"], "are of --generate"),
        (["--topology", "v5e:2x2", "--config", "c.py", "--preset", "fast"], "are of --generate"),
    ],
)
def test_mistakes_are_told_in_one_line(given, message):
    with pytest.raises(UserError, match=message) as told:
        plan.main(given)
    assert "\n" not in str(told.value)


def test_without_the_compiler_it_says_how_to_have_it(monkeypatch, config):
    monkeypatch.setattr(worker.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"libtpu.*pip install -e '\.\[tpu\]'"):
        plan.main(arguments(config))


def test_options_win_over_the_config(answers, config, capsys):
    asked = answers(1.0)
    more = ["--batch", "8", "--fsdp-axis", "2", "--remat", "layer", "--past-frames", "7"]
    plan.main(arguments(config, *more))
    ((how, fields),) = asked
    assert how == "auto" and (fields["batch_size"], fields["fsdp_axis"]) == (8, 2)
    assert (fields["remat"], fields["past_frames"]) == ("layer", (7,))
    assert "2.00 of 15.75: fits" in capsys.readouterr().out


def test_what_does_not_fit_exits_with_1_and_advice(answers, config, capsys, tmp_path):
    answers(30.0)
    file = tmp_path / "plan.json"
    with pytest.raises(SystemExit) as end:
        plan.main(arguments(config, "--json", str(file)))
    assert end.value.code == 1
    out = capsys.readouterr().out
    assert "does not fit" in out and "--remat layer" in out
    assert json.loads(file.read_text())["fits"] is False
    assert [path.name for path in tmp_path.glob("plan*")] == ["plan.json"]


def test_a_compiler_that_dies_is_asked_for_pieces(answers, config, capsys):
    asked = answers(plan.CompilerDied("no memory"), 1.0)
    plan.main(arguments(config))
    assert [how for how, _ in asked] == ["auto", "pieces"]
    assert "composed: the whole was not compiled" in capsys.readouterr().out


def test_a_compiler_that_dies_on_the_whole_that_was_asked_for_is_an_error(answers, config):
    answers(plan.CompilerDied("no memory"))
    with pytest.raises(UserError, match="no memory; try --pieces"):
        plan.main(arguments(config, "--whole"))


def test_the_search_compiles_the_batch_it_names(answers, config, capsys):
    answers(lambda fields: 1.0 + fields["batch_size"] / 4)
    plan.main(arguments(config, "--search"))
    assert "largest batch that fits: 13 clips on each device, --batch 52" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "errors", "kind", "message"),
    [
        (139, "", plan.CompilerDied, "no memory on this machine"),
        (-9, "", plan.CompilerDied, "no memory"),
        (1, "low_level_alloc.cc RAW: mmap error: 12", plan.CompilerDied, "no memory"),
        (1, "Traceback\nValueError: odd", UserError, "exit 1: ValueError: odd"),
        (3, "", UserError, "exit 3: no message"),
    ],
)
def test_a_death_is_understood(code, errors, kind, message):
    death = plan._death(code, errors)
    assert type(death) is kind and message in str(death)


def test_importing_the_command_leaves_the_environment_alone():
    script = (
        "import os; before = dict(os.environ); import memo_jax.plan, memo_jax.aot.worker; "
        "assert dict(os.environ) == before or set(os.environ) - set(before) <= {'TPU_LIBRARY_PATH',"
        " 'TPU_ML_PLATFORM', 'TPU_ML_PLATFORM_VERSION', 'KMP_DUPLICATE_LIB_OK'}, "
        "set(os.environ) - set(before)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@needs_libtpu
def test_a_topology_that_is_not_made_is_told(config, monkeypatch, tmp_path):
    monkeypatch.setenv("MEMO_JAX_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"v5e:3x5.*expected a shape that is made"):
        plan.main(["--topology", "v5e:3x5", "--config", config, "--model", "tiny"])


REFUSED = """
import sys
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from memo_jax.aot.chips import described

for topology in sys.argv[1:]:
    mesh = Mesh(np.array(described(topology)), ("x",))
    here = NamedSharding(mesh, PartitionSpec())
    x = jax.ShapeDtypeStruct((2**19, 2**17), "bfloat16", sharding=here)  # 128 GiB
    try:
        jax.jit(lambda x: x @ x.T @ x).trace(x).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        print(topology, " ".join(str(error).split()))
"""


@needs_libtpu
@pytest.mark.timeout(900)
def test_what_a_chip_leaves_to_programs_is_what_the_compiler_says():
    made = {"v4": "2x2x1", "v5e": "2x2", "v5p": "2x2x1", "v6e": "2x2", "tpu7x": "2x2x1"}
    assert set(made) == {chip.name for chip in CHIPS}
    topologies = [f"{name}:{shape}" for name, shape in made.items()]
    said = subprocess.run(
        [sys.executable, "-c", REFUSED, *topologies],
        env={**os.environ, **worker.ENVIRONMENT},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for topology, line in zip(topologies, said, strict=True):
        found = re.search(r"available HBM \((\d+\.\d+)G\)", line)
        assert found is not None, line
        assert chip_of(topology).usable == float(found[1]) * GIB, topology


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A small joint training step, planned whole and in pieces, by the command itself."""
    folder = tmp_path_factory.mktemp("both")
    unet = {
        "block_out_channels": (128,),
        "down_attention": (False,),
        "up_attention": (False,),
        "layers_per_block": 1,
        "num_heads": 2,
        "cross_attention_dim": 64,
        "norm_num_groups": 4,
    }
    parts = {
        "vae": configs.VAEConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4),
        "reference_net": configs.ReferenceNetConfig(**unet),
        "diffusion_net": configs.DiffusionNetConfig(
            **unet,
            audio_attention_dim=64,
            motion=configs.MotionConfig(num_heads=2, attentions_per_block=1, max_frames=16),
            motion_resolutions=(),
        ),
        "image_proj": configs.ImageProjectionConfig(
            embedding_dim=32, tokens=2, cross_attention_dim=64
        ),
        "audio_proj": configs.AudioProjectionConfig(
            window=5, layers=2, channels=8, hidden_dim=32, tokens=4, out_dim=64
        ),
    }
    sampler = configs.SamplerConfig(image_size=128, clip_frames=4, past_frames=4)
    spec = ModelSpec("small", sampler, {name: Part(config) for name, config in parts.items()})
    (folder / "model.json").write_text(spec.to_json())
    (folder / "c.py").write_text(CONFIG.replace("frames=2", "frames=4").replace("(2,)", "(4,)"))
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMO_JAX_CACHE", str(folder / "cache"))
        for how in ("pieces", "whole"):
            file = folder / f"{how}.json"
            more = ["--model", str(folder), f"--{how}", "--json", str(file)]
            plan.main(arguments(str(folder / "c.py"), *more))
            found[how] = Report.from_dict(json.loads(file.read_text()))
    return found


@needs_libtpu
@pytest.mark.timeout(1800)
def test_pieces_add_up_to_the_whole(both):
    pieces, whole = both["pieces"], both["whole"]
    assert pieces.composed and not whole.composed
    assert pieces.peak == pytest.approx(whole.peak, rel=0.15)
    assert pieces.temporary == pytest.approx(whole.temporary, rel=0.15)
    assert pieces.flops == whole.flops > whole.model_flops > 0
    sent = [sum(entry[3] for entry in report.collectives) for report in (pieces, whole)]
    assert sent[0] == pytest.approx(sent[1], rel=0.15)


@needs_libtpu
@pytest.mark.timeout(1800)
def test_the_compilers_arguments_are_those_that_are_counted(both):
    # What a plan calls given is what the compiler calls arguments, but for the tiles it pads to.
    given = both["whole"].given
    assert set(given) == {"parameters", "optimizer", "average", "batch"}
    assert given["average"] == 0.0 and given["optimizer"] > given["parameters"] / 2
