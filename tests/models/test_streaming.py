"""A stream of frames gives the scores of the network on whole clips, and refuses networks that look ahead."""

import pytest
import torch
from torch import nn

from w3ray.models import build_model
from w3ray.models.heads import MeanHead
from w3ray.models.streaming import FrameStream

ONLINE = {"shift_mode": "online"}
CASES = [
    ("tsn", None, {}),
    ("tsm", None, ONLINE),
    ("tsm", {"kind": "cbam", "start": "plain"}, ONLINE),
    ("tsm", {"kind": "w3", "start": "plain", "temporal": False}, ONLINE),
    ("tsm", {"kind": "w3", "start": "plain", "causal": True}, ONLINE),
    ("tsm", {"kind": "w3", "start": "plain", "causal": True, "hidden": 2, "depthwise": False}, ONLINE),
    ("tsm", {"kind": "w3", "start": "plain", "causal": True, "channel_kernel": 5, "temporal_norm": "batch"}, ONLINE),
    ("tsm", {"kind": "w3", "start": "plain", "causal": True, "temporal_kernel": 1}, {**ONLINE, "shift_div": 4}),
]


def network(name, attention, options, backbone="resnet_small"):
    torch.manual_seed(0)
    model = build_model(name, backbone=backbone, num_classes=5, attention=attention, options=options).eval()
    nn.init.normal_(model.classifier.weight, 0.0, 0.3)
    return model


@pytest.mark.parametrize(("name", "attention", "options"), CASES)
def test_logits_are_those_of_the_clip(name, attention, options):
    model = network(name, attention, options)
    stream = FrameStream(model, 32)
    x_BTCHW = torch.randn(2, 7, 3, 32, 32)
    state, frames = stream.start(2), []
    with torch.no_grad():
        for frame in x_BTCHW.split(1, dim=1):
            logits_BK, state = stream(frame, state)
            frames.append(logits_BK)
        for count in (1, 2, 5, 7):
            expected_BK = model(x_BTCHW[:, :count]).logits_BK
            torch.testing.assert_close(torch.stack(frames[:count]).mean(0), expected_BK, rtol=0, atol=1e-5)
    assert float(torch.stack(frames).std(0).max()) > 1e-3, "frames have scores of their own"
    reads_past = name == "tsm"
    assert bool(state) == reads_past


def test_frames_may_come_in_chunks():
    model = network(*CASES[4])
    stream, x_BTCHW = FrameStream(model, 32), torch.randn(1, 6, 3, 32, 32)
    with torch.no_grad():
        first_BK, state = stream(x_BTCHW[:, :4], None)
        rest_BK, _ = stream(x_BTCHW[:, 4:], state)
        torch.testing.assert_close((4 * first_BK + 2 * rest_BK) / 6, model(x_BTCHW).logits_BK, rtol=0, atol=1e-5)


def test_streams_do_not_touch_the_model_or_each_other():
    model = network(*CASES[4])
    x_BTCHW = torch.randn(1, 3, 3, 32, 32)
    with torch.no_grad():
        before_BK = model(x_BTCHW).logits_BK
        one = FrameStream(model, 32)
        _, state = one(x_BTCHW[:, :1], None)
        again = [one(x_BTCHW[:, 1:2], state)[0] for _ in range(2)]
        assert torch.equal(*again), "the state is a value, which a call does not change"
        assert torch.equal(model(x_BTCHW).logits_BK, before_BK)


@pytest.mark.parametrize(
    ("name", "attention", "options", "said"),
    [
        ("tsm", None, {}, "TSM reads later frames; train with model.options.shift_mode=online"),
        ("tsm", {"kind": "w3"}, ONLINE, "W3 attention reads later frames; train with model.attention.causal=true"),
        ("tsm", {"kind": "nonlocal"}, ONLINE, "NonLocal attention reads later frames"),
        ("tam", None, {}, "TAM cannot be streamed: only TSN and TSM score each frame; use model: tsm"),
        ("r3d_18", None, {}, "ClipNetwork cannot be streamed: only TSN and TSM score each frame; use model: tsm"),
    ],
)
def test_errors(name, attention, options, said):
    model = network(name, attention, options, backbone=None if name == "r3d_18" else "resnet_small")
    with pytest.raises(ValueError, match=f"^{said}$"):
        FrameStream(model, 32)


def test_a_module_that_is_not_what_it_says_is_found():
    class Mixes(MeanHead):
        def forward(self, x_BTCHW):
            return super().forward(x_BTCHW * x_BTCHW.mean(dim=1, keepdim=True))

    model = network("tsm", None, ONLINE)
    model.classifier.__class__ = Mixes
    with pytest.raises(ValueError, match="its frames give other scores one by one than together"):
        FrameStream(model, 32)
