"""Two processes on one machine, which train one model together."""

import json
import signal
import socket
import time

import numpy as np
import pytest
import stand_in

from memo_jax.train.checkpoint import latest

WAIT = 90


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    stand_in.write_data(folder / "data")
    stand_in.write_config(folder / "config.py", steps=40, checkpoint_every=5)
    stand_in.main([*stand_in.line(folder, "whole"), "--distributed=off"])
    return folder


def start(folder, seconds, *more):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [*stand_in.line(folder), *more]
    return [
        stand_in.start([*line, f"--distributed=127.0.0.1:{port},2,{i}"], STAND_IN_SECONDS=seconds)
        for i in (0, 1)
    ]


def steps_done(run):
    metrics = run / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.exists() else 0


def until(happened, processes):
    end = time.monotonic() + WAIT
    while not happened():
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < end
        time.sleep(0.01)


def test_two_processes_stop_together_are_killed_and_one_goes_on_with_the_same_losses(folder):
    run = folder / "run"
    try:
        processes = start(folder, "0.05")
        until(lambda: steps_done(run) >= 6, processes)
        processes[1].send_signal(signal.SIGTERM)  # one machine is taken away; all of them stop
        said = [process.communicate(timeout=WAIT)[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], said
        stopped = latest(run)
        assert f"stopped at step {stopped}, saved" in said[0] and "stopped at" not in said[1]
        state = json.loads((run / f"checkpoints/{stopped}/data/metadata").read_text())["processes"]
        assert [one["position"] for one in state] == [4 * stopped] * 2
        assert [one["report"]["seen"] for one in state] == [2 * stopped] * 2

        processes = start(folder, "0.2")  # slow enough that a checkpoint is whole before the end
        until(lambda: steps_done(run) >= stopped + 8 and latest(run) > stopped, processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    killed = latest(run)
    assert stopped < killed < 40

    process = stand_in.start(stand_in.line(folder))
    said = process.communicate(timeout=WAIT)[1]
    assert process.returncode == 0 and f"going on from step {killed}" in said
    # Sums over two processes are in another order.
    losses, expected = stand_in.losses(run), stand_in.losses(folder / "whole")
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    state = json.loads((run / "checkpoints/40/data/metadata").read_text())["processes"]
    assert [one["report"]["seen"] for one in state] == [160]


def test_a_mistake_that_all_make_is_one_line_of_each(folder):
    processes = start(folder, "0", "--config.batch_size=8", "--run", str(folder / "whole"))
    said = [process.communicate(timeout=WAIT)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2], said
    assert all("batch_size 4, now 8" in text for text in said)
