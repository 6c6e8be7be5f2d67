"""Decoding on a GPU gives the requested frames. Skipped without a GPU; W3RAY_REQUIRE_CUDA=1 makes that a failure."""

import numpy as np
import pytest
from decoders_here import ON_GPU, needs_decoder
from videos import frame_numbers, write_video

from w3ray import testing
from w3ray.data.decoders import DecodeError, open_video
from w3ray.data.decoders.prove import prove_exact

pytestmark = needs_decoder(ON_GPU)


def test_contract():
    testing.check_decoder(ON_GPU)


def test_frames_come_back_to_the_host(tmp_path):
    with open_video(str(write_video(tmp_path / "clip.mp4", 60)), ON_GPU) as video:
        frames = video.frames([58, 3, 3, 40, 0])
        assert isinstance(frames, np.ndarray)
        assert frame_numbers(frames) == [58, 3, 3, 40, 0]
        assert video._reader.get_frames_at([0]).data.is_cuda, "the GPU made them"


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["numbered/closed.mp4", "odd/demo_arm_wrestling.mp4", "odd/rotation_90.mov"])
def test_real_files(real_data, name):
    """Rounding may differ from the CPU's, the frame may not."""
    path = str(real_data / name)
    with open_video(path, ON_GPU) as video:
        prove_exact(video, path, 0, min(64, video.info.num_frames))


@pytest.mark.real_data
def test_what_is_not_proven_is_refused(real_data):
    with pytest.raises(DecodeError, match="torchcodec_cuda is not proven right for this file, use the decoder pyav"):
        open_video(str(real_data / "numbered" / "mpeg4_bf.avi"), ON_GPU)
