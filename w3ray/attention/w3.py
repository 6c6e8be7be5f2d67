"""What-Where-When attention (Perez-Rua et al., arXiv:2004.01278, Eq. 1-6).

    F^c = M^c * F,  F^s = M^s * F^c                                                       (Eq. 2)
    M^c-frm = sigmoid(MLP(avg_HW F) + MLP(max_HW F))          one MLP C -> C/r -> C       (Eq. 3)
    M^c     = sigmoid(conv1d(relu(conv1d(M^c-frm))))          over T                      (Eq. 4)
    M^s-frm = sigmoid(conv7x7([avg_C F^c, max_C F^c]))        per frame                   (Eq. 5)
    M^s     = sigmoid(conv3d(relu(conv3d(M^s-frm))))          over T, H, W                (Eq. 6)

The paper leaves some points open. We decided: the two temporal convolutions have a ReLU and no norm between them;
Eq. 4 is depthwise ('per-channel'; an option); Eq. 6 has one hidden channel (an option); r = 16; all layers have a
bias; borders are zero-padded (an option).

How gates start is an option too (`Start`), because two fresh sigmoids scale each branch by about 0.25. The default gate
is 2 sigmoid(z) with z = 0 at the start: a fresh network computes the same as the network without W3. These are still
Eq. 2-6, for features F that the norm before them makes twice as large for each gate. With `gain: norm` the factor 2 is
in that norm.

Axes: B clips, T frames, C channels, H height, W width, K a kernel.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from w3ray.attention._common import AttentionOutput, Past, with_zeros
from w3ray.attention.gating import apply_gate, mean_max
from w3ray.attention.options import Borders, Placement, Start, W3Config

IDENTITY_BIAS = 3.0
"""Bias of the last gate at the start "near_open": sigmoid(3) = 0.953."""
GATE_SCALE = "gate_scale"
"""State name of the buffer that marks gates of 2 sigmoid(z)."""
SMALL = 0.1
"""Factor on torch's initial weights, for layers that start near a constant."""


