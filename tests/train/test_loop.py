"""The loop and its command: what stops it, what it writes down, and its one-line errors."""

import json
import sys
import types

import numpy as np
import pytest
import stand_in

from memo_jax.errors import UserError
from memo_jax.io.video import read_video
from memo_jax.train import __main__ as command
from memo_jax.train import log as logs
from memo_jax.train import samples
from memo_jax.train.checkpoint import latest
from memo_jax.train.log import Log, peak, read_metrics
from memo_jax.train.loop import Diverged
from memo_jax.train.run import RunConfig, open_run
from memo_jax.weights.spec import read_spec


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set; each test's config and runs are its own."""
    folder = tmp_path_factory.mktemp("loop")
    stand_in.write_data(folder / "data")
    return folder


@pytest.fixture
def train(folder, tmp_path, capsys):
    """`train(**fields)` runs the command, with the stand-in, in one run's folder; it gives that
    and what was said."""
    (tmp_path / "data").symlink_to(folder / "data")

    def train(*more, **fields):
        stand_in.write_config(tmp_path / "config.py", **fields)
        try:
            stand_in.main([*stand_in.line(tmp_path), "--distributed=off", *more])
        finally:
            train.said = capsys.readouterr().err
        return tmp_path / "run", train.said

    return train


def test_each_log_step_is_a_line_of_the_mean_over_its_steps(train):
    run, said = train(log_every=1)
    single = read_metrics(run)
    assert [line["step"] for line in single] == list(range(1, 13))
    assert {"loss_unfiltered", "grad_norm", "lr", "samples_per_second", "data_bad"} < set(single[0])
    assert "compiled in" in said
    run, _ = train("--config.steps=24", "--accept-changes", log_every=6)
    (at_18, at_24) = read_metrics(run)[12:]
    assert (at_18["step"], at_24["step"]) == (18, 24)


def test_the_mean_leaves_out_what_the_filter_left_out(train, monkeypatch):
    kept = iter([4, 0, 2, 2])
    whole = stand_in.StandIn.step

    class Program:
        """A step of which only some samples were kept."""

        def __init__(self, jitted):
            self.jitted = jitted

        def lower(self, *args):
            self.program = self.jitted.lower(*args).compile()
            return types.SimpleNamespace(cost_analysis=dict, compile=lambda: self)

        def __call__(self, *args):
            state, metrics = self.program(*args)
            n = np.asarray(next(kept))
            loss = np.asarray(0.0 if n == 0 else float(n))
            changed = {"kept": n, "dropped": 4 - n, "loss": loss}
            places = dict.fromkeys(changed, metrics["lr"].sharding)
            return state, metrics | stand_in.put(changed, places)

    monkeypatch.setattr(stand_in.StandIn, "step", lambda self, past: Program(whole(self, past)))
    run, _ = train(steps=4, log_every=4)
    (line,) = read_metrics(run)
    assert line["loss"] == (4 * 4 + 2 * 2 + 2 * 2) / 8 and line["dropped_share"] == 0.5


@pytest.mark.parametrize("at", [0, 6])
def test_what_is_not_finite_stops_with_step_records_and_a_checkpoint_from_before(
    at, train, monkeypatch
):
    monkeypatch.setenv("STAND_IN_NAN", str(at))
    with pytest.raises(Diverged) as stopped:
        train(checkpoint_every=2)
    text = str(stopped.value)
    assert text.startswith(f"step {at + 1}: the loss is not finite; record(s) ")
    assert "clips-" in text and f"checkpoint of step {at} is from before it" in text
    assert len(text.split("; ")[1].split("), ")) == 4 and "\n" not in text
    monkeypatch.delenv("STAND_IN_NAN")
    run, said = train(checkpoint_every=2)
    assert f"going on from step {at}" in said and latest(run) == 12


def test_bad_data_is_told_and_too_much_of_it_stops_with_all_steps_saved(
    train, tmp_path, monkeypatch
):
    fetched, real = iter(range(100)), command.Loader.__next__

    def failing(self):
        if next(fetched) == 5:
            raise UserError("60 of 100 records cannot be used; mend the data set")
        self.report.add(0, [("record 3 (clips[3])", "short", "2 frames")])
        return real(self)

    monkeypatch.setattr(command.Loader, "__next__", failing)
    with pytest.raises(UserError, match="60 of 100"):
        train(checkpoint_every=100)
    assert "data: 5 of 25 records cannot be used: 5 short" in train.said
    assert latest(tmp_path / "run") == 5
    assert read_metrics(tmp_path / "run")[-1]["data_bad"] == 5


def test_a_sample_that_fails_is_said_and_no_more(train, monkeypatch):
    def fail(run, step, model, config, **more):
        if step == 8:
            raise RuntimeError("out of\nmemory")
        run.samples.mkdir(exist_ok=True)
        path = run.samples / f"{step}.mp4"
        path.touch()
        return path

    monkeypatch.setattr(samples, "make_sample", fail)
    run, said = train(sample_every=4)
    assert "no sample of step 8: RuntimeError: out of memory" in said
    assert sorted(path.name for path in run.glob("samples/*")) == ["12.mp4", "4.mp4"]
    assert latest(run) == 12


def test_a_run_that_is_done_does_nothing(train):
    run, _ = train(steps=4)
    before = (run / "metrics.jsonl").read_text()
    _, said = train(steps=4)
    assert "going on from step 4 (loss " in said and "compiled" not in said
    assert (run / "metrics.jsonl").read_text() == before


