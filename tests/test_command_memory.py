"""Every command gives large blocks of memory back as they are freed."""

import os
import subprocess
import sys

import pytest

# That a block of 16 MB was freed teaches glibc to take one of 8 MB from its heap.
SCRIPT = """
import ctypes
from memo_jax.command import run

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost")]

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.mallinfo2.restype = Info

def main(arguments):
    libc.free(libc.malloc(16 << 20))
    before = libc.mallinfo2().hblks
    libc.malloc(8 << 20)
    print(libc.mallinfo2().hblks - before)

run("memo_jax.x", main)
"""


def mapped(environment):
    """How many blocks of 8 MB are mapped, of one."""
    clean = {k: v for k, v in os.environ.items() if k != "MALLOC_MMAP_THRESHOLD_"}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        command, env=clean | environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="where malloc is glibc's")
@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 1),
        ({"MALLOC_MMAP_THRESHOLD_": str(32 << 20)}, 0),
        ({"GLIBC_TUNABLES": f"glibc.malloc.mmap_threshold={32 << 20}"}, 0),
    ],
)
def test_a_large_block_is_mapped_unless_the_environment_says_otherwise(environment, expected):
    assert mapped(environment) == expected
