"""`python -m tools.convert_weights`, and what `--model` makes of PyTorch's folders."""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import yaml
from fake_hub import FakeHub, serving
from golden_case import GoldenCase
from huggingface_hub import constants
from published_model import PLACES, write_published
from safetensors import safe_open
from small_model import CASE, CLASSIFIER, random_module, same_weights, structures_kept

from memo_jax.config import EmotionClassifierConfig, SamplerConfig
from memo_jax.errors import UserError
from memo_jax.weights.checkpoint import restore
from memo_jax.weights.comparing import compare
from memo_jax.weights.components import to_torch
from memo_jax.weights.exporting import write_weights
from memo_jax.weights.folder import Model, write_model
from memo_jax.weights.found import Found, find, only
from memo_jax.weights.sources import load_model, model_folder
from memo_jax.weights.spec import ModelSpec, Part, read_spec
from tools.convert_weights.__main__ import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def _quickly():
    with structures_kept():
        yield


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A folder in the published layout; not to be changed."""
    return write_published(tmp_path_factory.mktemp("published") / "memo")


@pytest.fixture(scope="module")
def native(released, tmp_path_factory):
    """Its native form, as `import` makes it."""
    folder = tmp_path_factory.mktemp("native") / "memo"
    main(["import", str(released), str(folder)])
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMO_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def tensors_in(folder):
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "np") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def refused(*arguments):
    """The one line of a command's refusal."""
    with pytest.raises(UserError) as error:
        main([str(argument) for argument in arguments])
    message = getattr(error.value, "summary", str(error.value))
    assert len(message.splitlines()) == 1
    return message


class TestImport:
    def test_every_part_with_the_releases_switches(self, native, released):
        spec = read_spec(native)
        assert set(spec.parts) == set(PLACES) and spec.notes == ""
        assert spec.sampler == SamplerConfig.released()
        assert spec.parts["diffusion_net"].config.motion.memory_decay == "released"
        modules = load_model(native, jnp.float32).modules
        for name in ("vae", "reference_net", "diffusion_net", "image_proj", "audio_proj"):
            wanted = GoldenCase(CASE).w(name)
            got = to_torch(name, modules[name])
            assert all(np.array_equal(got[key], value) for key, value in wanted.items())

    def test_sources_add_up(self, released, tmp_path):
        parts = [released / place for place in PLACES.values()]
        main(["import", *map(str, parts), str(tmp_path / "m")])
        assert compare(tmp_path / "m", released).same

    def test_a_config_at_the_top_of_a_repository_is_no_network(self, released, tmp_path):
        copy = shutil.copytree(released, tmp_path / "memo")
        (copy / "config.json").write_text("{}")
        assert {one.component for one in find(copy)} == set(PLACES)

    def test_a_part_alone_says_that_it_is_no_whole_model(self, released, tmp_path, capsys):
        main(["import", str(released / "vae"), str(tmp_path / "m")])
        assert "without reference_net" in capsys.readouterr().err
        with pytest.raises(UserError, match="lacks the component"):
            load_model(tmp_path / "m", jnp.float32)

    def test_the_same_part_twice(self, released, tmp_path):
        assert "leave one of them out" in refused(
            "import", released / "vae", released, tmp_path / "m"
        )
        assert not list(tmp_path.iterdir())

    def test_in_another_dtype(self, released, tmp_path):
        main(["import", str(released), str(tmp_path / "m"), "--dtype", "bfloat16"])
        values = restore(tmp_path / "m" / "vae")
        assert {str(value.dtype) for value in values.values()} == {"bfloat16"}
        wide = only(released, "vae").read(list(values))
        assert all(np.array_equal(v, wide[k].astype(ml_dtypes.bfloat16)) for k, v in values.items())

    def test_a_number_too_large_for_the_dtype(self, tmp_path):
        module = random_module("emotion_classifier", CLASSIFIER)
        tensors = to_torch("emotion_classifier", module)
        tensors["layers.fc1.bias"] = tensors["layers.fc1.bias"] + 1e5
        folder = tmp_path / "classifier"
        _write(folder, "emotion_classifier", CLASSIFIER, tensors)
        message = refused("import", folder, tmp_path / "m", "--dtype", "float16")
        assert "layers/0/bias has 16 numbers too large for float16; use bfloat16" in message
        assert [path.name for path in tmp_path.iterdir()] == ["classifier"]

    def test_face_models_come_along(self, released, tmp_path):
        source = shutil.copytree(released, tmp_path / "memo")
        onnx = source / "misc" / "face_analysis" / "models" / "glintr100.onnx"
        onnx.parent.mkdir(parents=True)
        onnx.write_bytes(b"onnx")
        main(["import", str(source), str(tmp_path / "m")])
        kept = tmp_path / "m" / "face_analysis" / "models" / "glintr100.onnx"
        assert kept.read_bytes() == b"onnx"
        main(["export", str(tmp_path / "m"), str(tmp_path / "out")])
        assert (tmp_path / "out" / onnx.relative_to(source)).read_bytes() == b"onnx"

    def test_funasrs_folder(self, tmp_path):
        """model.pt, nested and prefixed beside a head, and a config.yaml with more than the net."""
        torch = pytest.importorskip("torch", reason="writes the file")
        case = GoldenCase("m_emotion2vec")
        state = {f"d2v_model.{k}": torch.tensor(v) for k, v in case.w().items()}
        state["proj.weight"] = torch.zeros(9, 32)
        folder = tmp_path / "emotion2vec_plus_large"
        folder.mkdir()
        torch.save({"model": state, "epoch": 3}, folder / "model.pt")
        settings = {"model": "Emotion2vec", "model_conf": case.config["model_conf"]}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings).replace("1.0e-05", "1e-05"))
        (found,) = find(folder)
        assert found.component == "emotion2vec"
        main(["import", str(folder), str(tmp_path / "m")])
        again = to_torch("emotion2vec", _module(tmp_path / "m", "emotion2vec"))
        assert all(np.array_equal(again[key], value) for key, value in case.w().items())

    def test_memory_stays_near_the_components_size(self, tmp_path):
        """670 MB of weights through a process of its own; they are written a group at a time."""
        config = EmotionClassifierConfig(layers=42)
        _write_large(tmp_path / "large", config)
        size = sum(path.stat().st_size for path in (tmp_path / "large").iterdir())
        assert size > 650e6
        peaks = []
        for arguments in (["inspect"], ["import"]):
            out = [str(tmp_path / "m")] if arguments == ["import"] else []
            code = (
                "import resource, sys; from tools.convert_weights.__main__ import main; "
                "main(sys.argv[1:]); "
                "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
            )
            run = subprocess.run(
                [sys.executable, "-c", code, *arguments, str(tmp_path / "large"), *out],
                cwd=ROOT,
                capture_output=True,
                text=True,
            )
            assert run.returncode == 0, run.stderr
            peaks.append(int(run.stdout.split()[-1]) * resource.getpagesize() / 4)
        assert peaks[1] - peaks[0] * 0.9 < 1.3 * size


