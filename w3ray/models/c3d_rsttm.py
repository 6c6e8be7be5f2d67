"""C3D + LSTM + RSTTM: C3D with a recurrent spatiotemporal transformer, and an LSTM over windows of the clip.

Cao et al., Egocentric Gesture Recognition Using Recurrent 3D Convolutional Neural Networks with Spatiotemporal
Transformer Modules, ICCV 2017. The paper's text was not at hand. From memory: C3D reads successive windows up to fc6,
an LSTM of 256 units reads the windows, and inside C3D a transformer moves the maps:

    h_n     = tanh(localisation(U_n) + recurrent(h_{n-1}))                      n: window; h_0 = 0
    theta_n = identity + linear(h_n)                                            4 x 4, its last element is 1
    (x, y, t, w) = theta_n (x', y', t', 1)                                      a homography of each output place
    out_n(x', y', t') = U_n at (x, y, t) / w                                    trilinear; zero outside

These are OUR decisions, because the text does not fix them or was not at hand: the transformer stands behind pool2;
the localisation is a 3x3x3 convolution of 32 channels, a mean pool to 4 x 7 x 7 and a linear layer of 64; the layer
before theta starts at zero, so a fresh transformer is the identity; windows have 16 frames and start every 8 frames, so
a clip of 40 frames has 4 windows; the scores of the LSTM's steps are averaged. So our figures are not the paper's.

An attention works in each window for itself. A clip's masks are joined: where windows overlap, the mean counts.

Axes: B clips, T frames, C channels, H height, W width, N = B*n windows, n windows of a clip, P places, F features,
K classes.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from w3ray.attention.sites import Stages
from w3ray.models._common import VideoModel, VideoOutput
from w3ray.models.c3d import C3D_LAYOUT, FULLY_CONNECTED, C3DBackbone, FullyConnected
from w3ray.models.clip_options import STRIDE, WINDOW, C3DRSTTMOptions
from w3ray.models.heads import check_head
from w3ray.models.layouts import UNUSED
from w3ray.models.pixels import CAFFE

LOCAL_CHANNELS = 32
"""Channels of the localisation's convolution."""
LOCAL_PLACES = (4, 7, 7)
"""Places in time, height and width to which its map is pooled."""
LOCAL_HIDDEN = 64
"""Width of the recurrent hidden layer."""
LEAST_DIVISOR = 1e-3
"""A smaller w of the homography is replaced by this: its place would lie far outside the map."""


class SpatiotemporalTransformer(nn.Module):
    """Moves the maps of each window by a homography of space and time that depends on the windows so far.

    Args:
        channels: C of the maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, LOCAL_CHANNELS, 3, padding=1)
        places = LOCAL_PLACES[0] * LOCAL_PLACES[1] * LOCAL_PLACES[2]
        self.hidden = nn.Linear(LOCAL_CHANNELS * places, LOCAL_HIDDEN)
        self.recurrent = nn.Linear(LOCAL_HIDDEN, LOCAL_HIDDEN, bias=False)
        self.theta = nn.Linear(LOCAL_HIDDEN, 15)
        nn.init.zeros_(self.theta.weight)
        nn.init.zeros_(self.theta.bias)

    def forward(self, x_NCTHW: Tensor, num_windows: int) -> Tensor:
        """[N, C, T, H, W], a clip's windows one after the other -> the same shape, moved."""
        return _moved(x_NCTHW, self.homographies(x_NCTHW, num_windows))

    def homographies(self, x_NCTHW: Tensor, num_windows: int) -> Tensor:
        """theta of each window, [N, 4, 4]."""
        local_NCTHW = F.adaptive_avg_pool3d(torch.relu(self.conv(x_NCTHW)), LOCAL_PLACES)
        inputs_BnF = self.hidden(local_NCTHW.flatten(1)).unflatten(0, (-1, num_windows))
        state_BF = torch.zeros_like(inputs_BnF[:, 0])
        states = []
        for window in range(num_windows):
            state_BF = torch.tanh(inputs_BnF[:, window] + self.recurrent(state_BF))
            states.append(state_BF)
        change_N15 = self.theta(torch.stack(states, dim=1).flatten(0, 1))
        # Half precision has too few digits for coordinates.
        change_N15 = change_N15.to(torch.promote_types(change_N15.dtype, torch.float32))
        identity = torch.eye(4, device=x_NCTHW.device, dtype=change_N15.dtype)
        return identity + F.pad(change_N15, (0, 1)).unflatten(1, (4, 4))


