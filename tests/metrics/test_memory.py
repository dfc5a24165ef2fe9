"""Measuring many videos in a process of its own: what it has resident does not grow with them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
VIDEOS, SIDE = 48, 224
RAW = SIDE * SIDE * 3 * 25 / 1e6  # MB of one video's pictures

PLAIN = """
import dataclasses, json
from benchmarks import metrics_memory
found = metrics_memory.measure({videos}, {side}, widths=(64, 32))
print(json.dumps(dataclasses.asdict(found)))
"""
# Every picture that the network is shown is kept, as a careless list would.
LEAKING = (
    """
from benchmarks import metrics_memory
held, call = [], metrics_memory.Network.__call__
def kept(self, frames):
    held.append(frames.copy())
    return call(self, frames)
metrics_memory.Network.__call__ = kept
"""
    + PLAIN
)


@pytest.mark.parametrize(("program", "leaks"), [(PLAIN, False), (LEAKING, True)])
def test_resident_memory(program, leaks):
    """Over the last third it grows by less than a tenth of the pictures that pass; where they are
    kept, it grows by them."""
    done = subprocess.run(
        [sys.executable, "-c", program.format(videos=VIDEOS, side=SIDE)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["videos"] == VIDEOS and found["before"] < found["most"] <= found["peak"]
    grown = found["growth"] / 1000  # MB for each video
    assert (grown > 0.8 * RAW) if leaks else (grown < 0.1 * RAW)
