"""Processes that are told to stop, or killed, at any moment."""

import json
import random
import signal
import time

import orbax.checkpoint as ocp
import pytest
import stand_in

from memo_jax.train.checkpoint import latest, trained_values

WAIT = 60  # seconds that a busy machine may need to start


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("signals")
    stand_in.write_data(folder / "data")
    return folder


def until(true, process):
    end = time.monotonic() + WAIT
    while not true():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.005)


def lines(path):
    return path.read_text().count("\n") if path.exists() else 0


def whole(folder, **fields):
    """The losses of a run that nothing stops."""
    stand_in.write_config(folder / "config.py", **fields)
    run = folder / "whole"
    if latest(run) != fields["steps"]:
        process = stand_in.start([*stand_in.line(folder, "whole"), "--accept-changes"])
        assert process.wait(WAIT) == 0
    return stand_in.losses(run)


@pytest.mark.parametrize(
    ("number", "file", "count", "status"),
    [
        (signal.SIGTERM, "metrics.jsonl", 5, 0),
        (signal.SIGINT, "metrics.jsonl", 3, 130),  # `train stage1 && train stage2a` ends, too
        (signal.SIGTERM, "starts.jsonl", 1, 0),  # before the first step
    ],
)
def test_a_signal_ends_the_step_saves_and_the_same_line_goes_on(
    number, file, count, status, folder
):
    expected = whole(folder, steps=30, checkpoint_every=1000)
    run = folder / f"{number.name}-{file}"
    line = stand_in.line(folder, run.name)
    process = stand_in.start(line, STAND_IN_SECONDS="0.1")
    until(lambda: lines(run / file) >= count, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=WAIT)
    step = latest(run)
    assert process.returncode == status, said
    assert f"stopped at step {step}, saved; the same line goes on from there" in said
    assert step < 30 and lines(run / "metrics.jsonl") == step
    if file == "metrics.jsonl":
        assert step >= count
    _, said = (process := stand_in.start(line)).communicate(timeout=WAIT)
    assert process.returncode == 0 and f"going on from step {step}" in said
    assert stand_in.losses(run) == expected


def test_killed_at_ten_random_moments_it_always_goes_on_from_a_whole_checkpoint(folder):
    steps = 600
    expected = whole(folder, steps=steps, checkpoint_every=4)
    draw = random.Random(5)
    run = folder / "killed"
    line = stand_in.line(folder, run.name)
    reached = []
    for kill in range(10):
        done = reached[-1] if reached else 0
        process = stand_in.start(line, STAND_IN_SECONDS="0.01")
        until(lambda n=kill: lines(run / "starts.jsonl") > n, process)
        # Some of them while it starts, some after a step, some after one more checkpoint.
        if kill % 3 == 0:
            steps_then = lines(run / "metrics.jsonl")
            until(lambda n=steps_then: lines(run / "metrics.jsonl") > n, process)
        elif kill % 3 == 1:
            until(lambda n=done: (latest(run) or 0) > n, process)
        time.sleep(draw.uniform(0, 0.4))
        process.kill()
        _, said = process.communicate()
        assert "cannot be gone on from" not in said and "Traceback" not in said
        if done and kill % 3 != 2:  # the third kind may be killed before it says so
            assert f"going on from step {done}" in said
        step = latest(run)
        reached.append(step or 0)
        for whole_step in ocp.utils.checkpoint_steps(run / "checkpoints"):
            state = run / "checkpoints" / str(whole_step) / "state/metadata"
            assert json.loads(state.read_text())["step"] == whole_step
            values = trained_values(run / "checkpoints" / str(whole_step), ema=False)
            assert len(values) == 2
    assert reached == sorted(reached) and 0 < reached[-1] < steps
    _, said = (process := stand_in.start(line)).communicate(timeout=WAIT)
    assert process.returncode == 0 and f"going on from step {reached[-1]}" in said
    assert stand_in.losses(run) == expected
