"""I3D with a bank of long-term features (Wu et al., arXiv:1812.05038).

A bank holds features of a whole video, such as one a second, from a network that was trained before. Each clip comes
with a window of them (`w3ray.data.side_inputs`). An operator joins the window with the clip (Sec. 3.3):

    max, avg  L = the maximum, or the mean, of the window's features
    nl        q = drop(W_q S), k = drop(W_k L); n times: q <- q + drop(W_o relu(norm(softmax(q' k' / sqrt(D)) v')))

    scores    linear(dropout([S, L]))

S is the clip's pooled feature, q', k', v' are linear in q, k, k. W_o starts at 0, so that q starts as the clip alone.
The authors' code fills places outside of the video with zeros, and they have a part in avg and nl. Here they have none;
`mask: false` is the authors' way. For max of features that are never negative it makes no difference.

Axes: B clips, T frames, C channels of the clip, H height, W features of the window, L their channels, D inner channels.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from w3ray.models._common import VideoOutput
from w3ray.models.clip_options import LFBOptions
from w3ray.models.heads import check_head
from w3ray.models.i3d_resnet import TRAINED_I3D, I3DResNet, i3d_r50


class AttentionLayer(nn.Module):
    """One layer of FBO-NL: a query looks at the features of the window.

    Args:
        channels: D.
        dropout: behind the output.
    """

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)
        self.out = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, clip_BD: Tensor, bank_BWD: Tensor, there_BW: Tensor) -> Tensor:
        """[B, D], [B, W, D], and 1 where a feature has a part, else 0, [B, W] -> [B, D]."""
        query_B1D = self.query(clip_BD)[:, None]
        scores_B1W = query_B1D @ self.key(bank_BWD).transpose(1, 2) * clip_BD.shape[1] ** -0.5
        # Not -inf: a window without any feature would be nan.
        scores_B1W = scores_B1W.masked_fill(there_BW[:, None] == 0, torch.finfo(scores_B1W.dtype).min)
        looks_B1W = scores_B1W.softmax(dim=2) * there_BW[:, None]
        seen_BD = (looks_B1W @ self.value(bank_BWD))[:, 0]
        added_BD: Tensor = self.dropout(self.out(F.relu(self.norm(seen_BD))))
        return clip_BD + added_BD


class NonLocalOperator(nn.Module):
    """FBO-NL.

    Args:
        channels: C.
        options: of the operator.
    """

    def __init__(self, channels: int, options: LFBOptions) -> None:
        super().__init__()
        self.num_features = options.inner
        self.reduce_clip = nn.Linear(channels, options.inner)
        self.reduce_bank = nn.Linear(options.bank_channels, options.inner)
        self.dropout = nn.Dropout(options.inner_dropout)
        self.layers = nn.ModuleList(AttentionLayer(options.inner, options.inner_dropout) for _ in range(options.layers))

    def forward(self, clip_BC: Tensor, bank_BWL: Tensor, there_BW: Tensor) -> Tensor:
        """-> [B, D]. Arguments: see `AttentionLayer.forward`."""
        clip_BD: Tensor = self.dropout(self.reduce_clip(clip_BC))
        bank_BWD = self.dropout(self.reduce_bank(bank_BWL))
        for layer in self.layers:
            clip_BD = layer(clip_BD, bank_BWD, there_BW)
        return clip_BD


class PoolOperator(nn.Module):
    """The maximum or the mean of the window's features. It has no parameters. A window without features gives 0.

    Args:
        options: which of the two, and L.
    """

    def __init__(self, options: LFBOptions) -> None:
        super().__init__()
        self.num_features = options.bank_channels
        self.maximum = options.operator == "max"

    def forward(self, clip_BC: Tensor, bank_BWL: Tensor, there_BW: Tensor) -> Tensor:
        """-> [B, L]. Arguments: see `AttentionLayer.forward`; the clip has no part."""
        count_B1 = there_BW.sum(dim=1, keepdim=True)
        if not self.maximum:
            return (bank_BWL * there_BW[..., None]).sum(dim=1) / count_B1.clamp(min=1)
        lowest = torch.finfo(bank_BWL.dtype).min
        most_BL = bank_BWL.masked_fill(there_BW[..., None] == 0, lowest).amax(dim=1)
        return torch.where(count_B1 > 0, most_BL, 0.0)


class BankHead(nn.Module):
    """Scores from the last map and the window.

    Args:
        channels: C of the map.
        num_classes: K.
        dropout: share of the joined features that is dropped before the linear layer.
        options: of the operator.

    Raises:
        ValueError: num_classes below 1, or dropout not in [0, 1).
    """

    def __init__(self, channels: int, num_classes: int, dropout: float, options: LFBOptions) -> None:
        check_head(num_classes, dropout)
        super().__init__()
        self.masks = options.mask
        self.operator: NonLocalOperator | PoolOperator
        self.operator = NonLocalOperator(channels, options) if options.operator == "nl" else PoolOperator(options)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(channels + self.operator.num_features, num_classes)
        nn.init.normal_(self.linear.weight, 0.0, 0.001)
        nn.init.zeros_(self.linear.bias)

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        """Weight and bias of the last layer."""
        return self.linear.parameters()

    def forward(self, features_BTCHW: Tensor, bank_BWL: Tensor) -> Tensor:
        """The last map [B, T, C, H, W], and the window [B, W, 1 + L] -> logits [B, K]."""
        clip_BC = features_BTCHW.mean(dim=(1, 3, 4))
        there_BW, values_BWL = bank_BWL[..., 0].to(clip_BC.dtype), bank_BWL[..., 1:].to(clip_BC.dtype)
        if not self.masks:
            there_BW = torch.ones_like(there_BW)
        joined = torch.cat([clip_BC, self.operator(clip_BC, values_BWL, there_BW)], dim=1)
        logits_BK: Tensor = self.linear(self.dropout(joined))
        return logits_BK


class LFB(I3DResNet):
    """I3D ResNet-50 with a head over its last map and a window of a bank.

    Args:
        i3d: its backbone, its pool, its pixels and its files are taken over.
        head: takes its last map and the window.
        options: W and L.
    """

    side_inputs = LFBOptions.side_inputs

    def __init__(self, i3d: I3DResNet, head: BankHead, options: LFBOptions) -> None:
        super().__init__(i3d.backbone, i3d.classifier, pool=i3d.pool)
        self.classifier = head
        self.pixels = i3d.pixels
        self.bank_shape = options.bank_shape
        self.layouts = (TRAINED_I3D, *i3d.layouts)

    def forward(self, x_BTCHW: Tensor, bank: Tensor | None = None) -> VideoOutput:
        """[B, T, 3, H, W] (normalised), bank [B, W, 1 + L] -> logits [B, K] and features [B, T', C, H', W'].

        Args:
            x_BTCHW: the clips.
            bank: the window of each clip. The first channel is 1 where there is a feature; elsewhere all are 0.

        Raises:
            ValueError: clips or bank have a wrong shape.
        """
        self.check_clips(x_BTCHW)
        assert self.bank_shape is not None
        window, channels = self.bank_shape
        wanted = (len(x_BTCHW), window, 1 + channels)
        if bank is None or bank.shape != wanted:
            shape = None if bank is None else tuple(bank.shape)
            raise ValueError(
                f"lfb: bank of shape {shape}: must be [B, W, 1 + C] = {wanted} for clips {tuple(x_BTCHW.shape)}"
            )
        features_BTCHW, masks = self.last_map(x_BTCHW)
        if self.refinement is not None:
            features_BTCHW = self.refinement(features_BTCHW, masks)
        return VideoOutput(self.classifier(features_BTCHW, bank), (features_BTCHW,))


def lfb(options: LFBOptions | None = None, *, num_classes: int, dropout: float = 0.3) -> LFB:
    """I3D ResNet-50 with a bank. Its clips have at least 2 frames."""
    options = LFBOptions() if options is None else options
    i3d = i3d_r50(options, num_classes=1)
    return LFB(i3d, BankHead(i3d.num_features, num_classes, dropout, options), options)
