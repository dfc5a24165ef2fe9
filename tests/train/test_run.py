"""A run's folder: what it says, what it refuses, and the model that comes out of it."""

import dataclasses
import json
import re

import numpy as np
import pytest
import stand_in
from safetensors.numpy import load_file

from memo_jax.data.store import Store
from memo_jax.errors import UserError
from memo_jax.sharding import make_mesh
from memo_jax.train.checkpoint import Checkpoints, latest, trained_values
from memo_jax.train.config import TrainConfig
from memo_jax.train.run import RunConfig, check_data, open_run, trained, write_trained
from memo_jax.weights.comparing import compare
from memo_jax.weights.exporting import write_weights
from memo_jax.weights.found import find
from memo_jax.weights.sources import preset_folder
from memo_jax.weights.spec import read_spec
from tools.convert_weights.__main__ import main

TINY = preset_folder("tiny")
CONFIG = {"batch_size": 4, "drop": {"audio": 0.05}, "lora_rank": 0, "lora_alpha": 16.0}


def begin(folder, config=CONFIG, **options):
    return open_run(folder / "run", config, read_spec(TINY), TINY, **options)


def test_says_config_model_and_versions(tmp_path):
    run = begin(tmp_path)
    assert json.loads((run.path / "config.json").read_text()) == CONFIG | {"model": str(TINY)}
    assert run.spec == read_spec(TINY) and run.model == TINY
    (start,) = map(json.loads, (run.path / "starts.jsonl").read_text().splitlines())
    assert {"jax", "flax", "optax", "orbax-checkpoint", "memo_jax", "commit"} < start.keys()
    assert (start["platform"], start["processes"], start["changed"]) == ("cpu", 1, [])


def test_the_same_config_goes_on_and_another_is_refused_by_the_fields_that_differ(tmp_path):
    begin(tmp_path)
    begin(tmp_path)
    other = CONFIG | {"batch_size": 8, "drop": {"audio": 0.1}}
    with pytest.raises(UserError) as refused:
        begin(tmp_path, other)
    text = str(refused.value)
    assert "batch_size 4, now 8; drop.audio 0.05, now 0.1; give" in text and "\n" not in text
    assert json.loads((tmp_path / "run/config.json").read_text())["batch_size"] == 4


def test_a_run_from_before_distillation_goes_on(tmp_path):
    now = TrainConfig().to_dict()
    later = {"student_steps", "teacher_substeps", "teacher_guidance"}
    begin(tmp_path, {name: value for name, value in now.items() if name not in later})
    begin(tmp_path, now)
    with pytest.raises(UserError, match="student_steps null, now 8"):
        begin(tmp_path, now | {"student_steps": 8})


def test_changes_that_are_accepted_are_kept_and_told(tmp_path):
    begin(tmp_path)
    begin(tmp_path, CONFIG | {"batch_size": 8}, accept_changes=True)
    begin(tmp_path, CONFIG | {"batch_size": 8})
    starts = (tmp_path / "run/starts.jsonl").read_text().splitlines()
    changes = [json.loads(start)["changed"] for start in starts]
    assert changes == [[], ["batch_size 4, now 8"], []]


