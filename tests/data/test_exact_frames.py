"""The contract of all decoders: the requested frame, in every codec, container and structure.

For each clip, a plain decode of the whole file (`numbered.truth`) gives the true frames. The default decoder must
return each of them by its index. Any other decoder must do the same or refuse the file with a reason. A wrong frame is
never allowed.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any
from zlib import crc32

import av
import numbered
import numpy as np
import pytest
from decoders_here import ON_CPU, decoder_param
from numbered import CODECS, CONTAINERS, Truth, truth
from numbered_structures import STRUCTURES, TURNS

from w3ray.data.decoders import DECODERS, DecodeError

EXACT = "pyav"
"""The decoder that must read all these files."""
MAX_PICTURE_DIFFERENCE = 6.0
"""Mean difference in gray levels from the picture of a whole decode. Neighbouring frames differ by 20 or more."""

BACK = {"clockwise": "counter_clockwise", "counter_clockwise": "clockwise"}
"""The inverse of each rotation; the others are their own inverse."""
MAX_ALONE = 32
"""Every index is requested alone, except in clips of 300 frames, which have a long GOP: there only some."""
RARE = ("mov", "3gp", "vob", "mxf", "wmv", "ogv")
"""Containers with the same reading code as another one, or rare ones: only in the slow tests."""

# Combinations that no encoder here writes, by container. `test_what_cannot_be_written` compares this with the muxers.
REFUSED_BY_THE_MUXER = {
    "mp4": (
        "vp8 vp8_altref wmv1 wmv2 msmpeg4v2 msmpeg4v3 flv1 h261 h263 h263p prores dnxhr huffyuv ffvhuff "
        "utvideo dv_pal dv_ntsc gif cinepak svq1 qtrle raw"
    ),
    "mov": (
        "vp8 vp8_altref vp9 vp9_altref av1 wmv1 wmv2 msmpeg4v2 flv1 h261 h263p ffv1 ffv1_inter huffyuv ffvhuff utvideo"
    ),
    "mkv": (
        "wmv1 wmv2 msmpeg4v2 flv1 h261 h263 h263p dnxhr huffyuv ffvhuff utvideo dv_pal dv_ntsc gif cinepak "
        "svq1 png qtrle"
    ),
    "avi": "hevc_default hevc_open hevc_closed hevc_10 vp8_altref prores dnxhr gif qtrle",
    "ts": "vp8_altref",
    "mpg": "vp8_altref",
    "vob": "vp8_altref",
    "webm": (
        "mpeg1 mpeg1_b mpeg2 mpeg2_b mpeg2_closed mpeg2_422 mpeg2_interlaced mpeg4 mpeg4_b h264_default "
        "h264_closed h264_open h264_refresh h264_no_b h264_intra h264_422_10 h264_interlaced hevc_default "
        "hevc_open hevc_closed hevc_10 wmv1 wmv2 msmpeg4v2 msmpeg4v3 flv1 h261 h263 h263p mjpeg prores dnxhr "
        "ffv1 ffv1_inter huffyuv ffvhuff utvideo dv_pal dv_ntsc gif jpeg2000 cinepak svq1 png qtrle raw"
    ),
    "flv": (
        "mpeg1 mpeg1_b mpeg2 mpeg2_b mpeg2_closed mpeg2_422 mpeg2_interlaced mpeg4 mpeg4_b vp8 vp8_altref "
        "wmv1 wmv2 msmpeg4v2 msmpeg4v3 h261 h263 h263p mjpeg prores dnxhr ffv1 ffv1_inter huffyuv ffvhuff "
        "utvideo dv_pal dv_ntsc gif jpeg2000 cinepak svq1 png qtrle raw"
    ),
    "3gp": (
        "mpeg1 mpeg1_b mpeg2 mpeg2_b mpeg2_closed mpeg2_422 mpeg2_interlaced hevc_default hevc_open "
        "hevc_closed hevc_10 vp8 vp8_altref vp9 vp9_altref av1 wmv1 wmv2 msmpeg4v2 msmpeg4v3 flv1 h261 h263p "
        "mjpeg prores dnxhr ffv1 ffv1_inter huffyuv ffvhuff utvideo dv_pal dv_ntsc gif jpeg2000 cinepak svq1 "
        "png qtrle raw"
    ),
    "mxf": (
        "mpeg1 mpeg1_b mpeg4 mpeg4_b h264_default hevc_default hevc_open hevc_closed hevc_10 vp8 vp8_altref "
        "vp9 vp9_altref av1 wmv1 wmv2 msmpeg4v2 msmpeg4v3 flv1 h261 h263 h263p mjpeg huffyuv ffvhuff utvideo "
        "gif cinepak svq1 png qtrle raw"
    ),
    "gif": (
        "mpeg1 mpeg1_b mpeg2 mpeg2_b mpeg2_closed mpeg2_422 mpeg2_interlaced mpeg4 mpeg4_b h264_default "
        "h264_closed h264_open h264_refresh h264_no_b h264_intra h264_422_10 h264_interlaced hevc_default "
        "hevc_open hevc_closed hevc_10 vp8 vp8_altref vp9 vp9_altref av1 wmv1 wmv2 msmpeg4v2 msmpeg4v3 flv1 "
        "h261 h263 h263p mjpeg prores dnxhr ffv1 ffv1_inter huffyuv ffvhuff utvideo dv_pal dv_ntsc jpeg2000 "
        "cinepak svq1 png qtrle raw"
    ),
    "wmv": "hevc_default hevc_open hevc_closed hevc_10 vp8_altref prores dnxhr gif qtrle",
    "ogv": (
        "mpeg1 mpeg1_b mpeg2 mpeg2_b mpeg2_closed mpeg2_422 mpeg2_interlaced mpeg4 mpeg4_b h264_default "
        "h264_closed h264_open h264_refresh h264_no_b h264_intra h264_422_10 h264_interlaced hevc_default "
        "hevc_open hevc_closed hevc_10 vp9 vp9_altref av1 wmv1 wmv2 msmpeg4v2 msmpeg4v3 flv1 h261 h263 h263p "
        "mjpeg prores dnxhr ffv1 ffv1_inter huffyuv ffvhuff utvideo dv_pal dv_ntsc gif jpeg2000 cinepak svq1 "
        "png qtrle raw"
    ),
}
READ_AS_NO_VIDEO = {
    "mov": "raw",
    "ts": (
        "vp8 vp9 vp9_altref av1 wmv1 wmv2 msmpeg4v2 msmpeg4v3 flv1 h261 h263 h263p mjpeg prores dnxhr ffv1 "
        "ffv1_inter huffyuv ffvhuff utvideo dv_pal dv_ntsc gif jpeg2000 cinepak svq1 png qtrle raw"
    ),
    "mpg": (
        "vp8 vp9 vp9_altref av1 wmv1 wmv2 msmpeg4v2 msmpeg4v3 flv1 h261 h263 h263p mjpeg prores dnxhr ffv1 "
        "ffv1_inter huffyuv ffvhuff utvideo dv_pal dv_ntsc gif jpeg2000 cinepak svq1 png qtrle raw"
    ),
    "vob": (
        "vp8 vp9 vp9_altref av1 wmv1 wmv2 msmpeg4v2 msmpeg4v3 flv1 h261 h263 h263p mjpeg prores dnxhr ffv1 "
        "ffv1_inter huffyuv ffvhuff utvideo dv_pal dv_ntsc gif jpeg2000 cinepak svq1 png qtrle raw"
    ),
}


@dataclass(frozen=True)
class Clip:
    path: Path
    truth: Truth
    rate: Fraction
    turn: str = "upright"
    holes: bool = False


def _with_decoders(names: Iterable[str], is_slow: Callable[[str], bool]) -> list[Any]:
    """Each name with each decoder. Except for the default decoder, only closed MP4 files are fast tests."""
    return [
        pytest.param(name, *param.values, marks=[*param.marks, *([pytest.mark.slow] if slow else [])])
        for name in names
        for param in map(decoder_param, ON_CPU)
        for slow in [is_slow(name) or (param.values[0] != EXACT and not name.endswith("closed.mp4"))]
    ]


def fate(codec: str, container: str, path: Path) -> str:
    """Whether the encoder's clip can be written to that container and read back."""
    try:
        numbered.write(path, CODECS[codec])
    except (ValueError, av.FFmpegError):
        return "refused"
    try:
        truth(path)
    except (AssertionError, AttributeError, av.FFmpegError):  # a data stream, a video of unknown size ...
        return "no video"
    return "read"


