"""A training run in the place of a model: for generation, and to train on from."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import stand_in
from sounds import tone, write_wav

from memo_jax import sample
from memo_jax.errors import UserError
from memo_jax.io.video import read_video
from memo_jax.sharding import make_mesh
from memo_jax.train import __main__ as training
from memo_jax.train import run as runs
from memo_jax.train.checkpoint import Checkpoints, trained_values
from memo_jax.train.config import TrainConfig
from memo_jax.train.run import is_run, open_run, run_model, write_trained
from memo_jax.weights.found import find
from memo_jax.weights.sources import preset_folder
from memo_jax.weights.spec import read_spec
from tools.convert_weights import __main__ as convert_weights

TINY = preset_folder("tiny")
BIAS = "image_proj/proj/bias"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Where native models are kept."""
    monkeypatch.setenv("MEMO_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/models"


@pytest.fixture
def said():
    return []


def begin(folder, model=TINY):
    return open_run(folder / "run", {"lora_rank": 0, "lora_alpha": 1.0}, read_spec(model), model)


def save(run, step, values=None):
    """Add a checkpoint in which these values were trained, unless the stand-in's."""
    state, _ = stand_in.StandIn(TrainConfig(learning_rate=0.1), None, make_mesh(0, 1)).init()
    if values is not None:
        state = state.replace(trained=values, ema=None)
    checkpoints = Checkpoints(run.checkpoints, keep_last=9)
    checkpoints.save(step, state, seed=0, trace=[], data={})
    checkpoints.close()


def bias(model):
    (one,) = [one for one in find(model) if one.component == "image_proj"]
    return one.read(["proj/bias"])["proj/bias"]


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def test_it_is_written_once_and_found_again(cache, said, tmp_path):
    run = begin(tmp_path)
    save(run, 7, {BIAS: np.full(128, 2.5, np.float32)})
    first = run_model(run.path, said.append)
    assert first.parent == cache and first.name.startswith("run-7-")
    assert (bias(first) == 2.5).all()
    written = (first / "model.json").stat().st_mtime_ns
    assert run_model(run.path, said.append) == first == run_model(run.checkpoints / "7", print)
    assert (first / "model.json").stat().st_mtime_ns == written and entries(cache) == [first.name]
    assert len(said) == 2 and "run at step 7: its model is written once" in said[0]
    assert said[1] == f"{run.path} at step 7: the model in {first}"


def test_a_component_of_which_everything_was_trained(cache, said, tmp_path):
    run = begin(tmp_path)
    (net,) = [one for one in find(TINY) if one.component == "image_proj"]
    values = {
        f"image_proj/{path}": np.full(leaf.shape, 0.5, np.float32)
        for path, leaf in net.shapes.items()
    }
    save(run, 1, values)
    assert (bias(run_model(run.path, said.append)) == 0.5).all()


def test_a_later_checkpoint_and_another_of_the_same_step_are_other_models(cache, said, tmp_path):
    run = begin(tmp_path)
    save(run, 3, {BIAS: np.full(128, 1.0, np.float32)})
    before = run_model(run.path, said.append)
    save(run, 5, {BIAS: np.full(128, 2.0, np.float32)})
    newest = run_model(run.path, said.append)
    assert newest.name.startswith("run-5-") and (bias(newest) == 2.0).all()
    assert run_model(run.checkpoints / "3", said.append) == before

    shutil.rmtree(run.path)  # and trained anew
    save(begin(tmp_path), 3, {BIAS: np.full(128, 3.0, np.float32)})
    assert (bias(run_model(run.path, said.append)) == 3.0).all()
    assert (bias(before) == 1.0).all()


def test_more_of_the_same_config_is_the_same_model(cache, said, tmp_path):
    run = begin(tmp_path)
    save(run, 3)
    first = run_model(run.path, said.append)
    config = run.path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"steps": 9}))
    assert run_model(run.path, said.append) == first
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 9.0}))
    assert run_model(run.path, said.append) != first


def test_what_fails_halfway_leaves_nothing(cache, said, tmp_path, monkeypatch):
    run = begin(tmp_path)
    save(run, 3)
    save_one, calls = runs.checkpoint.save, []

    def fail(*args):
        calls.append(args)
        if len(calls) == 3:
            raise OSError("no space left")
        save_one(*args)

    monkeypatch.setattr(runs.checkpoint, "save", fail)
    with pytest.raises(OSError, match="no space"):
        run_model(run.path, said.append)
    assert len(calls) == 3 and entries(cache) == []


