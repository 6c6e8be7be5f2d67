"""Clips: exact frames, deterministic in the generator, reversed, parts of a video, mirrored labels."""

import pickle

import numpy as np
import pytest
from decoders_here import HERE, each_decoder

from w3ray.data.clip import ClipSpec, load_clip
from w3ray.data.decoders import DecodeError
from w3ray.data.synthetic import write_video
from w3ray.errors import InputError

NUM_FRAMES, FPS, HEIGHT, WIDTH = 30, 10, 48, 64


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Frame t has the grey level 8 t and a white right half: the grey level gives the frame, the halves the side."""
    frames_THWC = np.zeros((NUM_FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    frames_THWC += (8 * np.arange(NUM_FRAMES, dtype=np.uint8))[:, None, None, None]
    frames_THWC[:, :, WIDTH // 2 :] = 255
    path = tmp_path_factory.mktemp("video") / "ramp.mp4"
    write_video(path, frames_THWC, FPS, quantiser=4, gop_frames=12)
    return str(path)


def frame_numbers(clip_TSSC, column=1):
    return np.round(clip_TSSC[:, :, column].mean(axis=(1, 2)) / 8).astype(int).tolist()


def load(uri, rng=None, **options):
    fields = {name: options.pop(name) for name in list(options) if name in ClipSpec.__dataclass_fields__}
    return load_clip(uri, label=3, spec=ClipSpec(size=32, **fields), rng=rng, **options)


@each_decoder
def test_evaluation(video, decoder):
    clip_TSSC, label = load(video, num_frames=5, decoder=decoder)
    assert clip_TSSC.shape == (5, 32, 32, 3)
    assert clip_TSSC.dtype == np.uint8
    assert label == 3
    assert frame_numbers(clip_TSSC) == [3, 9, 15, 21, 27]
    # The centre crop of 42 from 48 pixels has the border between the halves in its middle.
    assert (clip_TSSC[:, :, 17:] > 245).all()
    assert (clip_TSSC[:, :, :14] < 245).all()


@each_decoder
@pytest.mark.parametrize("sampling", ["segment", "dense"])
def test_pure_in_the_generator(video, decoder, sampling):
    def draw(seed):
        return load(video, np.random.default_rng(seed), sampling=sampling, decoder=decoder)[0].tobytes()

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(6)}) == 6


def test_decoders_agree(video):
    clips = [load(video, np.random.default_rng(4), decoder=decoder)[0].astype(int) for decoder in HERE]
    for clip in clips[1:]:
        assert np.abs(clip - clips[0]).max() <= 2


def test_reversed_turns_the_same_frames_round(video):
    for seed in (None, 0, 1):
        forwards, backwards = (
            load(video, None if seed is None else np.random.default_rng(seed), reversed=reversed)[0]
            for reversed in (False, True)
        )
        np.testing.assert_array_equal(backwards, forwards[::-1])
        assert not np.array_equal(backwards, forwards)


def test_part_of_a_video(video):
    assert frame_numbers(load(video, num_frames=4, start_s=1.0, end_s=1.4)[0]) == [10, 11, 12, 13]
    rng, part = np.random.default_rng(0), {"num_frames": 2, "scales": (1.0,), "start_s": 2.0, "end_s": 2.5}
    numbers = [n for _ in range(30) for n in frame_numbers(load(video, rng, **part)[0], 0)]
    assert set(numbers) == {20, 21, 22, 23, 24}


def test_more_frames_than_the_video_has(video):
    numbers = frame_numbers(load(video, num_frames=6, start_s=0.5, end_s=0.8)[0])
    assert numbers == [5, 5, 6, 6, 7, 7]


def test_mirror_changes_pixels_and_label(video):
    seen = set()
    for seed in range(20):
        clip_TSSC, label = load(video, np.random.default_rng(seed), flip=True, flip_map={3: 7}, scales=(1.0,))
        is_mirrored = bool(clip_TSSC[:, :, 1].mean() > 245)
        assert label == (7 if is_mirrored else 3)
        seen.add(is_mirrored)
    assert seen == {False, True}


def test_mirror_keeps_labels_outside_the_map(video):
    labels = {load(video, np.random.default_rng(seed), flip=True, flip_map={0: 1})[1] for seed in range(10)}
    assert labels == {3}


@pytest.mark.parametrize("flip_map", [None, {}])
def test_mirror_needs_a_map(video, flip_map):
    with pytest.raises(InputError, match="flip map"):
        load(video, np.random.default_rng(0), flip=True, flip_map=flip_map)
    # Evaluation never mirrors, so it needs no map.
    load(video, None, flip=True, flip_map=flip_map)


@each_decoder
@pytest.mark.parametrize("window", [(9.0, None), (None, 0.0), (1.2, 1.2), (2.0, 1.0)])
def test_empty_part_is_a_decode_error(video, decoder, window):
    with pytest.raises(DecodeError) as caught:
        load(video, decoder=decoder, start_s=window[0], end_s=window[1])
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@each_decoder
@pytest.mark.parametrize("content", [b"", b"not a video at all" * 20])
def test_unreadable_is_a_decode_error(tmp_path, decoder, content):
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    with pytest.raises(DecodeError, match=r"broken\.mp4"):
        load(str(path), decoder=decoder)


@pytest.mark.parametrize(
    "field",
    [
        {"num_frames": 0},
        {"stride_frames": 0},
        {"size": 0},
        {"short_side": 31},
        {"sampling": "every"},
        {"decoder": "none"},
        {"scales": ()},
        {"scales": (2.0,)},
    ],
)
def test_errors_name_the_field(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        ClipSpec(**{"size": 32, **field})


def test_spec_is_a_plain_value():
    spec = ClipSpec(size=32, scales=[1.0, 0.875])
    assert spec == ClipSpec(size=32, scales=(1.0, 0.875))
    assert hash(spec) == hash(pickle.loads(pickle.dumps(spec)))
    assert ClipSpec().resolved_short_side == 256
    assert ClipSpec(size=48).resolved_short_side == 55


@each_decoder
def test_real_clip(real_data, decoder):
    """An AVI with packed B-frames: the default decoder reads it, the others refuse it with a reason."""
    uri = str(next(iter(sorted((real_data / "ut-interaction").rglob("*.avi")))))
    if decoder != "pyav":
        with pytest.raises(DecodeError, match=f"{decoder} is not proven right for this file, use the decoder pyav"):
            load(uri, np.random.default_rng(0), decoder=decoder)
        return
    clip, _ = load(uri, np.random.default_rng(0))
    assert clip.shape == (8, 32, 32, 3)
    assert clip.std() > 10
