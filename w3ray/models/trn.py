"""TRN and TRN-Multiscale: a TSN whose head relates ordered frames (Zhou et al., arXiv:1711.08496, Eq. 1-3, Fig. 2).

    f_t = linear(mean of the maps of frame t)                                       256 numbers, start N(0, 0.001)
    TRN:            scores = h(relu(g([relu f_1, .., relu f_T])))                   g: linear to 512, h: linear to K
    TRN-Multiscale: scores = sum_k sum_tuples h_k(relu(g_k([relu f_t1, .., relu f_tk])))       k = T, T-1, .., 2

The tuples are ordered: t1 < .. < tk. Training draws at most 3 tuples for each k < T, as the authors do. The authors
draw in evaluation too, so two evaluations of one network differ. Here evaluation takes all tuples and multiplies the
sum of each k by (drawn tuples / all tuples). That is the expected value of the sum in training.

g_k is one linear layer over k frames, so it is the sum of k linear layers over one frame each. These are computed once
for each frame and position, not once for each tuple. All 247 tuples of 8 frames then cost about as much as 19 of them.

Axes: B clips, T frames, C channels, F features of a frame, K classes; in a scale: J positions in a tuple, S frames that
can be at one position, O outputs of g_k, N tuples.
"""

import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from w3ray.models.frame_backbone import FrameBackbone
from w3ray.models.frame_options import TRNMultiscaleOptions, TRNOptions
from w3ray.models.heads import check_head
from w3ray.models.layouts import UNUSED, KeyLayout, plain_resnet_key, rename_backbone
from w3ray.models.tsn import TSN

FEATURES = 256
"""Width of a frame's features (the authors' code)."""
RELATION = 512
"""Width of g in TRN."""
SCALE_RELATION = 256
"""Width of g_k in TRN-Multiscale."""
DRAWN = 3
"""The maximum number of tuples of one length in a training step."""
_AT_ONCE = 1024
"""The maximum number of tuples that are scored at once. It bounds the memory."""


