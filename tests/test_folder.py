"""Model folders: written and read again to the bit, and whatever may be wrong with one."""

import dataclasses
import json
import shutil
import stat

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from golden_case import GoldenCase
from published_model import PLACES, write_published
from safetensors.numpy import save_file
from small_model import (
    CASE,
    CLASSIFIER,
    WAV2VEC2,
    emotion2vec,
    generator_modules,
    quick_compilation,
    random_module,
    same_weights,
    small_model,
    structures_kept,
)

from memo_jax.audio.emotion import clip_labels
from memo_jax.config import SamplerConfig
from memo_jax.errors import UserError
from memo_jax.pipeline import Pipeline
from memo_jax.pipeline.hearing import Hearing
from memo_jax.pipeline.scene import Scene
from memo_jax.weights import build
from memo_jax.weights.components import to_torch
from memo_jax.weights.folder import Model, read_component, write_model
from memo_jax.weights.rules import ConversionError
from memo_jax.weights.sources import load_model, presets
from memo_jax.weights.spec import read_spec

PART = "image_proj"  # small: its files are damaged one by one


@pytest.fixture(autouse=True, scope="module")
def _quickly():
    with structures_kept(), quick_compilation():
        yield


@pytest.fixture(scope="module")
def model():
    return small_model(
        wav2vec2=(WAV2VEC2, random_module("wav2vec2", WAV2VEC2)),
        emotion2vec=emotion2vec(),
        emotion_classifier=(CLASSIFIER, random_module("emotion_classifier", CLASSIFIER)),
    )


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """A native folder; not to be changed."""
    folder = tmp_path_factory.mktemp("models") / "small"
    write_model(folder, model)
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    """The same folder, to be damaged."""
    return shutil.copytree(whole, tmp_path / "small")


def in_one_line(error, *texts):
    message = error.summary if isinstance(error, ConversionError) else str(error)
    assert message and len(message.splitlines()) == 1, message
    for text in texts:
        assert str(text) in message
    return True


class TestNative:
    def test_to_the_bit(self, whole, model):
        again = load_model(whole, jnp.float32)
        assert again.spec == model.spec and again.folder == whole
        assert again.modules.keys() == model.modules.keys()
        for name, module in model.modules.items():
            assert same_weights(again.modules[name], module)

    def test_bfloat16_to_the_bit(self, model, tmp_path):
        """Matrices as they are multiplied, the rest as float32."""
        graphdef, state = nnx.split(model.modules[PART])
        values = {
            path: leaf.astype(jnp.bfloat16) if leaf.ndim > 1 else leaf
            for path, leaf in build.flatten(state).items()
        }
        small = nnx.merge(graphdef, build.unflatten(values))
        modules = {**model.modules, PART: small}
        write_model(tmp_path / "m", Model(model.spec, modules))
        read = read_component(tmp_path / "m", model.spec, PART, jnp.bfloat16)
        assert same_weights(read, small)
        widened = build.flatten(
            nnx.state(read_component(tmp_path / "m", model.spec, PART, jnp.float32))
        )
        assert all(np.array_equal(widened[k], values[k]) for k in values)
        assert all(leaf.dtype == jnp.float32 for leaf in widened.values())

    def test_model_json_to_the_word(self, whole, model):
        assert read_spec(whole) == model.spec
        assert read_spec(whole).to_json() == (whole / "model.json").read_text()

    def test_an_existing_folder_is_left_alone(self, model, tmp_path):
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / "mine").write_text("x")
        with pytest.raises(UserError, match="exists already"):
            write_model(tmp_path / "m", model)
        assert [p.name for p in tmp_path.rglob("*")] == ["m", "mine"]
        with pytest.raises(UserError, match="cannot be made"):
            write_model(tmp_path / "missing" / "m", model)

    def test_others_may_read_it(self, whole):
        assert stat.S_IMODE(whole.stat().st_mode) == 0o755

    @pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, SystemExit])
    def test_an_interrupted_write_leaves_nothing(self, model, tmp_path, error):
        class Spec:
            def to_json(self):
                raise error

        with pytest.raises(error):
            write_model(tmp_path / "m", Model(Spec(), {PART: model.modules[PART]}))
        assert not list(tmp_path.iterdir())

    def test_the_bundled_presets(self):
        assert "tiny" in presets()
        for name in presets():
            assert load_model(name, jnp.float32).spec.name == name

    def test_a_folder_is_no_model(self, tmp_path):
        for name in ("", "missing", "x" * 5000):
            with pytest.raises(UserError) as error:
                load_model(tmp_path / name, jnp.float32)
            assert in_one_line(error.value, "expected")

    def test_a_missing_component(self, copy):
        shutil.rmtree(copy / "vae")
        with pytest.raises(UserError) as error:
            load_model(copy, jnp.float32)
        assert in_one_line(error.value, "no vae/", "incomplete")

    def test_weights_of_another_shape(self, copy):
        data = json.loads((copy / "model.json").read_text())
        data["components"][PART]["config"].update(tokens=7, embedding_dim=21)
        (copy / "model.json").write_text(json.dumps(data))
        with pytest.raises(ConversionError) as error:
            read_component(copy, read_spec(copy), PART, jnp.float32)
        assert in_one_line(error.value, PART, "its config means (21, 112)")
        assert len(error.value.problems) == 2

    def test_weights_of_another_network(self, copy):
        shutil.rmtree(copy / PART)
        shutil.copytree(copy / "audio_proj", copy / PART)
        with pytest.raises(ConversionError) as error:
            read_component(copy, read_spec(copy), PART, jnp.float32)
        assert in_one_line(error.value, "missing proj/kernel", "more")


