"""`w3ray.stream`: the scores of frames as they come are those of the network on the clip."""

import numpy as np
import pytest
import torch
from torch import nn
from videos import write_video

import w3ray
from w3ray.data.crop import centre_crop_box, crop_and_resize
from w3ray.data.decoders import open_video
from w3ray.errors import InputError
from w3ray.evaluation.normalize import normalize_clips
from w3ray.models import build_model
from w3ray.models.bundle import ModelDescription, load_model, write_model

FRAMES = 4


def written(folder, *, options=None, attention=None, **clip):
    torch.manual_seed(0)
    arguments = {
        "name": "tsm", "backbone": "resnet_small", "options": {"shift_mode": "online"} if options is None else options,
        "num_classes": 3, "attention": attention,
    }  # fmt: skip
    network = build_model(**arguments)
    nn.init.normal_(network.classifier.weight, 0.0, 0.3)
    description = ModelDescription(
        model=arguments, clip={"num_frames": FRAMES, "size": 32, **clip}, classes=("a", "b", "c"),
        mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6),
    )  # fmt: skip
    write_model(folder, network, description)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return written(tmp_path_factory.mktemp("online") / "model", attention={"kind": "w3", "causal": True})


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return str(write_video(tmp_path_factory.mktemp("live") / "clip.mp4", 12))


def logits_of(model, video, count):
    """The network's logits of the first frames, as one clip."""
    network, description = load_model(model)
    with open_video(video) as opened:
        frames = opened.frames(range(count))
    clips = torch.from_numpy(crop_and_resize(frames, centre_crop_box(*frames.shape[1:3], 32 / 37), 32))[None]
    with torch.inference_mode():
        return network(normalize_clips(clips, mean=description.mean, std=description.std)).logits_BK[0].double()


def test_scores_are_those_of_the_clip(model, video):
    moments = list(w3ray.stream(model).watch(video))
    assert [one.number for one in moments] == list(range(12))
    assert [one.time_s for one in moments] == pytest.approx([number / 25 for number in range(12)])
    for count in (1, FRAMES):
        scores = logits_of(model, video, count).softmax(0)
        assert list(moments[count - 1].scores.values()) == pytest.approx(scores.tolist(), abs=1e-5)
    # Later, the mean over the last frames, each of which remembers all frames before it.
    sums = [count * logits_of(model, video, count) for count in (7, 11)]
    expected = ((sums[1] - sums[0]) / FRAMES).softmax(0)
    assert list(moments[10].scores.values()) == pytest.approx(expected.tolist(), abs=1e-5)
    assert moments[10].top[0] == max(moments[10].scores.items(), key=lambda pair: pair[1])
    assert moments[0].frame_scores == moments[0].scores
    assert moments[5].frame_scores != moments[5].scores


def test_frames_can_be_given_one_by_one(model, video):
    stream = w3ray.stream(model, top=1)
    with open_video(video) as opened:
        frames = opened.frames(range(6))
    given = [stream(frame) for frame in frames]
    watched = list(w3ray.stream(model).watch(video))[:6]
    assert [one.scores for one in given] == [one.scores for one in watched]
    assert [len(one.top) for one in given] == [1] * 6
    stream.reset()
    assert stream(frames[0]).scores == given[0].scores
    assert stream.classes == ("a", "b", "c")


def test_dense_sampling_takes_frames_as_far_apart_as_in_training(tmp_path, video):
    dense = written(tmp_path / "model", sampling="dense", stride_frames=5)
    times = [one.time_s for one in w3ray.stream(dense).watch(video)]
    assert times == pytest.approx([0, 0.2, 0.4])
    assert [one.time_s for one in w3ray.stream(dense).watch(video, every_s=0.24)] == pytest.approx([0, 0.24])


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (np.zeros((4, 4)), "a frame must be uint8 [height, width, 3], RGB, not float64 [4, 4]"),
        (np.zeros((4, 4, 4), np.uint8), "not uint8 [4, 4, 4]"),
        (np.zeros((0, 4, 3), np.uint8), "not uint8 [0, 4, 3]"),
    ],
)
def test_what_is_no_frame_is_refused(model, frame, said):
    with pytest.raises(InputError) as caught:
        w3ray.stream(model)(frame)
    assert said in str(caught.value)


def test_models_that_cannot_be_streamed(tmp_path):
    with pytest.raises(InputError, match=r"TSM reads later frames; train with model\.options\.shift_mode=online"):
        w3ray.stream(written(tmp_path / "both", options={}))
    with pytest.raises(InputError, match="top must be a whole number"):
        w3ray.stream(tmp_path / "both", top=0)
    with pytest.raises(InputError, match="no model here"):
        w3ray.stream(tmp_path)
    with pytest.raises(InputError, match="camera 73: there is no /dev/video73"):
        list(w3ray.stream(written(tmp_path / "online")).watch(73))