@pytest.mark.slow
def test_what_cannot_be_written(tmp_path):
    """The two tables above are correct. If a muxer learns a codec, the contract gets a new cell."""
    for container in CONTAINERS:
        left_out = dict.fromkeys(REFUSED_BY_THE_MUXER[container].split(), "refused")
        left_out |= dict.fromkeys(READ_AS_NO_VIDEO.get(container, "").split(), "no video")
        found = {codec: fate(codec, container, tmp_path / f"a.{container}") for codec in left_out}
        assert found == left_out, container


def _cells() -> list[str]:
    return [
        f"{codec}.{container}"
        for codec in CODECS
        for container in CONTAINERS
        if codec not in REFUSED_BY_THE_MUXER.get(container, "").split()
        and codec not in READ_AS_NO_VIDEO.get(container, "").split()
    ]


_made: dict[str, Clip] = {}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("numbered")


@pytest.mark.parametrize(("cell", "decoder"), _with_decoders(_cells(), lambda cell: cell.endswith(RARE)))
def test_codecs_and_containers(folder, cell, decoder):
    if cell not in _made:
        codec = CODECS[cell.split(".")[0]]
        path = numbered.write(folder / cell, codec)
        _made[cell] = Clip(path, truth(path, codec.rate), codec.rate)
        assert _made[cell].truth.numbers == list(range(codec.frames))
    check(_made[cell], decoder)