def set_at(data, path, value):
    *parents, last = path.split(".")
    for parent in parents:
        data = data[parent]
    data[last] = value


def delete_at(data, path):
    *parents, last = path.split(".")
    for parent in parents:
        data = data[parent]
    del data[last]


NET = "components.diffusion_net.config"
CHANGES = [
    *[(path, value) for path in ("format",) for value in (0, 2, "1", None, [])],
    *[(path, value) for path in ("name", "notes") for value in (3, None, ["a"])],
    *[("sampler", value) for value in (None, [], 3, {"stepps": 3})],
    *[(f"sampler.{name}", value) for name in ("steps", "fps", "image_size", "clip_frames")
      for value in (0, -1, 2.5, 25.0, "10", None, True, float("inf"), float("nan"), [1], {})],
    *[("sampler.guidance", value) for value in ("x", None, float("nan"), True, [])],
    *[("sampler.null_audio", value) for value in ("quiet", None, 1)],
    *[("sampler.audio_padding", value) for value in ("released ", 0, [])],
    *[("emotions", value) for value in ("neutral", None, 3, [1, 2], {"a": 1}, [["a"]])],
    *[("identity", value) for value in ("face", None, 3)],
    *[("log_mel", value) for value in (3, [1], "x", {"bandz": 3})],
    *[("log_mel.bands", value) for value in (0, -1, "8", None, 2.5, [])],
    *[("log_mel.high", value) for value in (9000, "x", float("inf"), 0)],
    *[("components", value) for value in (None, [], {}, 3, {"vae": 3}, {"vae": {}})],
    *[("components.vae", value) for value in (None, [], {}, {"config": None}, {"config": []})],
    ("components.ufo", {"config": {}}),
    *[(f"{NET}.block_out_channels", value)
      for value in ([], [32], [32, 33], [32, -32], "32", None, 32, [32, "32"], [[32], [32]])],
    *[(f"{NET}.num_heads", value) for value in (0, "2", None, 2.5, [])],
    *[(f"{NET}.norm_num_groups", value) for value in (0, 7, None, 1.5)],
    *[(f"{NET}.down_attention", value) for value in ([True], [1, 0], "ab", None, 5)],
    *[(f"{NET}.norm_eps", value) for value in ("x", None, float("nan"), [1])],
    *[(f"{NET}.norm_per_frame", value) for value in (1, "yes", None)],
    *[(f"{NET}.motion", value) for value in (None, 3, [], "x", {"decays": 1})],
    *[(f"{NET}.motion.decay", value) for value in (-0.1, 1.1, "x", None, float("nan"))],
    *[(f"{NET}.motion.memory_decay", value) for value in ("slow", None, 0)],
    *[(f"{NET}.reference_rows", value) for value in ("all", None)],
    *[("components.wav2vec2.config.conv_kernels", value) for value in ([], [3], None, "abc")],
    *[("components.emotion2vec.config.convs", value)
      for value in (None, [], [3], [[1, 2]], [[16, 10, "5"]] * 4)],
]  # fmt: skip
DELETIONS = [
    *("format", "name", "sampler", "emotions", "identity", "components"),
    *("components.vae", "components.vae.config", "components.emotion2vec.config.width"),
]
TEXTS = ["", "{", "[]", "3", "null", '"x"', "\0", "{}" * 2, "[" * 100_000, '{"format": 1}']


