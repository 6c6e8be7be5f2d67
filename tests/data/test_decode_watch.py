"""A clip that hangs or crashes a process is tried again, then given up. The processes are real and really end."""

import subprocess
import sys

import pytest

from w3ray.data.decode_watch import MAX_CRASHES, MAX_TIMEOUTS, DecodeWatch
from w3ray.storage import RemotePath

# What a decoder does: read notes, then decode. "hang" holds the interpreter's lock, as a C library may.
DECODER = """
import ctypes, os, sys, time
from pathlib import Path
from w3ray.data.decode_watch import DecodeWatch

folder, decoder, how = sys.argv[1:]
watch = DecodeWatch(Path(folder), decoder, timeout_s=1.0)
with watch.at("train-1"):
    pass
if watch.given_up("train-7"):
    sys.exit(0)
with watch.at("train-7"):
    if how == "hang":
        ctypes.PyDLL(None).sleep(60)
    elif how == "segfault":
        ctypes.string_at(0)
    elif how == "killed":
        os.kill(os.getpid(), 9)
"""


# Fetches a video, then reads for the given time.
FETCHER = """
import sys, time
from pathlib import Path
from w3ray.data.decode_watch import DecodeWatch
from w3ray.data.decoders._common import open_source

folder, uri, reads_s = sys.argv[1:]
with DecodeWatch(Path(folder), "a", timeout_s=1.0).at("train-7"):
    content = open_source(uri).getvalue()
    time.sleep(float(reads_s))
print(len(content))
"""


def ends(folder, how, decoders=("a",)):
    """How often decoders ended at the clip, in turns, before it was given up."""
    for count in range(10):
        decoder = decoders[count % len(decoders)]
        done = subprocess.run([sys.executable, "-c", DECODER, str(folder), decoder, how], capture_output=True)
        if done.returncode == 0:
            return count
    raise AssertionError("never given up")


@pytest.mark.parametrize(
    ("how", "times", "reason"),
    [
        ("hang", MAX_TIMEOUTS, "took longer than 1 s"),
        ("segfault", MAX_CRASHES, "process ended 3 times"),
        ("killed", MAX_CRASHES, "out of memory"),
    ],
)
def test_a_clip_that_ends_its_process_is_given_up(tmp_path, how, times, reason):
    assert ends(tmp_path, how) == times
    watch = DecodeWatch(tmp_path, "b", timeout_s=1.0)
    assert reason in watch.given_up("train-7")
    assert watch.given_up("train-1") is None, "a clip that was read did not cause the later end of the process"


def test_the_decoders_of_a_node_count_together(tmp_path):
    # A decoder that is not restarted leaves its last note unread. Here both are restarted.
    assert ends(tmp_path, "killed", decoders=("a", "b")) <= 2 * MAX_CRASHES


def test_an_exception_is_no_end(tmp_path):
    watch = DecodeWatch(tmp_path, "a", timeout_s=60.0)
    for _ in range(5):
        with pytest.raises(ValueError, match="damaged"), watch.at("train-7"):
            raise ValueError("damaged")
    assert DecodeWatch(tmp_path, "a", timeout_s=60.0).given_up("train-7") is None


@pytest.mark.parametrize(("reads_s", "code"), [(0.2, 0), (30.0, 1)])
def test_a_slow_storage_is_no_slow_clip(s3, tmp_path, reads_s, code):
    """Three seconds of fetching do not count. The time after that counts."""
    video = RemotePath("s3://bucket/slow.mp4")
    video.write_bytes(b"12345")
    s3.fail("slow.mp4", "slow", method="GET")
    done = subprocess.run(
        [sys.executable, "-c", FETCHER, str(tmp_path), str(video), str(reads_s)], capture_output=True, text=True
    )
    s3.heal()
    assert (done.returncode, done.stdout) == (code, "5\n" if code == 0 else ""), done.stderr
    assert DecodeWatch(tmp_path, "a", timeout_s=1.0)._notes("train-7").exists() == (code == 1)