class ChannelTemporalAttention(nn.Module):
    """M^c (Eq. 3-4): which channel matters when."""

    def __init__(self, channels: int, config: W3Config) -> None:
        super().__init__()
        hidden = max(1, channels // config.reduction)
        self.reduce = nn.Linear(channels, hidden)
        self.expand = nn.Linear(hidden, channels)
        self.temporal = config.temporal
        self.scale = gate_scale(config)
        if config.temporal:
            kernel = config.channel_kernel
            kind, padding = (PastConv1d, 0) if config.causal else (nn.Conv1d, kernel // 2)
            self.time1, self.time2 = (
                kind(
                    channels,
                    channels,
                    kernel,
                    padding=padding,
                    padding_mode=config.borders,
                    groups=channels if config.depthwise else 1,
                )
                for _ in range(2)
            )
            self.time_norm = nn.BatchNorm1d(channels) if config.temporal_norm == "batch" else None
            _start_as_copy(self.time1, config.start)
            _start_gate(self.time2, config.start)
        else:
            # Eq. 3 applies the layer to both pooled vectors and adds the results, so each gets half the bias.
            _start_gate(self.expand, config.start, bias=IDENTITY_BIAS / 2)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """[B, T, C, H, W] -> gate [B, T, C] in (0, scale)."""
        pooled_2BTC = torch.stack(mean_max(x_BTCHW, (3, 4))).squeeze((4, 5))
        z_BTC = self.expand(torch.relu(self.reduce(pooled_2BTC))).sum(dim=0)
        if not self.temporal:
            return _gate(z_BTC, self.scale)
        hidden_BCT = self.time1(z_BTC.sigmoid().transpose(1, 2))
        if self.time_norm is not None:
            hidden_BCT = self.time_norm(hidden_BCT)
        return _gate(self.time2(torch.relu(hidden_BCT)), self.scale).transpose(1, 2)


class PastConv1d(nn.Conv1d):
    """A 1D convolution over each frame and the K - 1 frames before it (`causal`)."""

    past: Past = staticmethod(with_zeros)

    def forward(self, x_BCT: Tensor) -> Tensor:
        """[B, C, T] -> the same shape."""
        return super().forward(self.past(x_BCT, self.kernel_size[0] - 1, 2))


class FrameWindowConv(nn.Conv2d):
    """A size-preserving 3D convolution with a cubic kernel, computed as a 2D convolution over windows of K frames.

    It computes the same as `nn.Conv3d`. Conv3d is not used for two reasons: its backward pass is slow on a CPU for so
    few channels, and its five-dimensional weight makes `model.to(memory_format=torch.channels_last)` fail. The weight
    here is [out, in * K, K, K], a view of Conv3d's [out, in, K, K, K].

    With `causal`, a window holds a frame and the K - 1 frames before it.
    """

    past: Past = staticmethod(with_zeros)

    def __init__(
        self, num_in: int, num_out: int, kernel: int, borders: Borders = "zeros", *, causal: bool = False
    ) -> None:
        super().__init__(num_in * kernel, num_out, kernel, padding=kernel // 2, padding_mode=borders)
        self.causal = causal

    def forward(self, x_BTMHW: Tensor) -> Tensor:
        """[B, T, in, H, W] -> [B, T, out, H, W]."""
        kernel, num_frames = self.kernel_size[0], x_BTMHW.shape[1]
        if self.causal:
            padded = self.past(x_BTMHW, kernel - 1, 1)
        elif self.padding_mode == "zeros":
            padded = F.pad(x_BTMHW, (0, 0, 0, 0, 0, 0, kernel // 2, kernel // 2))
        else:
            first, last = x_BTMHW[:, :1], x_BTMHW[:, -1:]
            padded = torch.cat([*[first] * (kernel // 2), x_BTMHW, *[last] * (kernel // 2)], dim=1)
        window_BTMKHW = torch.stack([padded[:, k : k + num_frames] for k in range(kernel)], dim=3)
        out_NMHW = super().forward(window_BTMKHW.flatten(2, 3).flatten(0, 1))
        return out_NMHW.unflatten(0, x_BTMHW.shape[:2])


class SpatioTemporalAttention(nn.Module):
    """M^s (Eq. 5-6): where to look when."""

    def __init__(self, config: W3Config) -> None:
        super().__init__()
        kernel = config.spatial_kernel
        self.frame = nn.Conv2d(2, 1, kernel, padding=kernel // 2, padding_mode=config.borders)
        self.temporal = config.temporal
        self.scale = gate_scale(config)
        if config.temporal:
            kernel, causal = config.temporal_kernel, config.causal
            self.time1 = FrameWindowConv(1, config.hidden, kernel, config.borders, causal=causal)
            self.time2 = FrameWindowConv(config.hidden, 1, kernel, config.borders, causal=causal)
            self.time_norm = nn.BatchNorm2d(config.hidden) if config.temporal_norm == "batch" else None
            _start_as_copy(self.time1, config.start)
            _start_gate(self.time2, config.start)
        else:
            _start_gate(self.frame, config.start)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """[B, T, C, H, W] -> mask [B, T, H, W] in (0, scale)."""
        pooled_BT2HW = torch.cat(mean_max(x_BTCHW, (2,)), dim=2)
        z_BT1HW = self.frame(pooled_BT2HW.flatten(0, 1)).unflatten(0, pooled_BT2HW.shape[:2])
        if not self.temporal:
            return _gate(z_BT1HW, self.scale).squeeze(2)
        hidden_BTMHW = self.time1(z_BT1HW.sigmoid())
        if self.time_norm is not None:
            hidden_BTMHW = self.time_norm(hidden_BTMHW.flatten(0, 1)).unflatten(0, pooled_BT2HW.shape[:2])
        return _gate(self.time2(torch.relu(hidden_BTMHW)), self.scale).squeeze(2)


class W3(nn.Module):
    """What-Where-When attention on features of any T, H and W (Eq. 1-2).

    Args:
        channels: C of the features.
        config: the options.
    """

    def __init__(self, channels: int, config: W3Config | None = None) -> None:
        super().__init__()
        self.config = W3Config() if config is None else config
        self.channel = ChannelTemporalAttention(channels, self.config) if self.config.channel else None
        self.spatial = SpatioTemporalAttention(self.config) if self.config.spatial else None
        if self.gate_max == 2.0:
            # Marks gates of 2 sigmoid(z) in a file of weights: all other names are the same as for sigmoid(z).
            self.register_buffer(GATE_SCALE, torch.tensor(2.0))

    @property
    def gate_max(self) -> float:
        """Upper bound of the gates: 2 if a gate is 2 sigmoid(z), else 1."""
        return gate_scale(self.config)

    @property
    def gate_start(self) -> float:
        """The value of the gates at the start, exact or approximate."""
        if self.config.start == "near_open":
            return 1 / (1 + math.exp(-IDENTITY_BIAS))
        return 0.5 * self.gate_max

    @property
    def constant_start(self) -> float | None:
        """The exact value of every gate at the start. None: the gates depend on the features."""
        return self.gate_start if self.config.start == "unit" else None

    @property
    def norm_gain(self) -> float:
        """Factor for the norm before the module, so that a fresh network computes the same as one without W3."""
        return 2.0 ** ((self.channel is not None) + (self.spatial is not None)) if self.config.gain == "norm" else 1.0

    @property
    def placement(self) -> Placement:
        """Where in the residual block the attention works."""
        return self.config.placement

    @property
    def has_spatial_mask(self) -> bool:
        """Whether there is an M^s. AFR (Eq. 7) needs it."""
        return self.config.spatial

    def forward(self, x_BTCHW: Tensor, identity_BTCHW: Tensor | None = None) -> AttentionOutput:
        """Attend, then add the shortcut if given. Shapes: see `w3ray.attention._common`."""
        mask_BTHW = None
        if self.channel is not None:
            gate_BTC11 = self.channel(x_BTCHW).to(x_BTCHW.dtype)[..., None, None]
            x_BTCHW = apply_gate(x_BTCHW, gate_BTC11, identity_BTCHW if self.spatial is None else None)
        if self.spatial is not None:
            mask_BTHW = self.spatial(x_BTCHW).to(x_BTCHW.dtype)
            x_BTCHW = apply_gate(x_BTCHW, mask_BTHW.unsqueeze(2), identity_BTCHW)
        return AttentionOutput(x_BTCHW, mask_BTHW)


def gate_scale(config: W3Config) -> float:
    """Factor on a gate's sigmoid."""
    return 2.0 if config.start == "unit" and config.gain == "gate" else 1.0


def _gate(z: Tensor, scale: float) -> Tensor:
    return z.sigmoid() if scale == 1.0 else z.sigmoid() * scale


@torch.no_grad()
def _start_as_copy(layer: nn.Conv1d | FrameWindowConv, start: Start) -> None:
    """Start a temporal layer as a copy of its input. The input is positive, so no ReLU after the layer starts dead."""
    if start == "plain":
        return
    layer.weight.mul_(SMALL)
    assert layer.bias is not None
    layer.bias.zero_()
    kernel = layer.kernel_size[0]
    causal = isinstance(layer, PastConv1d) or (isinstance(layer, FrameWindowConv) and layer.causal)
    now, places = kernel - 1 if causal else kernel // 2, 1 if isinstance(layer, nn.Conv1d) else kernel**2
    taps = layer.weight.view(layer.out_channels, -1, kernel * places)
    output = torch.arange(layer.out_channels, device=layer.weight.device)
    # Depthwise weights hold one input each; a hidden width above one repeats the single input. Kernels are odd.
    taps[output, output % taps.shape[1], now * places + places // 2] += 1.0


@torch.no_grad()
def _start_gate(layer: nn.Linear | nn.Conv1d | nn.Conv2d, start: Start, bias: float = IDENTITY_BIAS) -> None:
    """Start a gate's last layer at z = 0 ("unit"), or near `bias` with small weights ("near_open")."""
    if start == "plain":
        return
    assert layer.bias is not None
    if start == "unit":
        layer.weight.zero_()
        layer.bias.zero_()
    else:
        layer.weight.mul_(SMALL)
        layer.bias.fill_(bias)
