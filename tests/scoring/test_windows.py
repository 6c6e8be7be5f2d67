"""Windows over a video: where they lie, which frames they hold, and that each frame is read and kept only once."""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from odd_files import FILES
from videos import frame_numbers, numbered_image, write_frames, write_video

from w3ray.data.clip import ClipSpec
from w3ray.data.decoders import DecodeError, open_video
from w3ray.data.decoders.in_order import Pixels, frames_in_order
from w3ray.data.decoders.pyav import PyavVideo
from w3ray.data.views import parse_protocol, read_views
from w3ray.errors import InputError
from w3ray.scoring import windows
from w3ray.scoring.ahead import ahead
from w3ray.scoring.windows import plan_windows, window_clips, window_starts

CENTRE = parse_protocol("1clip-center")
SPECS = {
    "segment": ClipSpec(num_frames=4, size=32),
    "dense": ClipSpec(num_frames=4, size=32, sampling="dense", stride_frames=3),
}


class Counting(PyavVideo):
    """Notes each frame that is decoded, in order."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.decoded: list[int] = []

    def in_order(self, ascending: Sequence[int] | np.ndarray) -> Iterator[Pixels]:
        for pixels in super().in_order(ascending):
            self.decoded += frame_numbers(pixels()[None])
            yield pixels

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        raise AssertionError("a second way to read frames")


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """Ten seconds at 25 frames per second."""
    return write_video(tmp_path_factory.mktemp("windows") / "long.mp4", 250)


@pytest.mark.parametrize(
    ("duration_s", "window_s", "stride_s", "expected"),
    [
        (10.0, 2.0, 2.0, [0, 2, 4, 6, 8]),
        (10.3, 2.0, 2.0, [0, 2, 4, 6, 8, 8.3]),  # the last window ends with the video
        (10.0, 2.0, 1.5, [0, 1.5, 3, 4.5, 6, 7.5, 8]),
        (2.0, 2.0, 0.5, [0]),
        (1.9996, 2.0, 0.5, [0]),  # times in ticks of a millisecond
        (2.04, 2.0, 2.0, [0, 0.04]),
        (0.3, 0.1, 0.1, [0, 0.1, 0.2]),  # 0.3 - 0.1 is less than 0.2
    ],
)
def test_where_windows_begin(duration_s, window_s, stride_s, expected):
    assert window_starts(duration_s, window_s, stride_s).tolist() == pytest.approx(expected)


def test_a_window_longer_than_the_video_is_refused():
    with pytest.raises(InputError, match=r"--window 3: longer than the video, which has 2.00 s"):
        window_starts(2.0, 3.0, 1.0)


@pytest.mark.parametrize("sampling", SPECS)
@pytest.mark.parametrize("protocol", ["1clip-center", "10crop-2clip", "2clip-full-res"])
def test_clips_are_those_of_their_spans_and_each_frame_is_decoded_once(video, sampling, protocol):
    spec, looks = SPECS[sampling], parse_protocol(protocol)
    with Counting(str(video)) as counting:
        plan = plan_windows(counting, spec, looks, window_s=1.1, stride_s=0.3)
        batches = list(window_clips(counting, plan, spec, looks, together=3))
    assert counting.decoded == plan.wanted.tolist()  # the numbers that the pixels show, each once
    clips = np.concatenate(batches)
    assert len(clips) == len(plan.starts_s_W) == 31
    assert {len(batch) for batch in batches[:-1]} == {3}
    for start_s, clip_VTSSC in zip(plan.starts_s_W.tolist(), clips, strict=True):
        views = read_views(str(video), spec=spec, protocol=looks, start_s=start_s, end_s=start_s + 1.1)
        assert np.array_equal(clip_VTSSC, np.stack([view.frames_TSSC for view in views])), start_s


@pytest.mark.parametrize(("window_s", "stride_s"), [(2.0, 0.5), (1.0, 0.04), (2.0, 2.0)])
def test_no_more_frames_are_kept_than_a_window_spans(video, monkeypatch, window_s, stride_s):
    spans = []

    def counted(kept, frames_CT):
        spans.append(max(kept) - min(kept) + 1)
        return views(kept, frames_CT)

    views = windows._views
    monkeypatch.setattr(windows, "_views", counted)
    spec = SPECS["segment"]
    with Counting(str(video)) as counting:
        plan = plan_windows(counting, spec, CENTRE, window_s=window_s, stride_s=stride_s)
        done = sum(map(len, window_clips(counting, plan, spec, CENTRE, together=8)))
    assert done == len(plan.starts_s_W)
    assert 0.5 * window_s * 25 < max(spans) <= window_s * 25


def test_the_reader_is_only_a_few_frames_ahead(video):
    spec = SPECS["segment"]
    with Counting(str(video)) as counting:
        plan = plan_windows(counting, spec, CENTRE, window_s=1.0, stride_s=0.04)
        clips = window_clips(counting, plan, spec, CENTRE, together=1)
        next(clips)
        decoded = 0
        while decoded < len(counting.decoded):  # until the thread waits
            decoded = len(counting.decoded)
            time.sleep(0.2)
        before = threading.active_count()
        clips.close()
        assert threading.active_count() == before - 2  # both threads end with their reader
    assert len(plan.wanted) > 200
    assert len(counting.decoded) < 25 + 32 + 4 + 5


def test_a_window_without_a_frame_is_left_out(tmp_path):
    """A still is shown for eight seconds. No frame begins there, and a clip of a manifest there cannot be read."""
    path, tick = tmp_path / "still.mkv", Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        stream.codec_context.time_base = tick
        for number in range(100):
            frame = av.VideoFrame.from_ndarray(numbered_image(number), format="rgb24").reformat(format="bgr0")
            frame.pts, frame.time_base = number * 40 + (8000 if number >= 50 else 0), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    spec = SPECS["segment"]
    with open_video(str(path)) as opened:
        plan = plan_windows(opened, spec, CENTRE, window_s=2.0, stride_s=1.0)
        empty = plan.starts_s_W[~plan.has_frames_W]
        assert empty.tolist() == [2, 3, 4, 5, 6, 7, 8]
        assert sum(map(len, window_clips(opened, plan, spec, CENTRE, together=8))) == plan.has_frames_W.sum()
        for start_s in empty.tolist():
            with pytest.raises(DecodeError, match="no frame between"):
                opened.frame_span(start_s, start_s + 2.0)


@pytest.mark.parametrize(
    ("window_s", "stride_s", "message"),
    [
        (0.05, 0.05, r"--window 0.05: shorter than two frames of the video \(0.08 s\)"),
        (1.0, 0.01, r"--stride 0.01: shorter than one frame of the video \(0.04 s\)"),
        (11.0, 1.0, r"--window 11: longer than the video"),
    ],
)
def test_windows_that_do_not_fit_the_video(video, window_s, stride_s, message):
    with open_video(str(video)) as opened, pytest.raises(InputError, match=message):
        plan_windows(opened, SPECS["segment"], CENTRE, window_s=window_s, stride_s=stride_s)


@pytest.mark.parametrize("indices", [[0], [249], [3, 4, 5, 200, 201, 249], list(range(250)), list(range(0, 250, 7))])
def test_frames_in_order(video, indices):
    with open_video(str(video)) as opened:
        found = np.stack(list(frames_in_order(opened, indices)))
        assert frame_numbers(found) == indices
        assert np.array_equal(found, opened.frames(indices))


@pytest.mark.real_data
@pytest.mark.parametrize("name", [name for name, file in FILES.items() if file.refusal("pyav") is None])
def test_frames_in_order_of_odd_files(real_data, name):
    """Rotated, with variable rate, 10 bits, two streams: as `frames` gives them, and as torch takes them."""
    with open_video(str(real_data / "odd" / name)) as opened:
        some = list(range(min(opened.info.num_frames, 40)))
        found = list(frames_in_order(opened, some))
        assert np.array_equal(np.stack(found), opened.frames(some))
    assert all(image.flags.c_contiguous for image in found)


def test_frames_in_order_of_a_folder(tmp_path):
    """A decoder without a pass of its own is asked for a few frames at a time."""
    with open_video(str(write_frames(tmp_path / "frames", 30))) as opened:
        assert frame_numbers(np.stack(list(frames_in_order(opened, list(range(3, 30)))))) == list(range(3, 30))
        with pytest.raises(ValueError, match="must ascend"):
            next(frames_in_order(opened, [3, 3]))
        with pytest.raises(IndexError):
            next(frames_in_order(opened, [3, 30]))


@pytest.mark.parametrize("lost", [0, 100, 249])
def test_an_index_that_promises_a_frame_that_does_not_come(video, lost):
    """As if made from wrong headers. Frames that already came stay; the others are counted."""
    with PyavVideo(str(video)) as opened:
        index = opened._index
        order_N = index.order_N.copy()
        order_N[lost] = len(index.start_U)  # no packet has such a picture
        start_U, skippable_U = (np.append(mark_U, False) for mark_U in (index.start_U, index.skippable_U))
        opened._index = replace(index, order_N=order_N, start_U=start_U, skippable_U=skippable_U)
        found = frames_in_order(opened, list(range(250)))
        assert frame_numbers(np.stack(list(found))) == list(range(250))


def test_frames_that_came_in_a_wrong_order_are_not_kept(video):
    with PyavVideo(str(video)) as opened:
        index = opened._index
        order_N = index.order_N.copy()
        order_N[[5, 6]] = order_N[[6, 5]]
        order_N[100] = len(index.start_U)
        start_U, skippable_U = (np.append(mark_U, False) for mark_U in (index.start_U, index.skippable_U))
        opened._index = replace(index, order_N=order_N, start_U=start_U, skippable_U=skippable_U)
        with pytest.raises(DecodeError, match="another order"):
            list(frames_in_order(opened, list(range(250))))


def test_an_error_of_the_other_thread_comes_in_its_turn():
    def items():
        yield 1
        yield 2
        raise DecodeError("x.mp4", "damaged")

    with ahead(items(), 8) as ready:
        assert [next(ready), next(ready)] == [1, 2]
        with pytest.raises(DecodeError, match="damaged"):
            next(ready)
