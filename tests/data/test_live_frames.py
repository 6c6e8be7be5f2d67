"""Live frames: files with exact frames, a stream over the network, and sources that are not there or fall silent."""

import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from patience import PATIENCE_S, wait_until
from videos import write_video

from w3ray.data.decoders import open_video
from w3ray.data.live_frames import LiveFrames
from w3ray.errors import InputError, RunError

FPS = 25


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return str(write_video(tmp_path_factory.mktemp("live") / "clip.mp4", 30))


def port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


SENDER = """
import sys
import av
import numpy as np

url, num_frames, pause_after = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with av.open(f"{url}?listen=1", "w", format="mpegts") as container:
    stream = container.add_stream("mpeg2video", rate=25)
    stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 2_000_000
    stream.codec_context.gop_size = 1
    for number in range(num_frames):
        if number == pause_after:
            sys.stdin.readline()
        image = np.full((48, 64, 3), 8 * (number % 32), np.uint8)
        for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
            container.mux(packet)
    for packet in stream.encode(None):
        container.mux(packet)
"""


class Sender:
    """A process that sends MPEG-TS over TCP: frame i is grey with the level 8 i. It waits before `pause_after`.

    Not a thread: FFmpeg waits for its reader while it holds the interpreter.
    """

    def __init__(self, num_frames, *, pause_after=-1):
        self.url = f"tcp://127.0.0.1:{port()}"
        self._process = subprocess.Popen(
            [sys.executable, "-c", SENDER, self.url, str(num_frames), str(pause_after)], stdin=subprocess.PIPE
        )

    def __enter__(self):
        return self

    def go_on(self):
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def __exit__(self, *error):
        self._process.kill()
        self._process.communicate()


def opened(sender, **options):
    """The sender needs a moment until it listens."""
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            return LiveFrames(sender.url, timeout_s=PATIENCE_S, **options)
        except InputError:
            if time.monotonic() > give_up_at:
                raise


def levels(frames):
    return [round(float(frame.frame_HWC.mean()) / 8) for frame in frames]


class TestFile:
    def test_frames_are_those_of_the_decoder(self, video):
        with LiveFrames(video) as frames:
            found = list(frames)
        with open_video(video) as exact:
            assert np.array_equal(np.stack([one.frame_HWC for one in found]), exact.frames(range(30)))
        assert [one.time_s for one in found] == pytest.approx([number / FPS for number in range(30)])
        assert {one.skipped for one in found} == {0}

    def test_every(self, video):
        with LiveFrames(video, every=7) as frames:
            assert [one.time_s for one in frames] == pytest.approx([0, 0.28, 0.56, 0.84, 1.12])
        with LiveFrames(video, every_s=0.25) as frames:  # 25 frames a second have none at 0.25, 0.5 s ...
            assert [one.time_s for one in frames] == pytest.approx([0, 0.28, 0.52, 0.76, 1.0])

    def test_closed_early_it_ends_its_thread(self, video):
        with LiveFrames(video) as frames:
            next(iter(frames))
        wait_until(lambda: all(thread.name != "live-frames" for thread in threading.enumerate()))


class TestNetwork:
    def test_all_frames_if_it_waits(self):
        with Sender(20) as sender, opened(sender, live=False) as frames:
            found = list(frames)
        assert levels(found) == list(range(20))
        assert [one.time_s for one in found] == pytest.approx([number / FPS for number in range(20)], abs=1e-4)

    def test_a_slow_reader_gets_the_newest_frame(self):
        with Sender(200, pause_after=100) as sender, opened(sender) as frames:
            each = iter(frames)
            found = [next(each)]
            sender.go_on()
            wait_until(lambda: frames._state != 0)  # all frames came while the first one was scored
            found += list(each)
        assert levels(found)[-1] == 199 % 32
        assert len(found) == 2
        assert sum(one.skipped for one in found) == 198

    def test_a_source_that_falls_silent_is_an_error(self):
        with Sender(200, pause_after=100) as sender, opened(sender) as frames:
            frames._timeout_s = 0.5
            with pytest.raises(RunError, match=r"^tcp://127.0.0.1:\d+: no frame for 0.5 s$"):
                list(frames)


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        ("absent.mp4", {}, "absent.mp4: cannot be read"),
        (73, {}, "camera 73: there is no /dev/video73"),
        (-1, {}, "-1 is no camera; cameras are 0, 1, ..."),
        (True, {}, "True is no camera"),
        ("rtsp://user:secret@127.0.0.1:1/live", {"timeout_s": 2}, "rtsp://***@127.0.0.1:1/live: cannot be opened"),
        ("nonsense://a", {}, "nonsense://a: cannot be opened"),
        ("absent.mp4", {"every_s": 0}, "every_s must be above 0, not 0"),
        ("absent.mp4", {"timeout_s": -1}, "timeout_s must be above 0, not -1"),
    ],
)
def test_errors(source, options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"^[^\n]+$") as caught:
        LiveFrames(source, **options)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_without_pictures(tmp_path):
    (tmp_path / "text.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match=r"text.mp4: cannot be read"):
        LiveFrames(tmp_path / "text.mp4")