def test_a_cache_that_cannot_be_made_is_said(said, tmp_path, monkeypatch):
    run = begin(tmp_path)
    save(run, 3)
    (tmp_path / "file").touch()
    monkeypatch.setenv("MEMO_JAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="MEMO_JAX_CACHE"):
        run_model(run.path, said.append)


def test_what_is_no_run(tmp_path):
    run = begin(tmp_path)
    save(run, 3)
    assert is_run(run.path) and is_run(run.checkpoints / "3")
    shutil.copytree(TINY, tmp_path / "checkpoints/mine")  # a model kept in a folder of that name
    shutil.copytree(TINY, tmp_path / "checkpoints/3")
    for path in ("tiny", "memoavatar/memo", "3", "x" * 5000, tmp_path, TINY):
        assert not is_run(Path(path))
    assert not is_run(tmp_path / "checkpoints/mine") and not is_run(tmp_path / "checkpoints/3")


class TestTraining:
    @pytest.fixture
    def train(self, tmp_path, capsys):
        """`train(*more, **fields)` runs the command with the stand-in; what was said."""
        stand_in.write_data(tmp_path / "data")

        def train(*more, **fields):
            stand_in.write_config(tmp_path / "config.py", **fields)
            stand_in.main([*stand_in.line(tmp_path), "--distributed=off", *more])
            return capsys.readouterr().err

        return train

    def test_it_starts_from_what_a_run_has_made_and_goes_on_from_its_own(
        self, train, cache, tmp_path
    ):
        train(steps=2)
        first = tmp_path / "run"
        again = f"--model={first}", f"--run={tmp_path / 'next'}"
        err = train(*again, steps=1)
        assert err.count(f"{first} at step 2") == 1
        start = Path(json.loads((tmp_path / "next/config.json").read_text())["model"])
        assert start.parent == cache and start.name.startswith("run-2-")
        assert np.array_equal(bias(start), trained_values(first)["image_proj"]["proj/bias"])
        assert not np.array_equal(bias(start), bias(TINY))
        err = train(*again, "--accept-changes", steps=2)
        assert "going on from step 1" in err and entries(cache) == [start.name]

    def test_several_processes_want_it_written_first(self, tmp_path, monkeypatch):
        run = begin(tmp_path)
        save(run, 3)
        monkeypatch.setattr(training.jax, "process_count", lambda: 2)
        with pytest.raises(UserError, match=f"convert_weights import {run.path} NEW"):
            training._start(os.fspath(run.path))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of the smallest whole model, with one checkpoint."""
    folder = tmp_path_factory.mktemp("sampled")
    run = begin(folder, stand_in.write_tiniest(folder / "tiniest"))
    save(run, 4, {"vae/decoder/conv_out/bias": np.full(3, 3.0, np.float32)})
    return run


def test_a_run_named_from_where_one_stands_is_written(tmp_path, monkeypatch):
    """Orbax takes absolute paths alone."""
    run = begin(tmp_path)
    save(run, 3, {BIAS: np.full(128, 2.5, np.float32)})
    monkeypatch.chdir(tmp_path)
    write_trained(run.path.relative_to(tmp_path), Path("written"))
    assert (bias(tmp_path / "written") == 2.5).all()


def test_a_run_is_inspected_as_the_model_that_it_made(made, cache, tmp_path, capsys):
    written = tmp_path / "written"
    write_trained(made.path, written)
    convert_weights.main(["verify", str(made.path), str(written)])
    assert "the same to the bit" in capsys.readouterr().out
    convert_weights.main(["inspect", str(made.path), "--json"])
    found = json.loads(capsys.readouterr().out)["components"]
    assert {one["component"] for one in found} == {one.component for one in find(written)}


class TestSampling:
    @pytest.fixture
    def frames(self, tmp_path, capsys):
        """`frames(model, *more)` is the video that the command makes, and what was said."""

        def frames(model, *more):
            output = tmp_path / "out.mp4"
            sound = write_wav(tmp_path / "sound.wav", tone(0.2, 16000), 16000)
            arguments = ["--model", model, "--audio", sound, "--output", output, "--steps", 1]
            sample.main([*map(str, arguments), *more])
            return read_video(output)[0], capsys.readouterr().err

        return frames

    def test_a_run_is_sampled_as_the_model_that_it_made(self, made, frames, cache, tmp_path):
        write_trained(made.path, tmp_path / "written")
        own, err = frames(made.path)
        assert err.count(f"{made.path} at step 4") == 1
        assert np.array_equal(own, frames(tmp_path / "written")[0])
        assert not np.array_equal(own, frames(made.path.parent / "tiniest")[0])
        again, err = frames(made.checkpoints / "4", "--quiet")
        assert np.array_equal(own, again) and err == ""

    def test_a_run_without_a_checkpoint_is_one_line(self, tmp_path):
        run = begin(tmp_path)
        run.checkpoints.mkdir()
        with pytest.raises(UserError, match="no whole checkpoint") as refused:
            sample.main(["--model", str(run.path), "--output", str(tmp_path / "out.mp4")])
        assert "\n" not in str(refused.value)
