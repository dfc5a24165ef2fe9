"""Beam's other runners: options reach them, and what is missing is one line."""

import importlib.util

import numpy as np
import prepare_runner
import pytest

from memo_jax.errors import UserError
from memo_jax.prepare import run as running
from memo_jax.prepare import runners
from memo_jax.prepare.__main__ import main
from memo_jax.prepare.folder import Folder
from memo_jax.prepare.run import Input
from memo_jax.prepare.settings import Settings

beam_options = pytest.importorskip("apache_beam.options.pipeline_options")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A run's folder; videos give nothing, at no price."""
    monkeypatch.setattr(running, "clips", lambda *_: iter(()))
    monkeypatch.setattr(running, "tools", lambda settings: None)
    found = Folder(tmp_path / "set")
    found.prepare({})
    return found


VIDEOS = [Input(f"{name}.mp4", f"{name}.mp4", name * 16) for name in "abc"]


def ran(folder, runner, *options):
    return running.run(VIDEOS, folder, Settings(size=64), runner, options, quiet=True)


def test_a_runner_of_any_name_gets_its_options_and_does_the_work(folder):
    prepare_runner.seen.clear()
    name = "prepare_runner.Recorder"
    options = ("--project", "mine", "--parallelism=7", "--only_mine", "x")
    assert ran(folder, name, *options) == []
    assert folder.count(video.key for video in VIDEOS) == 3
    (seen,) = prepare_runner.seen
    assert seen.view_as(beam_options.GoogleCloudOptions).project == "mine"
    assert seen.view_as(beam_options.FlinkRunnerOptions).parallelism == 7
    assert seen.view_as(beam_options.StandardOptions).runner == name
    # What Beam does not know may be the runner's own.
    assert seen.get_all_options(retain_unknown_options=True)["only_mine"] == "x"
    assert not hasattr(seen.view_as(beam_options.StandardOptions), "only_mine")


@pytest.mark.parametrize(("short", "full"), runners.RUNNERS.items())
def test_short_names_are_beams(short, full):
    made = runners.options(short, ["--job_name", "x"])
    assert made.view_as(beam_options.StandardOptions).runner == full


def test_the_local_runners_own_options_win(folder):
    direct = runners.options("direct", [], 3).view_as(beam_options.DirectOptions)
    assert (direct.direct_num_workers, direct.direct_running_mode) == (3, "multi_processing")
    given = ["--direct_num_workers", "2", "--direct_running_mode=multi_threading"]
    direct = runners.options("direct", given, 3).view_as(beam_options.DirectOptions)
    assert (direct.direct_num_workers, direct.direct_running_mode) == (2, "multi_threading")
    assert not runners.options(
        "direct", ["--no_direct_runner_use_stacked_bundle"]
    ).get_all_options()["direct_runner_use_stacked_bundle"]
    assert ran(folder, "direct", *given) == []
    assert folder.count(video.key for video in VIDEOS) == 3


@pytest.mark.parametrize(
    ("runner", "options", "message"),
    [
        ("nobody", [], "--runner nobody fails: ValueError: Unexpected pipeline runner: nobody"),
        ("no.such.Runner", [], "--runner no.such.Runner fails: ModuleNotFoundError: No module"),
        ("prepare_runner.Picky", ["--job_endpoint", "here"], "ValueError: no job endpoint in here"),
        ("prepare_runner.NoServer", [], "FileNotFoundError: .* 'java.nof mine'$"),
        (
            "direct",
            ["--direct_num_workers", "few"],
            "refuses an option: .*invalid int value: 'few'",
        ),
        ("direct", ["--direct_num_worker", "2"], "no option '--direct_num_worker', neither here"),
        ("direct", ["-x", "2"], "no option '-x'"),
        ("direct", ["stray"], "no option 'stray'"),
        ("flink", ["--flink_version", "0.1"], "refuses an option: .*invalid choice: '0.1'"),
    ],
)
def test_what_is_wrong_with_a_runner_is_one_line(runner, options, message, folder):
    with pytest.raises(UserError, match=message) as error:
        ran(folder, runner, *options)
    assert "\n" not in str(error.value)
    assert not folder.count(video.key for video in VIDEOS)
    assert not list(folder.path.glob(".prepare/failed-*"))


def test_a_runners_program_that_is_missing_is_told_with_what_to_do(folder, monkeypatch):
    monkeypatch.setitem(runners.RUNNERS, "flink", "prepare_runner.FlinkRunner")
    with pytest.raises(UserError, match=r"FileNotFoundError.*; Flink's job server needs Java"):
        ran(folder, "flink")


def test_dataflow_without_its_library_is_one_line(folder):
    try:
        found = importlib.util.find_spec("google.cloud.dataflow")
    except ImportError:
        found = None
    if found is not None:
        pytest.skip("apache-beam[gcp] is installed")
    given = ("--project", "project", "--region", "here", "--temp_location", "gs://bucket/tmp")
    with pytest.raises(
        UserError, match=r"Dataflow needs pip install 'apache-beam\[gcp\]'"
    ) as error:
        ran(folder, "dataflow", *given)
    assert "\n" not in str(error.value)


def test_beam_missing_is_one_line(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(UserError, match=r"pip install memo_jax\[prepare\]"):
        runners.options("direct")


def test_wrong_options_are_told_before_the_work(tmp_path):
    video = tmp_path / "a.mp4"
    video.write_bytes(np.zeros(8, np.uint8).tobytes())
    given = ["--input", str(video), "--output", str(tmp_path / "set"), "--cuts", "histogram"]
    with pytest.raises(UserError, match="no option '--direct_num_worker'"):
        main([*given, "--direct_num_worker", "2"])
    assert not (tmp_path / "set").exists()