def test_another_model_is_refused_whatever_is_accepted(tmp_path):
    run = begin(tmp_path)
    spec = dataclasses.replace(read_spec(TINY), name="another")
    with pytest.raises(UserError, match="networks other than"):
        open_run(run.path, CONFIG, spec, TINY, accept_changes=True)
    with pytest.raises(UserError, match=r"model \".*tiny\", now \".*elsewhere\""):
        open_run(run.path, CONFIG, read_spec(TINY), tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "no run's config"), ('{"batch_size": 4}', "no run's config"), ("[]", "no run's config")],
)
def test_a_damaged_config_is_one_line(text, message, tmp_path):
    run = begin(tmp_path)
    (run.path / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        begin(tmp_path)


def test_folders_that_are_no_runs(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(UserError, match="cannot be a run's folder"):
        begin(tmp_path)
    with pytest.raises(UserError, match="mount the bucket"):
        open_run("gs://bucket/run", CONFIG, read_spec(TINY), TINY)
    (tmp_path / "other/checkpoints/5").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no config\.json"):
        open_run(tmp_path / "other", CONFIG, read_spec(TINY), TINY)


def test_settings_out_of_range_are_refused():
    for fields in ({"keep_every": -1}, {"sample_seconds": 0.0}):
        with pytest.raises(UserError, match=f"run.{next(iter(fields))}"):
            RunConfig(**fields)


def test_data_of_another_model_is_refused_with_all_that_differs(tmp_path):
    layout = Store(stand_in.write_data(tmp_path / "data", 2)).layout
    spec = read_spec(TINY)
    check_data(layout, spec, TrainConfig())
    other = dataclasses.replace(layout, face=512, latents=(4, 4, 4))
    with pytest.raises(UserError, match=r"face: 512, the model 192; latents.*\(4, 4, 4\)"):
        check_data(other, spec, TrainConfig())


def test_data_of_other_audio_features_is_refused(tmp_path):
    spec = read_spec(TINY)
    layout = Store(stand_in.write_data(tmp_path / "data", 2)).layout
    check_data(dataclasses.replace(layout, audio_features=spec.audio_features), spec, TrainConfig())
    shifted = dataclasses.replace(spec.log_mel, centre=spec.log_mel.centre + 1).text
    for other in ("wav2vec2", shifted):
        with pytest.raises(UserError, match=f"features: {re.escape(other)}, the model log-mel"):
            check_data(dataclasses.replace(layout, audio_features=other), spec, TrainConfig())


def test_data_without_latents_is_refused_with_the_way_to_them(tmp_path):
    layout = Store(stand_in.write_data(tmp_path / "data", 2)).layout
    pictures = dataclasses.replace(layout, latents=None)
    with pytest.raises(UserError, match=r"memo_jax\.train\.latents, or set form"):
        check_data(pictures, read_spec(TINY), TrainConfig())
    check_data(pictures, read_spec(TINY), TrainConfig(form="images"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with one checkpoint, of which `ema` is another array."""
    run = begin(tmp_path_factory.mktemp("made"))
    config = TrainConfig(learning_rate=0.1)
    state, _ = stand_in.StandIn(config, None, make_mesh(0, 1)).init()
    state = state.replace(ema={name: value + 1 for name, value in state.ema.items()})
    checkpoints = Checkpoints(run.checkpoints)
    checkpoints.save(7, state, seed=0, trace=[], data={})
    checkpoints.close()
    return run


def test_trained_values_are_found_by_run_and_by_step(run):
    assert latest(run.path) == 7
    for path in (run.path, run.checkpoints / "7"):
        for ema, expected in ((None, 1.5), (True, 1.5), (False, 0.5)):
            values = trained_values(path, ema=ema)
            assert {name: list(part) for name, part in values.items()} == {
                "image_proj": ["proj/bias"],
                "audio_proj": ["proj1/bias"],
            }
            assert (values["image_proj"]["proj/bias"] == np.full(128, expected)).all()


def test_what_is_written_and_exported_has_the_trained_values_and_all_else_untouched(run, tmp_path):
    write_trained(run.path, tmp_path / "native", ema=False)
    assert read_spec(tmp_path / "native") == read_spec(TINY)
    before = {one.component: one for one in find(TINY)}
    after = {one.component: one for one in find(tmp_path / "native")}
    assert before.keys() == after.keys()
    changed = set()
    for name, one in before.items():
        old, new = one.read(list(one.shapes)), after[name].read(list(one.shapes))
        changed |= {f"{name}/{path}" for path in old if not np.array_equal(old[path], new[path])}
    assert changed == {"image_proj/proj/bias", "audio_proj/proj1/bias"}

    (projection,) = [one for one in trained(run.path, ema=False) if one.component == "image_proj"]
    write_weights(tmp_path, projection, None, "1GB")
    exported = load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    original = before["image_proj"].read(["proj/kernel"])["proj/kernel"]
    assert (exported["proj.bias"] == 0.5).all() and len(exported["proj.bias"]) == 128
    np.testing.assert_array_equal(exported["proj.weight"], original.T)


def test_the_conversion_command_takes_a_run_and_one_of_its_checkpoints(run, tmp_path):
    main(["import", str(run.path), str(tmp_path / "native")])
    main(["export", str(run.checkpoints / "7"), str(tmp_path / "torch")])
    assert compare(tmp_path / "native", tmp_path / "torch").same
    tensors = load_file(tmp_path / "torch/image_proj/diffusion_pytorch_model.safetensors")
    assert (tensors["proj.bias"] == 1.5).all()


def test_low_rank_changes_are_merged_into_their_kernels(run, tmp_path):
    path = tmp_path / "run"
    low_rank = open_run(path, CONFIG | {"lora_rank": 2, "lora_alpha": 4.0}, run.spec, TINY)
    a, b = np.full((192, 2), 0.5, np.float32), np.full((2, 128), 0.25, np.float32)
    config = TrainConfig(learning_rate=0.1)
    state, _ = stand_in.StandIn(config, None, make_mesh(0, 1)).init()
    factors = {"image_proj/proj/lora_a": a, "image_proj/proj/lora_b": b}
    checkpoints = Checkpoints(low_rank.checkpoints)
    checkpoints.save(1, state.replace(trained=factors, ema=None), seed=0, trace=[], data={})
    checkpoints.close()
    (one,) = [one for one in trained(path) if one.component == "image_proj"]
    (old,) = [one for one in find(TINY) if one.component == "image_proj"]
    kernel = old.read(["proj/kernel"])["proj/kernel"].astype(np.float32)
    np.testing.assert_allclose(one.read(["proj/kernel"])["proj/kernel"], kernel + 0.5, rtol=1e-6)
    assert one.shapes.keys() == old.shapes.keys()


def test_paths_without_a_checkpoint_are_refused(tmp_path):
    begin(tmp_path)
    for path in (tmp_path, tmp_path / "run", tmp_path / "run/checkpoints/3"):
        with pytest.raises(UserError, match="no whole checkpoint"):
            trained_values(path)


def test_a_starting_model_that_is_gone_is_said(run, tmp_path):
    moved = open_run(tmp_path / "run", CONFIG, run.spec, tmp_path / "gone")
    with pytest.raises(UserError, match="not there; put it back"):
        _ = moved.model