class RelationHead(nn.Module):
    """TRN's head: one relation over all frames.

    Args:
        channels: C of the maps.
        num_frames: T.
        num_classes: K.
        dropout: share of the averaged maps that is dropped before the first linear layer.
    """

    def __init__(self, channels: int, num_frames: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        check_head(num_classes, dropout)
        self.dropout = nn.Dropout(dropout)
        self.project = _frame_layer(channels)
        self.hidden = nn.Linear(num_frames * FEATURES, RELATION)
        self.last = nn.Linear(RELATION, num_classes)

    def forward(self, features_BTCHW: Tensor) -> Tensor:
        """[B, T, C, H, W] -> [B, K]."""
        x_BTF = torch.relu(self.project(self.dropout(features_BTCHW.mean(dim=(3, 4)))))
        return self.last(torch.relu(self.hidden(x_BTF.flatten(1))))

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        """Weight and bias of h."""
        return self.last.parameters()


class Relations(nn.Module):
    """The relations of k ordered frames out of T: g_k and h_k.

    Args:
        num_ordered: k.
        num_frames: T.
        num_classes: K.
    """

    places_NJ: Tensor
    """All tuples. A frame is given by its place among the frames that its position can have."""

    def __init__(self, num_ordered: int, num_frames: int, num_classes: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(num_ordered * FEATURES, SCALE_RELATION)
        self.last = nn.Linear(SCALE_RELATION, num_classes)
        tuples = itertools.combinations(range(num_frames), num_ordered)
        # In an ordered tuple, position j holds one of the frames j to j + T - k.
        places = [[frame - position for position, frame in enumerate(one)] for one in tuples]
        self.register_buffer("places_NJ", torch.tensor(places), persistent=False)
        self.num_ordered = num_ordered

    def draw(self) -> Tensor:
        """Draw the tuples of a training step from torch's generator, without repeats: rows of `places_NJ`."""
        # The CPU's generator: a seed gives the same tuples on every device.
        rows = torch.randperm(len(self.places_NJ), device="cpu")[:DRAWN]
        return self.places_NJ[rows.to(self.places_NJ.device)]

    def forward(self, x_BTF: Tensor, places_NJ: Tensor) -> Tensor:
        """The sum of the scores [B, K] of these tuples, multiplied by min(3, all tuples) / N.

        Args:
            x_BTF: features of the frames, after the ReLU.
            places_NJ: rows of the buffer.
        """
        num_places = x_BTF.shape[1] - self.num_ordered + 1
        x_BJSF = torch.stack([x_BTF[:, j : j + num_places] for j in range(self.num_ordered)], dim=1)
        weight_OJF = self.hidden.weight.unflatten(1, (self.num_ordered, FEATURES))
        parts_BJSO = torch.einsum("bjsf,ojf->bjso", x_BJSF, weight_OJF)
        total_BO = x_BTF.new_zeros(())
        for some_NJ in places_NJ.split(_AT_ONCE):
            sums_BNO = cast(Tensor, self.hidden.bias)
            for j in range(self.num_ordered):
                sums_BNO = sums_BNO + parts_BJSO[:, j].index_select(1, some_NJ[:, j])
            total_BO = total_BO + torch.relu(sums_BNO).sum(dim=1)
        counted = min(DRAWN, len(self.places_NJ))
        # h_k is linear: the sum of its scores is its score of the sum, with its bias once for each tuple.
        return F.linear(total_BO * (counted / len(places_NJ)), self.last.weight, self.last.bias * counted)


class MultiscaleRelationHead(nn.Module):
    """TRN-Multiscale's head: relations of T, T-1, .., 2 frames, summed.

    Args:
        channels: C of the maps.
        num_frames: T.
        num_classes: K.
        dropout: share of the averaged maps that is dropped before the first linear layer.
    """

    def __init__(self, channels: int, num_frames: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        check_head(num_classes, dropout)
        self.dropout = nn.Dropout(dropout)
        self.project = _frame_layer(channels)
        self.scales = nn.ModuleList(
            Relations(num_ordered, num_frames, num_classes) for num_ordered in range(num_frames, 1, -1)
        )

    def forward(self, features_BTCHW: Tensor) -> Tensor:
        """[B, T, C, H, W] -> [B, K]."""
        scales = [cast(Relations, scale) for scale in self.scales]
        # The draw comes before the dropout. So it depends on the seed alone, not on the number of clips.
        chosen = [scale.draw() if self.training else scale.places_NJ for scale in scales]
        x_BTF = torch.relu(self.project(self.dropout(features_BTCHW.mean(dim=(3, 4)))))
        return torch.stack([scale(x_BTF, places_NJ) for scale, places_NJ in zip(scales, chosen, strict=True)]).sum(0)

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        """Weight and bias of every h_k."""
        for scale in self.scales:
            yield from cast(Relations, scale).last.parameters()


class TRN(TSN):
    """TSN with a relation over all frames of a clip as its head.

    Args:
        backbone: a `FrameBackbone`, or a torchvision ResNet.
        options: the number of frames.
        num_classes: K.
        dropout: before the head's first linear layer, per frame.
    """

    head: type[RelationHead] | type[MultiscaleRelationHead] = RelationHead

    def __init__(
        self, backbone: nn.Module, options: TRNOptions | None = None, *, num_classes: int, dropout: float = 0.5
    ) -> None:
        super().__init__(backbone, num_classes=num_classes, dropout=dropout)
        self.options = TRNOptions() if options is None else options
        self.classifier = self.head(self.num_features, self.options.num_frames, num_classes, dropout)
        self.layouts = (_layout(self.backbone), *self.backbone.layouts)

    def check_clips(self, x_BTCHW: Tensor) -> None:
        super().check_clips(x_BTCHW)
        self.options.check_clip(x_BTCHW.shape[1], x_BTCHW.shape[-1])


class TRNMultiscale(TRN):
    """TSN with relations of all tuples of frames as its head."""

    head = MultiscaleRelationHead

    def __init__(
        self,
        backbone: nn.Module,
        options: TRNMultiscaleOptions | None = None,
        *,
        num_classes: int,
        dropout: float = 0.5,
    ) -> None:
        options = TRNMultiscaleOptions() if options is None else options
        super().__init__(backbone, options, num_classes=num_classes, dropout=dropout)


def _frame_layer(channels: int) -> nn.Linear:
    layer = nn.Linear(channels, FEATURES)
    nn.init.normal_(layer.weight, 0.0, 0.001)
    nn.init.zeros_(layer.bias)
    return layer


_CONSENSUS = re.compile(r"^(?:module\.|cls_head\.)?consensus\.")
_PROJECT = re.compile(r"^(?:module\.)?(?:new_fc|cls_head\.fc_cls)\.")
_PLACES = (
    # the authors' and mmaction2's code; the fusion of EPIC-Kitchens' code
    (re.compile(r"^(?:classifier|pre_classifier)\.1\."), "classifier.hidden."),
    (re.compile(r"^classifier\.3\."), "classifier.last."),
    (re.compile(r"^fc_fusion_scales\.(\d+)\.1\."), r"classifier.scales.\1.hidden."),
    (re.compile(r"^fc_fusion_scales\.(\d+)\.3\."), r"classifier.scales.\1.last."),
)
_OF_HEADS = re.compile(r"^classifiers\.(?:(\d+)\.)?(\d+)\.(weight|bias)$")
"""EPIC-Kitchens' code: a last layer for each scale, if there are several, and for each head (verb, noun)."""


def _matches(keys: Collection[str]) -> bool:
    return any(_CONSENSUS.match(key) for key in keys)


def _layout(backbone: FrameBackbone) -> KeyLayout:
    """The public files of TRN: a backbone under `base_model` or `backbone`, and a head under `consensus`."""

    def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        renamed: dict[str, Tensor] = {}
        of_backbone: dict[str, Tensor] = {}
        of_heads: dict[tuple[int, str], dict[int, Tensor]] = {}
        for key, value in state.items():
            if at := _PROJECT.match(key):
                renamed[f"classifier.project.{key[at.end() :]}"] = value
            elif at := _CONSENSUS.match(key):
                inner = key[at.end() :]
                if last := _OF_HEADS.match(inner):
                    scale = -1 if last[1] is None else int(last[1])
                    of_heads.setdefault((scale, last[3]), {})[int(last[2])] = value
                else:
                    renamed[_in_head(inner)] = value
            elif key.startswith("backbone."):
                of_backbone[plain_resnet_key(key.removeprefix("backbone."))] = value
            else:
                of_backbone[re.sub(r"^(module\.)?base_model\.", "", key)] = value
        return {**rename_backbone(of_backbone, backbone.layouts), **renamed, **_last_layers(of_heads)}

    return KeyLayout("TRN", "module.consensus.fc_fusion_scales.0.1.weight", _matches, rename)


def _in_head(name: str) -> str:
    for pattern, place in _PLACES:
        if pattern.match(name):
            return pattern.sub(place, name)
    return f"classifier.{name}"  # reported later as unexpected


def _last_layers(of_heads: Mapping[tuple[int, str], Mapping[int, Tensor]]) -> dict[str, Tensor]:
    """The last layers of EPIC-Kitchens' code. w3ray has one layer over the scores of all heads.

    That code has an error: scale i > 0 uses the layers of scale i - 1, and the last ones are never used. Its networks
    were trained so, and they compute the same here with the layers of scale i - 1 at scale i.
    """
    renamed: dict[str, Tensor] = {}
    final = max((scale for scale, _ in of_heads), default=-1)
    for (scale, tensor), parts in of_heads.items():
        joined = torch.cat([parts[head] for head in sorted(parts)])
        if scale < 0:
            renamed[f"classifier.last.{tensor}"] = joined
            continue
        if scale == 0:
            renamed[f"classifier.scales.0.last.{tensor}"] = joined
        if scale < final or final == 0:
            renamed[f"classifier.scales.{scale + 1}.last.{tensor}"] = joined.clone()
        else:
            renamed[f"{UNUSED}consensus.classifiers.{scale}.{tensor}"] = joined
    return renamed
