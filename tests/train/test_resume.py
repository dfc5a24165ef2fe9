"""A run that stopped and went on is, to the bit, one that never stopped."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import stand_in

from memo_jax.train import __main__ as command
from memo_jax.train.checkpoint import latest, trained_values
from memo_jax.weights.checkpoint import restore


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    stand_in.write_data(folder / "data")
    stand_in.write_data(folder / "small", size=16)
    stand_in.write_tiniest(folder / "tiniest")
    return folder


def train(folder, run, *more, main=stand_in.main, **fields):
    stand_in.write_config(folder / "config.py", **fields)
    main([*stand_in.line(folder, run), "--distributed=off", *map(str, more)])
    return folder / run


def assert_same(run, other):
    """The last checkpoints of two runs: all arrays, and where the data is."""
    step = latest(run)
    assert step == latest(other)
    for item in ("optimizer", "ema", *trained_values(run, ema=False)):
        a, b = (restore(path / f"checkpoints/{step}/{item}") for path in (run, other))
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=f"{item}/{name}")
    for item in ("data", "state"):
        a, b = (path / f"checkpoints/{step}/{item}/metadata" for path in (run, other))
        assert a.read_text() == b.read_text()
    assert stand_in.losses(run) == stand_in.losses(other)


@pytest.fixture(scope="module")
def whole(folder):
    """Twelve steps, three epochs and two lengths of the past."""
    return train(folder, "whole", past_frames=(2, 3))


@pytest.mark.parametrize("stops", [(1,), (5, 6), (4, 8, 11)])
def test_stopping_at_any_step_changes_nothing(stops, folder, whole):
    run = f"stopped-{stops[0]}"
    for stop in (*stops, 12):
        train(folder, run, "--accept-changes", past_frames=(2, 3), steps=stop)
    assert_same(folder / run, whole)


def test_other_threads_and_workers_change_nothing(folder, whole):
    train(folder, "threads", past_frames=(2, 3), steps=7, threads=1, prefetch=1)
    train(folder, "threads", "--accept-changes", past_frames=(2, 3), steps=12, threads=3)
    assert_same(folder / "threads", whole)


def test_going_on_on_more_devices_has_the_same_losses(folder, whole):
    """Sums in another order: the losses are equal to rounding."""
    run = train(folder, "devices", past_frames=(2, 3), steps=6)
    before = trained_values(run)
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    stand_in.write_config(folder / "config.py", past_frames=(2, 3), fsdp_axis=2)
    line = [*stand_in.line(folder, "devices"), "--accept-changes"]
    subprocess.run([sys.executable, stand_in.__file__, *line], check=True, env=environment)
    np.testing.assert_allclose(stand_in.losses(run), stand_in.losses(whole), rtol=1e-5)
    assert stand_in.losses(run)[:6] == stand_in.losses(whole)[:6]
    for name, values in trained_values(run).items():
        for path, value in values.items():
            assert not np.array_equal(value, before[name][path])
            np.testing.assert_allclose(value, trained_values(whole)[name][path], rtol=1e-5)


def test_another_data_set_is_refused(folder, whole, tmp_path):
    other = stand_in.write_data(tmp_path / "other", 7)
    with pytest.raises(command.UserError, match="the data's state is of data"):
        train(folder, "whole", f"--data={other}", past_frames=(2, 3))


@pytest.mark.parametrize("stage", ["2a", "distill"])
def test_the_real_step_goes_on_to_the_bit(folder, stage):
    """The tiniest networks, with the average that checkpoints keep. (Whoever learns of a teacher
    must find it again as it was.)"""

    def real(run, *more, **fields):
        places = (f"--model={folder / 'tiniest'}", f"--data={folder / 'small'}")
        fields |= {"batch_size": 2, "learning_rate": 1e-3, "ema_decay": 0.9, "stage": stage}
        fields |= {"robust_threshold": None, "checkpoint_every": 10}
        return train(folder, f"{run}-{stage}", *places, *more, main=command.main, **fields)

    whole = real("real", steps=3)
    real("real-stopped", steps=1)
    stopped = real("real-stopped", "--accept-changes", steps=3)
    assert_same(stopped, whole)
    assert len(set(stand_in.losses(whole))) == 3 and jax.process_count() == 1
