"""Makes a CPU trainer keep the memory that it frees.

A trainer allocates and frees the same large tensors in every step. By default glibc returns them to the kernel each
time, and the next use costs a page fault for every 4 KiB.
"""

import ctypes
from contextlib import suppress

KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
"""The environment of a process that keeps its memory."""

_MALLOPT = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_TOP_PAD_": -2, "MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_ARENA_MAX": -8}


def keep_memory() -> None:
    """Make this process keep its memory, as with `KEEP_MEMORY` in its environment; glibc only."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for name, option in _MALLOPT.items():
            mallopt(option, int(KEEP_MEMORY[name]))
