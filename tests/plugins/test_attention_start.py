"""An attention that names the value of its gates at the start is held to it."""

from dataclasses import dataclass

import pytest
import torch
from test_contract_faults import BadConfig, Good

from w3ray import testing
from w3ray.attention import ATTENTION, AttentionKind, AttentionOutput


class Gate(Good):
    """One gate for each channel; 2 sigmoid(0) = 1 at the start."""

    constant_start, factor = 1.0, 2.0

    def __init__(self, channels, config):
        super().__init__(channels, config)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    def gated(self, x_BTCHW):
        return self.factor * torch.sigmoid(super().gated(x_BTCHW)) * x_BTCHW


class Half(Gate):
    constant_start, factor = 0.5, 1.0


class TwoHalves(Half):
    def gated(self, x_BTCHW):
        return super().gated(super().gated(x_BTCHW))


class SaysTwo(Gate):
    constant_start = 2.0


class Depends(Good):
    constant_start = 1.0


@pytest.mark.parametrize("module", [Gate, Half, TwoHalves, Good])
def test_a_start_that_holds(module):
    ATTENTION.add("bad", AttentionKind(BadConfig, module))
    testing.check_attention("bad")


@pytest.mark.parametrize("module", [SaysTwo, Depends])
def test_a_start_that_does_not_hold(module):
    ATTENTION.add("bad", AttentionKind(BadConfig, module))
    with pytest.raises(
        testing.ContractBroken, match=rf"^constant_start={module.constant_start}: a fresh module does not"
    ):
        testing.check_attention("bad")


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskConfig(BadConfig):
    @property
    def has_spatial_mask(self) -> bool:
        return True


class OtherMask(Gate):
    has_spatial_mask = True

    def forward(self, x_BTCHW, identity_BTCHW=None):
        features, _ = super().forward(x_BTCHW, identity_BTCHW)
        return AttentionOutput(features, 0.5 * torch.ones_like(x_BTCHW[:, :, 0]))


def test_a_mask_that_starts_elsewhere():
    ATTENTION.add("bad", AttentionKind(MaskConfig, OtherMask))
    with pytest.raises(testing.ContractBroken, match=r"^constant_start=1.0: a fresh mask has other values"):
        testing.check_attention("bad")


@pytest.mark.parametrize("options", [{}, {"gain": "norm"}, {"channel": False}, {"start": "near_open"}])
def test_w3_keeps_its_start(options):
    testing.check_attention("w3", **options)
