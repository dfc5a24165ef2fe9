"""Files of jobs, and jobs on several devices."""

import argparse
import threading
import time

import jax
import pytest

from memo_jax.errors import UserError
from memo_jax.pipeline.jobs import Stopped, on_devices, read_jobs

DEFAULTS = argparse.Namespace(image="me.png", audio="hello.wav", output="out.mp4", seed=3, crf=18)


def jobs_of(tmp_path, text):
    (tmp_path / "jobs.jsonl").write_text(text)
    return read_jobs(str(tmp_path / "jobs.jsonl"), DEFAULTS)


def test_what_a_job_leaves_unsaid_is_the_commands(tmp_path):
    jobs = jobs_of(tmp_path, '{"output": "a.mp4", "seed": 7}\n\n{"output": "b.mkv"}\n')
    assert [(job.output, job.seed, job.image) for job in jobs] == [
        ("a.mp4", 7, "me.png"),
        ("b.mkv", 3, "me.png"),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no jobs"),
        ('{"output": "a.mp4"\n', "line 1 is no JSON"),
        ('{"output": "a.mp4"}\n[1]\n', "line 2 is no JSON object"),
        ('{"image": "a.png"}', "does not say its output"),
        ('{"output": "a.mp4", "steps": 4}', "no option 'steps' of a job"),
        ('{"output": "a.mp4", "seed": "7"}', "seed is '7', expected int"),
        ('{"output": "a.mp4", "seed": true}', "seed is True, expected int"),
        ('{"output": "a.mp4"}\n{"output": "./a.mp4"}', "lines 1 and 2 both write"),
    ],
)
def test_mistakes_name_their_line(tmp_path, text, told):
    with pytest.raises(UserError, match=told) as error:
        jobs_of(tmp_path, text)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there():
    with pytest.raises(UserError, match="cannot be read"):
        read_jobs("nowhere.jsonl", DEFAULTS)


def make(loaded, job, check):
    if job == "bad":
        raise UserError("it is bad")
    return job, loaded


def test_one_device_keeps_the_order():
    jobs = ["a", "bad", "c"]
    found = list(on_devices(jobs, lambda: 0, make, jax.devices()[:1]))
    assert [job for job, _ in found] == jobs
    assert found[0][1] == ("a", 0) and str(found[1][1]) == "it is bad"


def test_several_devices_share_the_work():
    """Each worker loads once on its own device, and all are at work at the same time."""
    both, devices = threading.Barrier(2, timeout=20), jax.devices()[:1] * 2
    loads = []

    def load():
        loads.append(threading.get_ident())
        return threading.get_ident()

    def meet(loaded, job, check):
        both.wait()
        return loaded

    found = list(on_devices(range(6), load, meet, devices))
    assert sorted(job for job, _ in found) == list(range(6))
    assert len(set(loads)) == len(loads) == 2 and {who for _, who in found} == set(loads)


def test_what_is_no_users_mistake_stops_all():
    stopped, both = [], threading.Barrier(2, timeout=20)

    def crash(loaded, job, check):
        both.wait()
        if job == 0:
            raise RuntimeError("a bug")
        try:
            while True:
                check()
                time.sleep(0.01)
        except Stopped:
            stopped.append(job)
            raise

    with pytest.raises(RuntimeError, match="a bug"):
        list(on_devices(range(9), lambda: 0, crash, jax.devices()[:1] * 2))
    assert stopped == [1]