class TestModelJson:
    """Everything that is written there by hand and may be wrong."""

    def refused(self, folder, data, whole):
        text = data if isinstance(data, str | bytes) else json.dumps(data)
        folder.mkdir(exist_ok=True)
        path = folder / "model.json"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(UserError) as error:
            load_model(folder, jnp.float32)
        return in_one_line(error.value, folder)

    @pytest.fixture
    def data(self, whole):
        return json.loads((whole / "model.json").read_text())

    @pytest.mark.parametrize(("path", "value"), CHANGES)
    def test_a_value_that_makes_no_sense(self, data, tmp_path, whole, path, value):
        set_at(data, path, value)
        assert self.refused(tmp_path / "m", data, whole)

    @pytest.mark.parametrize("path", DELETIONS)
    def test_a_field_that_is_missing(self, data, tmp_path, whole, path):
        delete_at(data, path)
        assert self.refused(tmp_path / "m", data, whole)

    @pytest.mark.parametrize("text", [*TEXTS, b"\xff\xfe{"], ids=range(len(TEXTS) + 1))
    def test_no_json(self, tmp_path, whole, text):
        assert self.refused(tmp_path / "m", text, whole)

    def test_it_says_which_file(self, data, copy):
        for path, value, *texts in (
            ("format", 2, "format 2", "update memo_jax"),
            ("sampler.steps", 0, "steps"),
            ("components.vae.config.widths", 3, "VAEConfig has no field widths"),
            ("identity", "face", "identity is 'face', expected Literal['arcface', 'pixels']"),
        ):
            changed = json.loads(json.dumps(data))
            set_at(changed, path, value)
            (copy / "model.json").write_text(json.dumps(changed))
            with pytest.raises(UserError) as error:
                read_spec(copy)
            assert in_one_line(error.value, copy / "model.json", *texts)


def files(folder):
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