@pytest.mark.parametrize(("name", "decoder"), _with_decoders(STRUCTURES, lambda name: False))
def test_structures(folder, name, decoder):
    if name not in _made:
        structure = STRUCTURES[name]
        path = structure.make(folder / name)
        clip = Clip(path, truth(path, structure.rate), structure.rate, structure.turn, structure.holes)
        assert structure.shows is None or clip.truth.numbers == structure.shows
        _made[name] = clip
    check(_made[name], decoder)


def check(clip: Clip, decoder: str) -> None:
    """The contract for one clip and one decoder."""
    refusal = None
    try:
        with DECODERS[decoder](str(clip.path)) as video:
            check_video(video, clip)
        check_alone(clip, decoder)
    except DecodeError as error:
        refusal = error.reason
    assert refusal is None or decoder != EXACT, f"a healthy file is refused: {refusal}"
    assert refusal is None or (refusal and "\n" not in refusal)


def check_video(video, clip: Clip) -> None:
    count = len(clip.truth.numbers)
    random = np.random.default_rng(crc32(clip.path.name.encode()))
    assert video.info.num_frames == count
    check_times(video, clip, random)
    for index in random.permutation(count)[: MAX_ALONE if count < 100 else 10]:
        check_pictures(video, clip, [int(index)])
    check_pictures(video, clip, np.arange(count))
    check_pictures(video, clip, random.permutation(count))
    check_pictures(video, clip, random.integers(0, count, 9))  # sparse, some of them twice