def _moved(x_NCTHW: Tensor, theta_N44: Tensor) -> Tensor:
    """Sample the maps at the places that the homographies give. Coordinates run from -1 to 1, (x, y, t)."""
    axes = [torch.linspace(-1, 1, size, device=x_NCTHW.device, dtype=theta_N44.dtype) for size in x_NCTHW.shape[2:]]
    t_THW, y_THW, x_THW = torch.meshgrid(*axes, indexing="ij")
    out_P4 = torch.stack([x_THW, y_THW, t_THW, torch.ones_like(x_THW)], dim=-1).flatten(0, 2)
    # Not a matrix product, which autocast would compute in half precision.
    in_NP4 = (out_P4.unsqueeze(1) * theta_N44.unsqueeze(1)).sum(dim=-1)
    divisor_NP1 = in_NP4[..., 3:]
    divisor_NP1 = torch.where(divisor_NP1.abs() < LEAST_DIVISOR, LEAST_DIVISOR, divisor_NP1)
    grid_NTHW3 = (in_NP4[..., :3] / divisor_NP1).unflatten(1, x_NCTHW.shape[2:])
    wide_NCTHW = F.grid_sample(x_NCTHW.to(grid_NTHW3.dtype), grid_NTHW3, padding_mode="zeros", align_corners=True)
    return wide_NCTHW.to(x_NCTHW.dtype)


class WindowLSTMHead(nn.Module):
    """C3D's fc6 for each window, an LSTM over the windows, and a linear layer at each step.

    Args:
        options: widths and size of the network.
        num_classes: K.
        dropout: behind fc6 and before the last linear layer.
    """

    def __init__(self, options: C3DRSTTMOptions, num_classes: int, dropout: float) -> None:
        super().__init__()
        check_head(num_classes, dropout)
        self.dropout = nn.Dropout(dropout)
        self.window = FullyConnected(options)
        self.lstm = nn.LSTM(FULLY_CONNECTED * options.width, options.units, batch_first=True)
        self.last = nn.Linear(options.units, num_classes)
        nn.init.normal_(self.last.weight, 0.0, 0.001)
        nn.init.zeros_(self.last.bias)

    def forward(self, features_BTCHW: Tensor) -> Tensor:
        """[B, 2 n, C, H, W], the last maps of all windows -> [B, K]."""
        of_windows_NTCHW = features_BTCHW.unflatten(1, (-1, 2)).flatten(0, 1)
        x_BnF = self.dropout(self.window(of_windows_NTCHW)).unflatten(0, (-1, features_BTCHW.shape[1] // 2))
        states_BnF, _ = self.lstm(x_BnF)
        return self.last(self.dropout(states_BnF)).mean(dim=1)

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        """Weight and bias of the last linear layer."""
        return self.last.parameters()


class C3DRSTTM(VideoModel):
    """C3D over windows of a clip, with a transformer behind pool2, and an LSTM over the windows.

    Args:
        options: widths, and size of the frames.
        num_classes: K.
        dropout: behind fc6 and before the last linear layer.
    """

    pixels = CAFFE

    def __init__(self, options: C3DRSTTMOptions | None = None, *, num_classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.options = C3DRSTTMOptions() if options is None else options
        self.backbone = C3DBackbone(self.options.width)
        self.num_features = 8 * self.options.width
        behind_pool2 = self.stages()[2][0]
        behind_pool2.temporal = SpatiotemporalTransformer(behind_pool2.in_channels)
        self.classifier = WindowLSTMHead(self.options, num_classes, dropout)
        self.layouts = (C3D_LAYOUT._replace(rename=_rename),)

    def stages(self) -> Stages:
        return self.backbone.stages()

    def check_clips(self, x_BTCHW: Tensor) -> None:
        super().check_clips(x_BTCHW)
        for size in x_BTCHW.shape[3:]:
            self.options.check_clip(x_BTCHW.shape[1], size)

    def forward(self, x_BTCHW: Tensor) -> VideoOutput:
        """[B, T, 3, S, S] (normalised) -> logits [B, K] and features [B, 2 n, C, S / 16, S / 16]."""
        self.check_clips(x_BTCHW)
        starts = range(0, x_BTCHW.shape[1] - WINDOW + 1, STRIDE)
        windows_NTCHW = torch.stack([x_BTCHW[:, start : start + WINDOW] for start in starts], dim=1).flatten(0, 1)
        x_NCTHW, masks = self.run_stages(windows_NTCHW.transpose(1, 2), len(starts))
        x_NTCHW = x_NCTHW.transpose(1, 2)
        if self.refinement is not None:
            x_NTCHW = self.refinement(x_NTCHW, masks)
        features_BTCHW = x_NTCHW.unflatten(0, (-1, len(starts))).flatten(1, 2)
        return VideoOutput(self.classifier(features_BTCHW), (features_BTCHW,))

    def whole_clip(self, parts: Tensor) -> Tensor:
        """Join windows [n, T', ...] of one clip: the mean where they overlap."""
        num_windows, time = parts.shape[:2]
        stride = time * STRIDE // WINDOW
        total = parts.new_zeros(stride * (num_windows - 1) + time, *parts.shape[2:])
        counts = parts.new_zeros(len(total), *[1] * (parts.dim() - 2))
        for window, part in enumerate(parts):
            covered = slice(window * stride, window * stride + time)
            total[covered] += part
            counts[covered] += 1
        return total / counts


def _rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """C3D's files: fc6 belongs to the windows, fc7 and the classifier have no place here."""
    renamed = {}
    for key, value in C3D_LAYOUT.rename(state).items():
        if key.startswith("classifier.fc6."):
            renamed[key.replace("classifier.", "classifier.window.")] = value
        else:
            renamed[f"{UNUSED}{key}" if key.startswith("classifier.") else key] = value
    return renamed