class TestExport:
    def test_there_and_back_to_the_bit(self, native, released, tmp_path):
        main(["export", str(native), str(tmp_path / "out")])
        for name, place in PLACES.items():
            theirs, ours = tensors_in(released / place), tensors_in(tmp_path / "out" / _place(name))
            assert theirs.keys() == ours.keys()
            assert all(np.array_equal(ours[key], value) for key, value in theirs.items())
        assert compare(released, tmp_path / "out").same
        assert not compare(released, tmp_path / "out").settings

    def test_configs_say_what_the_files_said(self, native, released, tmp_path):
        """Every field of the published config that our networks know comes back as it was."""
        main(["export", str(native), str(tmp_path / "out")])
        for name in ("vae", "reference_net", "diffusion_net", "image_proj", "audio_proj"):
            theirs = json.loads((released / PLACES[name] / "config.json").read_text())
            ours = json.loads((tmp_path / "out" / name / "config.json").read_text())
            shared = theirs.keys() & ours.keys() - {"_class_name", "sample_size"}
            assert len(shared) >= 3
            assert {key: ours[key] for key in shared} == {key: theirs[key] for key in shared}

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
    def test_dtypes(self, native, tmp_path, dtype):
        main(["export", str(native), str(tmp_path / "out"), "--dtype", dtype, "--only", "vae"])
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"vae"}
        kinds = {str(value.dtype) for value in tensors_in(tmp_path / "out" / "vae").values()}
        assert kinds == {dtype}

    def test_files_above_a_size_are_split_as_the_hub_expects(self, native, tmp_path):
        main(["export", str(native), str(tmp_path / "out"), "--shard-size", "100KB"])
        folder = tmp_path / "out" / "diffusion_net"
        index = json.loads((folder / "diffusion_pytorch_model.safetensors.index.json").read_text())
        files = sorted(path.name for path in folder.glob("*.safetensors"))
        assert len(files) > 3 and sorted(set(index["weight_map"].values())) == files
        for file in files:
            with safe_open(folder / file, "np") as opened:
                assert {k for k, v in index["weight_map"].items() if v == file} == set(
                    opened.keys()
                )
        assert compare(native, tmp_path / "out").same

    def test_a_changed_parameter_and_nothing_else(self, native, released, tmp_path):
        model = load_model(native, jnp.float32)
        net = model.modules["diffusion_net"]
        kernel = net.down_blocks[0].motion_modules[0].transformer_blocks[0].attention_blocks[1].to_v
        kernel.kernel[...] = kernel.kernel[...] * 1.5
        write_model(tmp_path / "tuned", model)
        main(["export", str(tmp_path / "tuned"), str(tmp_path / "out")])
        name = "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0."
        name += "attention_blocks.1.to_v.weight"
        for component, place in PLACES.items():
            before = tensors_in(released / place)
            after = tensors_in(tmp_path / "out" / _place(component))
            other = [key for key, value in before.items() if not np.array_equal(after[key], value)]
            assert other == ([name] if component == "diffusion_net" else [])

    def test_what_pytorch_cannot_be_told_is_said(self, tmp_path, capsys):
        main(["export", "tiny", str(tmp_path / "out"), "--only", "diffusion_net"])
        told = capsys.readouterr().err
        assert "motion.memory_decay='paper' (the published code: 'released')" in told


