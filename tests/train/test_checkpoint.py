"""Checkpoints: what goes in comes out, and only whole ones are seen."""

import shutil

import jax
import numpy as np
import pytest
import stand_in

from memo_jax.errors import UserError
from memo_jax.sharding import make_mesh
from memo_jax.train import checkpoint
from memo_jax.train.checkpoint import Checkpoints, latest
from memo_jax.train.config import TrainConfig
from memo_jax.weights.checkpoint import restore

REPORT = {"seen": 4, "reasons": {"short": 1}, "names": {"record 1": "short"}, "fallbacks": 2}


def beginning():
    return stand_in.StandIn(TrainConfig(learning_rate=0.1), None, make_mesh(0, 1)).init()[0]


def drawn(seed=0):
    """A state with every number drawn: nothing is hidden by one that repeats."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if not leaf.ndim:
            return jax.device_put(np.asarray(rng.integers(1, 99), leaf.dtype), leaf.sharding)
        return jax.device_put(rng.normal(size=leaf.shape).astype(leaf.dtype), leaf.sharding)

    return jax.tree.map(draw, beginning())


def save(checkpoints, step, state=None, **more):
    said = {"seed": 3, "trace": [[1, 0.5]], "data": {"position": 8, "report": REPORT}} | more
    checkpoints.save(step, state or beginning(), **said)
    checkpoints.wait()


def test_a_state_comes_back_to_the_bit_with_step_seed_trace_and_data(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    state = drawn()
    save(checkpoints, int(state.step), state)
    found, said, data = Checkpoints(tmp_path / "checkpoints").restore(beginning())
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
        assert ours.dtype == theirs.dtype and ours.sharding == theirs.sharding
        np.testing.assert_array_equal(ours, theirs)
    assert said == {"step": int(state.step), "seed": 3, "trace": [[1, 0.5]]}
    assert data == {"position": 8, "report": REPORT}


def test_a_component_is_an_item_that_reads_like_a_models(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    state = drawn()
    save(checkpoints, 5, state)
    names = {path.name for path in (tmp_path / "checkpoints/5").iterdir() if path.is_dir()}
    assert names == {"image_proj", "audio_proj", "optimizer", "ema", "state", "data"}
    caplog.clear()
    read = restore(tmp_path / "checkpoints/5/image_proj")
    assert not caplog.records  # a user would take Orbax's warnings for the project's
    np.testing.assert_array_equal(read["proj/bias"], state.trained["image_proj/proj/bias"])


def test_the_newest_are_kept_and_every_so_many_for_good(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", save_every=2, keep_last=2, keep_every=6)
    for step in range(1, 17):
        if checkpoints.due(step):
            save(checkpoints, step)
    checkpoints.close()
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {"6", "12", "14", "16", ".removed"}
    assert not any((tmp_path / "checkpoints/.removed").iterdir())
    assert latest(tmp_path) == 16


def test_one_that_is_not_whole_is_no_checkpoint_and_is_cleared_away(tmp_path):
    save(Checkpoints(tmp_path / "checkpoints"), 4)
    torn = tmp_path / "checkpoints/8.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints/4", torn)
    assert latest(tmp_path) == 4
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest == 4
    save(checkpoints, 8)
    assert latest(tmp_path) == 8 and not torn.exists()


def test_a_damaged_one_is_refused_in_one_line_that_says_the_way_out(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep_last=2)
    save(checkpoints, 4)
    save(checkpoints, 8)
    for file in (tmp_path / "checkpoints/8/optimizer").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(UserError, match="remove it to go on from the one before") as refused:
        checkpoints.restore(beginning())
    assert "\n" not in str(refused.value)
    shutil.rmtree(tmp_path / "checkpoints/8")
    assert Checkpoints(tmp_path / "checkpoints").restore(beginning())[1]["step"] == 4


def test_a_state_of_other_parameters_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    save(checkpoints, 4)
    other = beginning()
    other = other.replace(trained={"vae/x": next(iter(other.trained.values()))})
    with pytest.raises(UserError, match="cannot be gone on from"):
        checkpoints.restore(other)


def test_an_empty_folder_has_none(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest is None and latest(tmp_path) is None
    with pytest.raises(UserError, match="no whole checkpoint"):
        checkpoints.restore(beginning())


def test_a_full_disk_is_one_line(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        save(checkpoints, 4)


def test_counts_of_several_processes_are_the_first_ones_where_there_is_one(tmp_path, monkeypatch):
    states = [{"position": 8, "report": REPORT}, {"position": 8, "report": REPORT}]
    monkeypatch.setattr(checkpoint, "_gathered", lambda state: states)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    save(checkpoints, 4)
    data = checkpoints.restore(beginning())[2]
    assert data["position"] == 8
    assert data["report"] == REPORT | {"seen": 8, "reasons": {"short": 2}, "fallbacks": 4}
