"""A decoder that fails like a C library. A set-up hook installs it in every process of a Ray cluster."""

import ctypes
import os
import resource
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil


def install() -> None:
    from w3ray.data.decoders import DECODERS, DEFAULT_DECODER
    from w3ray.data.video_cache import VideoCache

    good = DECODERS[DEFAULT_DECODER]

    def bad(uri: str, cache: VideoCache | None = None):
        name = os.path.basename(uri)
        if name.startswith("hangs"):
            ctypes.PyDLL(None).sleep(3600)  # holds the interpreter's lock, so no other Python thread runs
        elif name.startswith("crashes"):
            ctypes.string_at(0)
        elif name.startswith("killed"):
            if group := os.environ.get("W3RAY_MEMORY_GROUP"):  # the kernel kills processes that exceed its memory
                Path(group, "cgroup.procs").write_text(str(os.getpid()))
            _take_memory(1 << 30)
            os.kill(os.getpid(), signal.SIGKILL)  # imitates the kernel if there is no memory group
        elif name.startswith("starves"):
            soft, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + (1 << 28), hard))
            try:
                _take_memory(1 << 30)
            finally:
                resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        return good(uri, cache)

    DECODERS._members[DEFAULT_DECODER] = replace(DECODERS._members[DEFAULT_DECODER], value=bad)


def _take_memory(num_bytes: int) -> None:
    np.zeros(num_bytes, np.uint8)[::4096] = 1