class TestDamagedCheckpoints:
    """A file lost, cut short, emptied or overwritten is told in one line, or did no harm: weights
    are never silently others."""

    @pytest.mark.parametrize("damage", ["lost", "cut", "empty", "random"])
    def test_every_file(self, whole, model, tmp_path, damage):
        refused = 0
        for i, name in enumerate(files(whole / PART)):
            folder = tmp_path / str(i)
            shutil.copytree(whole / PART, folder / PART)
            path = folder / PART / name
            content = path.read_bytes()
            if damage == "lost":
                path.unlink()
            elif damage == "cut":
                path.write_bytes(content[: len(content) // 2])
            elif damage == "empty":
                path.write_bytes(b"")
            else:
                path.write_bytes(np.random.default_rng(i).bytes(len(content)))
            try:
                read = read_component(folder, model.spec, PART, jnp.float32)
            except UserError as error:
                assert in_one_line(error, folder / PART)
                refused += 1
            else:
                assert same_weights(read, model.modules[PART]), name
        assert refused >= 2

    def test_all_of_it(self, copy, model):
        for name in files(copy / PART):
            (copy / PART / name).unlink()
        with pytest.raises(UserError, match="copy the model again") as error:
            read_component(copy, model.spec, PART, jnp.float32)
        assert in_one_line(error.value)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A folder in the published layout; not to be changed."""
    return write_published(tmp_path_factory.mktemp("published") / "memo")


@pytest.fixture
def published(released, tmp_path):
    return shutil.copytree(released, tmp_path / "memo")


class RecordedHearing(Hearing):
    """Windows as they were recorded, which overlap as no recording's would."""

    def windows(self, clip, size):
        start = clip * self.clip_frames
        return self.hidden[start : start + self.clip_frames]


class TestPublished:
    def test_modules_are_those_of_load_torch(self, released):
        loaded = load_model(released, jnp.float32)
        assert loaded.modules.keys() == PLACES.keys()
        assert loaded.spec.sampler == SamplerConfig.released()
        assert loaded.spec.identity == "arcface" and loaded.spec.log_mel is None
        for name, module in generator_modules().items():
            assert same_weights(loaded.modules[name], module)
            assert loaded.spec.parts[name].config == module.config

    def test_the_recorded_frames(self, released):
        """From files in the published layout through Pipeline to the recorded frames, which were
        floats: a value that lies on the edge of a level may fall on either side."""
        case = GoldenCase(CASE)
        sampler = dataclasses.replace(
            SamplerConfig.released(),
            image_size=case.config["image_px"],
            clip_frames=4,
            past_frames=4,
            first_past_frames=4,
            steps=case.config["inference_steps"],
            guidance=case.config["guidance_scale"],
        )
        pipe = Pipeline(load_model(released, jnp.float32), sampler=sampler)
        pixels = np.moveaxis(case.inp("pixel_values"), 1, -1)[0]
        image = (pixels + 1) * 127.5
        scene = Scene(picture=image, crop=None, image=image, identity=case.inp("face_emb")[0])
        hearing = RecordedHearing(
            duration=12 / 30,
            frames=12,
            hidden=case.inp("audio_emb"),
            emotions=clip_labels(case.inp("emotion_labels"), 4),
            clip_frames=4,
        )
        assert hearing.emotions.tolist() == [
            case.out(f"clip{i}/emotion_used")[-1] for i in range(3)
        ]
        noise = np.stack([np.moveaxis(case.inp(f"clip{i}/noise"), 1, -1) for i in range(3)])
        chunks = list(pipe.start(scene, hearing, noise=noise))
        assert [len(frames) for frames in chunks] == [4, 4, 4]
        wanted = np.concatenate(
            [np.moveaxis(case.out(f"clip{i}/video")[0], 0, -1) for i in range(3)]
        )
        levels = np.clip(wanted * 255, 0, 255)
        off = np.concatenate(chunks).astype(int) - np.floor(levels).astype(int)
        assert np.abs(off).max() <= 1
        # Frames agree to 1e-4 of a level's 255, so all but few levels are the same.
        assert (off != 0).mean() < 0.01

    def test_half_precision(self, published):
        kinds = {PART: ml_dtypes.bfloat16, "audio_proj": np.float16}
        stored = {}
        for name, kind in kinds.items():
            stored[name] = {k: v.astype(kind) for k, v in GoldenCase(CASE).w(name).items()}
            path = published / name / "diffusion_pytorch_model.safetensors"
            save_file({k: np.ascontiguousarray(v) for k, v in stored[name].items()}, path)
        shutil.rmtree(published / PLACES["emotion_classifier"])  # which may be missing
        loaded = load_model(published, jnp.float32).modules
        assert "emotion_classifier" not in loaded
        for name, tensors in stored.items():
            again = to_torch(name, loaded[name])
            assert all(np.array_equal(again[k], v.astype(np.float32)) for k, v in tensors.items())

    def test_written_as_a_native_folder(self, released, tmp_path):
        loaded = load_model(released, jnp.float32)
        write_model(tmp_path / "native", loaded)
        again = load_model(tmp_path / "native", jnp.float32)
        assert again.spec == loaded.spec
        assert all(same_weights(again.modules[n], m) for n, m in loaded.modules.items())

    @pytest.mark.parametrize("name", ["vae", "diffusion_net", "wav2vec2"])
    def test_a_missing_part(self, published, name):
        shutil.rmtree(published / PLACES[name])
        with pytest.raises(UserError) as error:
            load_model(published, jnp.float32)
        assert in_one_line(error.value, published)

    @pytest.mark.parametrize("name", ["vae", "reference_net"])
    @pytest.mark.parametrize("damage", ["cut", "header", "empty", "random", "lost"])
    def test_damaged_weights(self, published, name, damage):
        (path,) = (published / PLACES[name]).glob("*.safetensors")
        content = path.read_bytes()
        if damage == "lost":
            path.unlink()
        else:
            short = {"cut": content[:-100], "header": content[:50], "empty": b""}
            path.write_bytes(short.get(damage, np.random.default_rng(0).bytes(3000)))
        with pytest.raises(UserError) as error:
            load_model(published, jnp.float32)
        assert in_one_line(error.value, path.parent)

    @pytest.mark.parametrize(
        "text", [None, "", "[]", "3", "{", "[" * 100_000, "null"], ids=range(7)
    )
    @pytest.mark.parametrize("name", ["vae", "reference_net"])
    def test_damaged_configs(self, published, name, text):
        path = published / name / "config.json"
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
        with pytest.raises(UserError) as error:
            load_model(published, jnp.float32)
        assert in_one_line(error.value, path)

    @pytest.mark.parametrize(
        ("name", "field"),
        [
            ("vae", "block_out_channels"),
            ("reference_net", "down_block_types"),
            ("reference_net", "attention_head_dim"),
            ("diffusion_net", "motion_module_kwargs"),
            ("diffusion_net", "up_block_types"),
        ],
    )
    @pytest.mark.parametrize("value", [KeyError, None, "x", -1, [7], {}], ids=str)
    def test_configs_that_make_no_sense(self, published, name, field, value):
        path = published / name / "config.json"
        config = json.loads(path.read_text())
        if value is KeyError:
            del config[field]
        else:
            config[field] = value
        path.write_text(json.dumps(config))
        with pytest.raises(UserError) as error:
            load_model(published, jnp.float32)
        assert in_one_line(error.value, name)

    def test_every_tensor_counts(self, published):
        path = published / PART / "diffusion_pytorch_model.safetensors"
        tensors = dict(GoldenCase(CASE).w(PART))
        tensors["extra"] = tensors.pop("proj.weight")
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)
        with pytest.raises(ConversionError) as error:
            load_model(published, jnp.float32)
        assert in_one_line(error.value, "extra", "proj")