def test_fields_are_set_from_the_command_line(train):
    run, _ = train("--config.steps=3", "--config.run.keep_every=2", "--config.model=tiny")
    config = json.loads((run / "config.json").read_text())
    assert (config["steps"], config["run"]["keep_every"], latest(run)) == (3, 2, 3)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.step=3", r"no field step; did you mean steps\?"),
        ("--config.steps", "expected --config.FIELD=VALUE"),
        ("--config.steps=many", "steps"),
        ("--config.run.keep_evry=3", "there is no field keep_evry; did you mean keep_every"),
        ("--config.stage=3", "stage '3', expected one of"),
        ("--config.batch_size=0", "batch_size is 0"),
        ("--data=nowhere", "nowhere is no data set"),
        ("--model=tny", "did you mean 'tiny'"),
        ("--distributed=somewhere", "expected auto, off or ADDRESS:PORT,PROCESSES,INDEX"),
        ("--distributed=host:1,2", "expected auto, off or ADDRESS:PORT,PROCESSES,INDEX"),
    ],
)
def test_mistakes_are_one_line(argument, message, train):
    with pytest.raises(UserError, match=message) as refused:
        train(argument)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--log_every=1", "--log_every is a field of the config: --config.log_every=1;"),
        ("--batch-size", "--batch-size is a field of the config: --config.batch_size=VALUE;"),
        ("--foo=3", "unrecognized arguments: --foo=3;"),
    ],
)
def test_no_option_is_one_line_and_2(argument, message, train):
    with pytest.raises(SystemExit) as refused:
        train(argument)
    assert refused.value.code == 2
    assert message in train.said and train.said.count("\n") == 1


@pytest.fixture(scope="module")
def tiniest(tmp_path_factory):
    return stand_in.write_tiniest(tmp_path_factory.mktemp("samples") / "tiniest")


@pytest.fixture
def sampled(tiniest, tmp_path):
    """`sampled(step, values)` is the frames of a sample video of a run."""
    run = open_run(tmp_path / "run", {}, read_spec(tiniest), tiniest)
    config = RunConfig(sample_seconds=0.24, sample_steps=1)

    def sampled(step, values):
        model = samples.read_with(run.model, values, "float32")
        path = samples.make_sample(run, step, model, config, seed=1)
        assert path == run.path / f"samples/{step:08d}.mp4"
        return read_video(path)[0]

    return sampled


def test_a_sample_is_a_short_video_of_the_values_given(sampled):
    before = sampled(1, {})
    assert before.shape == (6, 16, 16, 3)
    again = sampled(2, {"vae/decoder/conv_out/bias": np.full(3, 3.0, np.float32)})
    assert before.shape == again.shape and not np.array_equal(before, again)


def test_a_sample_of_values_that_the_model_has_not_is_refused(sampled):
    with pytest.raises(UserError, match="no parameter vae/none"):
        sampled(1, {"vae/none": np.zeros(1)})


class TestLog:
    def test_steps_that_are_done_again_are_there_once(self, tmp_path):
        log = Log(tmp_path, 0, tensorboard=False, tell=print)
        for step in range(1, 6):
            log.write(step, {"loss": float(step)})
        log.close()
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 6, "lo')  # killed here
        log = Log(tmp_path, 3, tensorboard=False, tell=print)
        log.write(4, {"loss": float("nan")})
        log.close()
        lines = read_metrics(tmp_path)
        assert [line["step"] for line in lines] == [1, 2, 3, 4] and lines[-1]["loss"] == "nan"

    def test_without_tensorboardx_that_is_said_once(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorboardX", None)
        said = []
        log = Log(tmp_path, 0, tensorboard=True, tell=said.append)
        log.write(1, {"loss": 1.0})
        log.close()
        assert len(said) == 1 and "pip install" in said[0]
        assert read_metrics(tmp_path) == [{"step": 1, "loss": 1.0}]

    def test_tensorboard_gets_the_same_numbers(self, tmp_path, monkeypatch):
        calls = []

        class SummaryWriter:
            def __init__(self, folder, purge_step):
                calls.append((folder, purge_step))

            def add_scalar(self, *args):
                calls.append(args)

            def flush(self):
                pass

            close = flush

        fake = types.SimpleNamespace(SummaryWriter=SummaryWriter)
        monkeypatch.setitem(sys.modules, "tensorboardX", fake)
        log = Log(tmp_path, 7, tensorboard=True, tell=print)
        log.write(8, {"loss": 1.5, "lr": 0.1})
        log.close()
        folder = str(tmp_path / "tensorboard")
        assert calls == [(folder, 8), ("train/loss", 1.5, 8), ("train/lr", 0.1, 8)]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", None),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", None),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("cpu", None),
    ],
)
def test_peaks_go_by_the_beginning_of_a_kinds_name(kind, expected):
    assert peak(kind) == expected


def test_utilization_is_of_all_devices_and_absent_where_no_peak_is_known(monkeypatch):
    assert logs.utilization(1e15, 1.0) is None
    device = types.SimpleNamespace(device_kind="TPU v5 lite")
    monkeypatch.setattr(logs.jax, "devices", lambda: [device] * 4)
    monkeypatch.setattr(logs.jax, "device_count", lambda: 4)
    assert logs.utilization(4 * 197e12, 2.0) == 0.5
    assert logs.utilization(None, 2.0) is None
