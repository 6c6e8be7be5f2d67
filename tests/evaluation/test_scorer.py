"""Scores of several views: the average, mirror images, and equality with the model's own scores."""

import numpy as np
import pytest
import torch
from torch import nn

from w3ray.evaluation.normalize import IMAGENET_MEAN, IMAGENET_STD, normalize_clips
from w3ray.evaluation.scorer import VIEWS_AT_ONCE, Scorer
from w3ray.models import build_model
from w3ray.models.bundle import ModelDescription

CLASSES = ("left", "right", "up")


class Says(nn.Module):
    """A model whose class scores are the red pixels of the clip's first row, so that a test can choose them."""

    def forward(self, x_BTCHW):
        class Out:
            logits_BK = x_BTCHW[:, 0, 0, 0, :3]

        return Out


def description(mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255)) -> ModelDescription:
    return ModelDescription(model={}, clip={}, classes=CLASSES, mean=mean, std=std)


def clips(*views) -> np.ndarray:
    """One clip whose views give these logits."""
    found = np.zeros((1, len(views), 1, 4, 4, 3), np.uint8)
    for number, logits in enumerate(views):
        found[0, number, 0, 0, :3, 0] = logits
    return found


def softmax(values) -> np.ndarray:
    return np.exp(values) / np.exp(values).sum()


def test_scores_have_one_vote_each_and_logits_do_not():
    views = clips((9, 0, 0), (0, 2, 0))
    each = np.mean([softmax([9, 0, 0]), softmax([0, 2, 0])], axis=0)
    for average, expected in (("scores", each), ("logits", softmax([4.5, 1, 0]))):
        scores = Scorer(Says(), description(), mirrored_V=(False, False), average=average)(views)
        assert scores == pytest.approx(expected[None], abs=1e-6)
        assert scores.dtype == np.float32


def test_a_mirrored_view_votes_for_the_mirror_image_of_its_class():
    views = clips((3, 0, 0), (0, 3, 1))
    scorer = Scorer(Says(), description(), mirrored_V=(False, True), average="logits", flip_map={0: 1, 1: 0})
    assert scorer(views) == pytest.approx(softmax([3, 0, 0.5])[None], abs=1e-6)
    plain = Scorer(Says(), description(), mirrored_V=(False, True), average="logits")
    assert plain(views) == pytest.approx(softmax([1.5, 1.5, 0.5])[None], abs=1e-6)


def test_scores_are_the_models_own_for_any_number_of_clips():
    torch.manual_seed(0)
    model = build_model("tsm", backbone="resnet_small", num_classes=3, attention={"kind": "w3"}).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (VIEWS_AT_ONCE, 2, 2, 32, 32, 3), dtype=np.uint8)
    scorer = Scorer(model, description(IMAGENET_MEAN, IMAGENET_STD), mirrored_V=(False, False))
    scores = scorer(pixels)
    with torch.no_grad():
        alone = [
            model(normalize_clips(torch.from_numpy(clip))).logits_BK.double().softmax(-1).mean(0).numpy()
            for clip in pixels
        ]
    assert scores == pytest.approx(np.stack(alone), abs=1e-5)
    assert scores.sum(1) == pytest.approx(np.ones(len(pixels)), abs=1e-5)


def test_another_number_of_views_is_refused():
    with pytest.raises(ValueError, match="clips have 1 views, expected 2"):
        Scorer(Says(), description(), mirrored_V=(False, False))(clips((1, 0, 0)))
