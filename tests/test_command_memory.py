"""A long video's memory stays level: all threads of a command share malloc's arena."""

import os
import subprocess
import sys

import pytest

# glibc tells its arenas one after the other, each as a <heap> of its own.
SCRIPT = """
import ctypes, threading
from memo_jax.command import share_one_arena

shared = share_one_arena()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.fopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]

def arenas():
    file = libc.fopen(b"arenas.xml", b"w")
    libc.malloc_info(0, file)
    libc.fclose(file)
    return open("arenas.xml").read().count("<heap nr=")

before, together = arenas(), threading.Barrier(8)

def take():
    libc.malloc(100_000)
    together.wait()

threads = [threading.Thread(target=take) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(shared, arenas() - before)
"""


def new_arenas(folder, environment):
    """What the function says, and how many arenas eight threads make."""
    ours = {"MALLOC_ARENA_MAX", "GLIBC_TUNABLES"}
    clean = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=folder,
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    said, made = done.stdout.split()
    return said == "True", int(made)


@pytest.mark.skipif(sys.platform != "linux", reason="where malloc is glibc's")
def test_threads_share_an_arena(tmp_path):
    assert new_arenas(tmp_path, {}) == (True, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="where malloc is glibc's")
@pytest.mark.parametrize(
    "environment", [{"MALLOC_ARENA_MAX": "64"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=64"}]
)
def test_the_environments_own_limit_stays(tmp_path, environment):
    shared, made = new_arenas(tmp_path, environment)
    assert not shared and made > 0