class TestVerify:
    def test_the_same(self, native, released, capsys):
        main(["verify", str(native), str(released)])
        out = capsys.readouterr().out
        assert out.splitlines()[-1] == "the same to the bit"
        assert "diffusion_net.mid_block.audio_modules" in out

    def test_not_the_same(self, native, tmp_path, capsys):
        copy = tmp_path / "m"
        model = load_model(native, jnp.float32)
        scale = model.modules["vae"].decoder.conv_norm_out.scale
        scale[...] = scale[...].at[0].add(0.25)
        write_model(copy, model)
        with pytest.raises(SystemExit) as stopped:
            main(["verify", str(native), str(copy)])
        assert stopped.value.code == 1
        line = next(x for x in capsys.readouterr().out.splitlines() if "vae.decoder.conv_norm" in x)
        _, tensors, equal, _, largest, cosine, *where = line.split()
        assert (tensors, equal, float(largest)) == ("2", "1", 0.25)
        assert float(cosine) < 1 and where[-1] == "decoder.conv_norm_out.weight"
        main(["verify", str(native), str(copy), "--tolerance", "0.3"])
        assert "within 0.3" in capsys.readouterr().out

    def test_a_part_that_one_lacks(self, native, released, capsys):
        with pytest.raises(SystemExit):
            main(["verify", str(native), str(released / "vae")])
        assert f"only {native} has diffusion_net" in capsys.readouterr().out

    def test_nan_is_no_agreement(self, tmp_path):
        module = random_module("emotion_classifier", CLASSIFIER)
        tensors = to_torch("emotion_classifier", module)
        _write(tmp_path / "a", "emotion_classifier", CLASSIFIER, tensors)
        tensors["layers.fc1.bias"] = tensors["layers.fc1.bias"] * np.nan
        _write(tmp_path / "b", "emotion_classifier", CLASSIFIER, tensors)
        result = compare(tmp_path / "a", tmp_path / "b")
        assert not result.within(1e9)


def test_inspect(native, capsys):
    main(["inspect", str(native / ".." / "memo"), "--json"])
    told = json.loads(capsys.readouterr().out)
    found = {one["component"]: one for one in told["components"]}
    assert set(found) == set(PLACES)
    for one in found.values():
        assert one["form"] == "native" and one["dtypes"] == {"float32": one["parameters"]}
        assert sum(one["modules"].values()) == one["parameters"]
    main(["inspect", "tiny"])
    assert "licence  Apache-2.0" in capsys.readouterr().out


