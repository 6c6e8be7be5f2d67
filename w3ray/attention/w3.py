"""What is What-Where-When attention? (Perez-Rua et al., arXiv:2004.01278, Eq. 1-6)

    F^c = M^c * F,  F^s = M^s * F^c                                                       (Eq. 2)
    M^c-frm = sigmoid(MLP(avg_HW F) + MLP(max_HW F))          one MLP C -> C/r -> C       (Eq. 3)
    M^c     = sigmoid(conv1d(relu(conv1d(M^c-frm))))          over T                      (Eq. 4)
    M^s-frm = sigmoid(conv7x7([avg_C F^c, max_C F^c]))        per frame                   (Eq. 5)
    M^s     = sigmoid(conv3d(relu(conv3d(M^s-frm))))          over T, H, W                (Eq. 6)

The paper leaves open, and we decided: the two temporal convolutions have a ReLU and no norm between them; Eq. 4 is
depthwise ('per-channel', a knob); Eq. 6 has one hidden channel (a knob); r = 16; all layers have a bias; borders are
zero-padded; the gates start near identity (a knob), since fresh sigmoids would scale each branch by about 0.25.

Axes: B clips, T frames, C channels, H height, W width, K a kernel.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from w3ray.attention._common import AttentionOutput
from w3ray.attention.gating import apply_gate, mean_max
from w3ray.attention.options import Placement, W3Config

IDENTITY_BIAS = 3.0
"""Bias of the last gate at the start: sigmoid(3) = 0.953."""
SMALL = 0.1
"""Factor on the usual initial weights of the layers whose start is near identity."""


class ChannelTemporalAttention(nn.Module):
    """M^c (Eq. 3-4): which channel matters when."""

    def __init__(self, channels: int, config: W3Config) -> None:
        super().__init__()
        hidden = max(1, channels // config.reduction)
        self.reduce = nn.Linear(channels, hidden)
        self.expand = nn.Linear(hidden, channels)
        self.temporal = config.temporal
        if config.temporal:
            groups = channels if config.depthwise else 1
            kernel = config.channel_kernel
            self.time1 = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=groups)
            self.time2 = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=groups)
        if config.identity_start:
            self._start_near_identity()

    def _start_near_identity(self) -> None:
        if self.temporal:
            _start_as_copy(self.time1)
            _start_open(self.time2)
        else:
            # Eq. 3 applies the layer to both pooled vectors and adds: half the bias each.
            _start_open(self.expand, bias=IDENTITY_BIAS / 2)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """[B, T, C, H, W] -> gate [B, T, C] in (0, 1)."""
        pooled_2BTC = torch.stack(mean_max(x_BTCHW, (3, 4))).squeeze((4, 5))
        frame_BTC = self.expand(torch.relu(self.reduce(pooled_2BTC))).sum(dim=0).sigmoid()
        if not self.temporal:
            return frame_BTC
        gate_BCT = self.time2(torch.relu(self.time1(frame_BTC.transpose(1, 2)))).sigmoid()
        return gate_BCT.transpose(1, 2)


class FrameWindowConv(nn.Conv2d):
    """A 3D convolution with a cubic kernel and zero borders, as a 2D one over windows of K frames.

    The same numbers as `nn.Conv3d`, whose backward pass is slow on a CPU for so few channels, and whose
    five-dimensional weight makes `model.to(memory_format=torch.channels_last)` fail. The weight is
    [out, in * K, K, K], a view of Conv3d's [out, in, K, K, K].
    """

    def __init__(self, num_in: int, num_out: int, kernel: int) -> None:
        super().__init__(num_in * kernel, num_out, kernel, padding=kernel // 2)

    def forward(self, x_BTMHW: Tensor) -> Tensor:
        """[B, T, in, H, W] -> [B, T, out, H, W]."""
        kernel, num_frames = self.kernel_size[0], x_BTMHW.shape[1]
        padded = F.pad(x_BTMHW, (0, 0, 0, 0, 0, 0, kernel // 2, kernel // 2))
        window_BTMKHW = torch.stack([padded[:, k : k + num_frames] for k in range(kernel)], dim=3)
        out_NMHW = super().forward(window_BTMKHW.flatten(2, 3).flatten(0, 1))
        return out_NMHW.unflatten(0, x_BTMHW.shape[:2])


class SpatioTemporalAttention(nn.Module):
    """M^s (Eq. 5-6): where to look when."""

    def __init__(self, config: W3Config) -> None:
        super().__init__()
        self.frame = nn.Conv2d(2, 1, config.spatial_kernel, padding=config.spatial_kernel // 2)
        self.temporal = config.temporal
        if config.temporal:
            kernel = config.temporal_kernel
            self.time1 = FrameWindowConv(1, config.hidden, kernel)
            self.time2 = FrameWindowConv(config.hidden, 1, kernel)
        if config.identity_start:
            self._start_near_identity()

    def _start_near_identity(self) -> None:
        if self.temporal:
            _start_as_copy(self.time1)
            _start_open(self.time2)
        else:
            _start_open(self.frame)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """[B, T, C, H, W] -> mask [B, T, H, W] in (0, 1)."""
        pooled_BT2HW = torch.cat(mean_max(x_BTCHW, (2,)), dim=2)
        frame_BT1HW = self.frame(pooled_BT2HW.flatten(0, 1)).sigmoid().unflatten(0, pooled_BT2HW.shape[:2])
        if not self.temporal:
            return frame_BT1HW.squeeze(2)
        return self.time2(torch.relu(self.time1(frame_BT1HW))).sigmoid().squeeze(2)


class W3(nn.Module):
    """What-Where-When attention on features of any T, H and W (Eq. 1-2).

    Args:
        channels: C of the features.
        options: fields of `W3Config`.

    Raises:
        ValueError: an option is unknown or out of range; the text names it.
    """

    def __init__(self, channels: int, **options: Any) -> None:
        super().__init__()
        self.config = W3Config.from_options(options)
        self.channel = ChannelTemporalAttention(channels, self.config) if self.config.channel else None
        self.spatial = SpatioTemporalAttention(self.config) if self.config.spatial else None

    @property
    def placement(self) -> Placement:
        """Where in the residual block the attention works."""
        return self.config.placement

    @property
    def has_spatial_mask(self) -> bool:
        """Whether there is an M^s, which AFR (Eq. 7) needs."""
        return self.config.spatial

    def forward(self, x_BTCHW: Tensor, identity_BTCHW: Tensor | None = None) -> AttentionOutput:
        """Attend, then add the shortcut where it is given. Shapes: see `w3ray.attention._common`."""
        mask_BTHW = None
        if self.channel is not None:
            gate_BTC11 = self.channel(x_BTCHW).to(x_BTCHW.dtype)[..., None, None]
            x_BTCHW = apply_gate(x_BTCHW, gate_BTC11, identity_BTCHW if self.spatial is None else None)
        if self.spatial is not None:
            mask_BTHW = self.spatial(x_BTCHW).to(x_BTCHW.dtype)
            x_BTCHW = apply_gate(x_BTCHW, mask_BTHW.unsqueeze(2), identity_BTCHW)
        return AttentionOutput(x_BTCHW, mask_BTHW)


@torch.no_grad()
def _start_as_copy(layer: nn.Conv1d | FrameWindowConv) -> None:
    """Let a temporal layer start as a copy of its (positive) input, so that no unit starts behind a dead ReLU."""
    layer.weight.mul_(SMALL)
    assert layer.bias is not None
    layer.bias.zero_()
    kernel = layer.kernel_size[0]
    num_taps = kernel if isinstance(layer, nn.Conv1d) else kernel**3
    taps = layer.weight.view(layer.out_channels, -1, num_taps)
    output = torch.arange(layer.out_channels, device=layer.weight.device)
    # Depthwise weights hold one input each; a hidden width above one repeats the single input.
    taps[output, output % taps.shape[1], num_taps // 2] += 1.0  # kernels are odd: the middle tap is the centre


@torch.no_grad()
def _start_open(layer: nn.Linear | nn.Conv1d | nn.Conv2d, bias: float = IDENTITY_BIAS) -> None:
    """Let a gate's last layer start nearly open, with small weights."""
    layer.weight.mul_(SMALL)
    assert layer.bias is not None
    layer.bias.fill_(bias)