def check_alone(clip: Clip, decoder: str) -> None:
    """Single frames as the first request to a newly opened video."""
    random = np.random.default_rng(crc32(clip.path.name.encode()))
    for index in {len(clip.truth.numbers) - 1, *random.integers(0, len(clip.truth.numbers), 3).tolist()}:
        with DECODERS[decoder](str(clip.path)) as video:
            check_pictures(video, clip, [index])


def check_pictures(video, clip: Clip, indices) -> None:
    frames = video.frames(indices)
    turn = TURNS[clip.turn]
    assert frames.dtype == np.uint8
    assert frames.shape == (len(indices), *turn(np.empty(clip.truth.size)).shape, 3)
    back = TURNS[BACK.get(clip.turn, clip.turn)]
    as_coded = [back(frame) for frame in frames]
    assert numbered.numbers(as_coded) == [clip.truth.numbers[index] for index in indices]
    for index, frame in zip(indices, as_coded, strict=True):
        difference = numbered.thumbnail(frame).astype(int) - clip.truth.thumbnails[index]
        assert np.abs(difference).mean() < MAX_PICTURE_DIFFERENCE, f"frame {index} is damaged or rotated"


def check_times(video, clip: Clip, random: np.random.Generator) -> None:
    truth, count = clip.truth, len(clip.truth.numbers)
    times_s = video.times_s(np.arange(count))
    assert times_s[0] == 0
    assert (np.diff(times_s) > 0).all()
    if truth.counted and not clip.holes:
        np.testing.assert_allclose(times_s, truth.times_s, atol=1.01 / float(clip.rate), rtol=0.02)
    elif not truth.counted:
        np.testing.assert_allclose(times_s, truth.times_s, atol=1e-3)
        times_s = truth.times_s
    assert video.frame_span(None, None) == (0, count)
    for _ in range(8):
        first, last = sorted(random.integers(0, count, 2).tolist())
        if first < last:
            assert video.frame_span(times_s[first], times_s[last]) == (first, last)
        # Between two frames, so that the rounding of ticks does not matter.
        start_s, end_s = (times_s[first] + times_s[max(0, first - 1)]) / 2, (times_s[last] + times_s[last - 1]) / 2
        if 0 < first < last:
            assert video.frame_span(start_s, end_s) == (first, last)
            assert video.frame_span(start_s, None) == (first, count)
            assert video.frame_span(None, end_s) == (0, last)


OTHERS = """
    mpeg_default.mpg h264_default.ts h264_default.avi mpeg4_bf.avi hevc_default300.mp4 h264_opengop.mp4 vp8_altref.webm
    vp9_alpha.webm closed.mp4 vfr_gaps.avi h264_cutstart.ts mpeg2_cutstart.mpg last_gop.mpg editlist_cut.mp4
    mat_hflip.mp4 mat_transpose.mp4
"""


@pytest.mark.real_data
@pytest.mark.parametrize("name", OTHERS.split())
def test_numbered_files_of_others(real_data, name):
    """Files of the same kind from the ffmpeg program. One has no numbers, so its pictures are compared."""
    path = real_data / "numbered" / name
    turn = TURNS[name.split(".")[0].removeprefix("mat_") if name.startswith("mat_") else "upright"]
    with av.open(str(path)) as container:
        shown = [turn(frame.to_ndarray(format="rgb24")) for frame in container.decode(container.streams.best("video"))]
    thumbnails = np.stack([numbered.thumbnail(frame) for frame in shown]).astype(int)
    with DECODERS[EXACT](str(path)) as video:
        assert video.info.num_frames == len(shown)
        assert (np.diff(video.times_s(np.arange(len(shown)))) > 0).all()
        order = np.random.default_rng(crc32(name.encode())).permutation(len(shown))
        for indices in [*order[:MAX_ALONE, None], order, np.arange(len(shown))]:
            frames = np.stack([numbered.thumbnail(frame) for frame in video.frames(indices)])
            assert np.abs(frames - thumbnails[indices]).mean(axis=(1, 2, 3)).max() < 1