class TestModel:
    """What `--model` takes, beyond a native folder."""

    def test_converted_once_and_found_by_content(self, released, tmp_path, cache, capsys):
        first = load_model(released, jnp.float32)
        assert "converting" in capsys.readouterr().err
        assert first.folder.parent == cache and first.spec.name == "memo"
        copy = shutil.copytree(released, tmp_path / "elsewhere" / "memo")
        assert model_folder(copy) == first.folder
        assert capsys.readouterr().err == ""
        assert len(list(cache.iterdir())) == 1

    def test_one_byte_makes_another_model(self, released, tmp_path, cache):
        before = model_folder(released)
        copy = shutil.copytree(released, tmp_path / "memo")
        (path,) = (copy / "vae").glob("*.safetensors")
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        after = model_folder(copy)
        assert after != before and not compare(after, before).same

    def test_a_cache_that_cannot_be_written(self, released, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("MEMO_JAX_CACHE", str(tmp_path / "file"))
        with pytest.raises(UserError, match="MEMO_JAX_CACHE"):
            model_folder(released)

    def test_a_hub_id(self, released, cache, tmp_path, monkeypatch):
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        files = {
            path.relative_to(released).as_posix(): path.read_bytes()
            for path in released.rglob("*")
            if path.is_file()
        }
        with serving(FakeHub()) as hub:
            monkeypatch.setattr(constants, "ENDPOINT", hub.url)
            template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
            monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            hub.add("someone/tuned", files)
            loaded = load_model("someone/tuned", jnp.float32)
        mine = load_model(released, jnp.float32)
        assert all(same_weights(loaded.modules[n], m) for n, m in mine.modules.items())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["import", "nowhere", "{new}"], "nowhere does not exist"),
        (["import", "{empty}", "{new}"], "no weights"),
        (["import", "{native}", "{new}"], "is a native model already"),
        (["import", "{released}", "{empty}"], "exists already"),
        (["export", "{native}", "{new}", "--only", "unet"], "has no unet"),
        (["export", "{native}", "{new}", "--shard-size", "big"], "--shard-size 'big'"),
        (["init", "{new}", "--sd15", "{released}"], "expected unet"),
        (["verify", "{native}", "{empty}"], "no weights"),
        (["inspect", "{text}"], "text.safetensors"),
    ],
)
def test_mistakes(arguments, text, native, released, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.safetensors").write_text("<html>not found</html>")
    places = {
        "native": native,
        "released": released,
        "new": tmp_path / "new",
        "empty": tmp_path / "empty",
        "text": tmp_path / "text.safetensors",
    }
    before = sorted(tmp_path.rglob("*"))
    assert text in refused(*(argument.format(**places) for argument in arguments))
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_itself(native, tmp_path):
    """Exit status and the one line, as a user sees them."""
    run = subprocess.run(
        [sys.executable, "-m", "tools.convert_weights", "import", str(native), str(tmp_path / "m")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr.startswith("convert_weights: ") and len(run.stderr.splitlines()) == 1


def _place(name):
    return "misc/audio_emotion_classifier" if name == "emotion_classifier" else name


def _module(folder, name):
    from memo_jax.weights.folder import read_component

    return read_component(folder, read_spec(folder, whole=False), name, jnp.float32)


def _write(folder, component, config, tensors):
    """A component's folder as PyTorch has it."""
    from safetensors.numpy import save_file

    from memo_jax.weights.torch_configs import torch_config

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(torch_config(component, config)))
    contiguous = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
    save_file(contiguous, folder / "diffusion_pytorch_model.safetensors")


def _write_large(folder, config):
    """The same, drawn and written a group at a time."""
    from memo_jax.weights.components import COMPONENTS
    from memo_jax.weights.torch_configs import torch_config

    _, shapes = COMPONENTS["emotion_classifier"].abstract(config)
    rng = np.random.default_rng(0)
    found = Found(
        component="emotion_classifier",
        config=config,
        form="drawn",
        where=folder,
        shapes=shapes,
        read=lambda names: {n: rng.random(shapes[n].shape, np.float32) for n in names},
    )
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(torch_config("emotion_classifier", config)))
    write_weights(folder, found, None, "10GB")


def test_a_model_without_wav2vec2_still_has_its_spec(tmp_path):
    """A part written by hand is a native folder too, and says what it lacks."""
    module = random_module("emotion_classifier", CLASSIFIER)
    spec = ModelSpec("part", SamplerConfig(), {"emotion_classifier": Part(CLASSIFIER)})
    write_model(tmp_path / "m", Model(spec, {"emotion_classifier": module}))
    (found,) = find(tmp_path / "m")
    assert found.form == "native" and found.config == CLASSIFIER
