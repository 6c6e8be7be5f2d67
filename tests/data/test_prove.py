"""`data check --exact`: frames read by number are compared with a decode of the whole video."""

import numpy as np
import pytest
from decoders_here import each_decoder, needs_decoder
from videos import write_frames, write_video

from w3ray.data.audit import check_clips, reason_counts
from w3ray.data.clip import ClipSpec
from w3ray.data.decoders import DEFAULT_DECODER, DecodeError, open_video
from w3ray.data.decoders.prove import prove_exact
from w3ray.data.decoders.pyav import PyavVideo
from w3ray.data.manifest import build_manifest
from w3ray.recipe import Data


class OneLate(PyavVideo):
    """A reader that is one frame late from frame 40 on, like decord after a wrong seek."""

    def frames(self, indices):
        late = np.asarray(indices)
        return super().frames(np.where(late < 40, late, late - 1))


class OneMore(PyavVideo):
    """A reader that counts one frame that is not shown."""

    @property
    def info(self):
        info = super().info
        return type(info)(
            **{name: getattr(info, name) for name in info.__slots__} | {"num_frames": info.num_frames + 1}
        )


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", 70))


def test_exact(clip, tmp_path):
    with open_video(clip) as video:
        prove_exact(video, clip, 0, 70)
        prove_exact(video, clip, 33, 41)
    folder = str(write_frames(tmp_path / "frames", 5))
    with open_video(folder) as video:
        prove_exact(video, folder, 0, 5)


def test_frames_that_are_others_are_named(clip):
    with OneLate(clip) as video:
        prove_exact(video, clip, 0, 40)
        with pytest.raises(DecodeError) as caught:
            prove_exact(video, clip, 35, 70)
    assert caught.value.reason == "not exact: 30 of 35 frames differ from a whole decode: 40, 41, 42, 43, 44"


def test_a_wrong_count_is_named(clip):
    with OneMore(clip) as video, pytest.raises(DecodeError) as caught:
        prove_exact(video, clip, 0, 70)
    assert caught.value.reason == "not exact: a whole decode shows 70 frames, not 71"


@pytest.mark.real_data
@each_decoder
def test_rounding_of_another_library_is_no_other_frame(real_data, decoder):
    """Each FFmpeg converts 10-bit video to slightly different 8 bits. A frame that is one late is still found."""
    path = str(real_data / "odd" / "h264_10bit.mp4")
    with open_video(path, decoder) as video:
        prove_exact(video, path, 0, 30)
        right = video.frames
        video.frames = lambda indices: right(np.maximum(np.asarray(indices) - 1, 0))
        with pytest.raises(DecodeError, match="not exact: 29 of 30 frames differ"):
            prove_exact(video, path, 0, 30)


@pytest.fixture(scope="module")
def numbered(real_data):
    """Files whose frames carry their own numbers."""
    names = ["mpeg_default.mpg", "mpeg4_bf.avi", "editlist_cut.mp4", "vp8_altref.webm", "closed.mp4"]
    paths = [str(real_data / "numbered" / name) for name in names]
    columns = {"clip_id": names, "uri": paths, "label": [0] * 5, "split": ["train"] * 5}
    return build_manifest(columns, ["a"])


@pytest.mark.ray
@pytest.mark.real_data
@pytest.mark.usefixtures("ray_session")
def test_a_data_set_is_proven(numbered):
    assert check_clips(numbered, exact=True)["num_frames"].to_pylist() == [300, 90, 92, 300, 90]


@pytest.mark.ray
@pytest.mark.real_data
@pytest.mark.usefixtures("ray_session")
@needs_decoder("decord")
def test_decord_refuses_what_it_would_get_wrong(numbered):
    refused = check_clips(numbered, "decord", exact=True)
    assert refused["ok"].to_pylist() == [False, False, False, False, True]
    assert reason_counts(refused) == {"decord is not proven right for this file, use the decoder pyav": 4}


def test_one_default():
    assert DEFAULT_DECODER == ClipSpec().decoder == Data.model_fields["decoder"].default == "pyav"
