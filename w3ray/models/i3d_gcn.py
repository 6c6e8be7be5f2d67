"""I3D with graphs of things: Videos as Space-Time Region Graphs (Wang & Gupta, arXiv:1806.01810).

Boxes of things come with each clip (`w3ray.data.side_inputs`). Each box is a node. Its features are cut out of I3D's
last map. Three graphs join the nodes:

    similarity   A_ij = softmax_j((W x_i) . (W' x_j)), over all boxes of the clip                          (Eq. 1-2)
    forward      A_ij = overlap (IoU) of box i with box j of the next frame, each row divided by its sum
    backward     the same towards the frame before

    layer        Z <- relu(norm(sum over graphs of A Z W)), three times                                    (Eq. 4-5)
    scores       linear(dropout([mean of the nodes, mean of the map]))

The equations and the norm (a layer norm) are quoted from memory. A place without a box is no node: it has no part in
any sum. The gradient reaches W and W'; they are the only learned part of the graphs.

The last map for AFR and MFR is I3D's, before the reduction to the nodes' channels: the reduction is linear, so the mean
of the reduced map is the reduced mean of this map.

Axes: B clips, T frames, C channels, H height, W width, N boxes of a frame, P = T N nodes of a clip, D their channels.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from w3ray.models._common import VideoOutput
from w3ray.models.clip_options import I3DGCNOptions
from w3ray.models.heads import check_head
from w3ray.models.i3d_resnet import TRAINED_I3D, I3DResNet, i3d_r50

GRAPHS = ("similarity", "forward", "backward")
_SAMPLES = 2
"""RoIAlign reads so many points of a cell along each side."""


class GraphLayer(nn.Module):
    """One graph convolution: Z <- relu(norm(sum over graphs of A Z W)), with a W for each graph.

    Args:
        channels: D.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weights = nn.ModuleList(nn.Linear(channels, channels, bias=False) for _ in GRAPHS)
        self.norm = nn.LayerNorm(channels)

    def forward(self, z_BPD: Tensor, graphs: tuple[Tensor, ...]) -> Tensor:
        """Nodes [B, P, D] and one matrix [B, P, P] for each graph -> nodes [B, P, D]."""
        parts = [graph_BPP @ weight(z_BPD) for graph_BPP, weight in zip(graphs, self.weights, strict=True)]
        return F.relu(self.norm(torch.stack(parts).sum(dim=0)))


class GraphHead(nn.Module):
    """Scores from the last map and the boxes.

    Args:
        channels: C of the map.
        num_classes: K.
        dropout: share of the joined means that is dropped before the linear layer.
        options: channels of the nodes, layers, cells of a box.

    Raises:
        ValueError: num_classes below 1, or dropout not in [0, 1).
    """

    def __init__(self, channels: int, num_classes: int, dropout: float, options: I3DGCNOptions) -> None:
        check_head(num_classes, dropout)
        super().__init__()
        nodes = options.node_channels
        self.cells = options.box_cells
        self.reduce = nn.Conv3d(channels, nodes, 1)
        self.query = nn.Linear(nodes, nodes, bias=False)
        self.key = nn.Linear(nodes, nodes, bias=False)
        self.layers = nn.ModuleList(GraphLayer(nodes) for _ in range(options.layers))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(2 * nodes, num_classes)
        nn.init.normal_(self.linear.weight, 0.0, 0.001)
        nn.init.zeros_(self.linear.bias)

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        """Weight and bias of the last layer."""
        return self.linear.parameters()

    def forward(self, features_BTCHW: Tensor, boxes_BTN4: Tensor) -> Tensor:
        """The last map [B, T, C, H, W], and boxes of its frames in shares of the picture -> logits [B, K]."""
        map_BTDHW = self.reduce(features_BTCHW.transpose(1, 2)).transpose(1, 2)
        there_BP = _is_there(boxes_BTN4).flatten(1).to(map_BTDHW.dtype)
        z_BPD = box_features(map_BTDHW, boxes_BTN4, self.cells) * there_BP[..., None]
        graphs = (self.similarity(z_BPD, there_BP), *(graph.to(z_BPD.dtype) for graph in overlaps(boxes_BTN4)))
        for layer in self.layers:
            z_BPD = layer(z_BPD, graphs)
        # A norm gives nodes that are not there a value.
        of_nodes_BD = (z_BPD * there_BP[..., None]).sum(dim=1) / there_BP.sum(dim=1, keepdim=True).clamp(min=1)
        of_map_BD = map_BTDHW.mean(dim=(1, 3, 4))
        return self.linear(self.dropout(torch.cat([of_nodes_BD, of_map_BD], dim=1)))

    def similarity(self, x_BPD: Tensor, there_BP: Tensor) -> Tensor:
        """Eq. 1-2: [B, P, P]. Each row sums to 1 over the nodes that are there."""
        scores_BPP = self.query(x_BPD) @ self.key(x_BPD).transpose(1, 2)
        # Not -inf: the row of a clip without any box would be nan.
        scores_BPP = scores_BPP.masked_fill(there_BP[:, None] == 0, torch.finfo(scores_BPP.dtype).min)
        return scores_BPP.softmax(dim=2) * there_BP[:, None]


class I3DGCN(I3DResNet):
    """I3D ResNet-50 with a head of graphs over boxes.

    Args:
        i3d: its backbone, its pool, its pixels and its files are taken over.
        head: takes its last map and the boxes.
    """

    side_inputs = I3DGCNOptions.side_inputs

    def __init__(self, i3d: I3DResNet, head: GraphHead) -> None:
        super().__init__(i3d.backbone, i3d.classifier, pool=i3d.pool)
        self.classifier = head
        self.pixels = i3d.pixels
        self.layouts = (TRAINED_I3D, *i3d.layouts)

    def forward(self, x_BTCHW: Tensor, boxes: Tensor | None = None) -> VideoOutput:
        """[B, T, 3, H, W] (normalised), boxes [B, T, N, 4] -> logits [B, K] and features [B, T', C, H', W'].

        Args:
            x_BTCHW: the clips.
            boxes: of each frame, (x1, y1, x2, y2) in shares of the picture. A box without an area is no box.

        Raises:
            ValueError: clips or boxes have a wrong shape.
        """
        self.check_clips(x_BTCHW)
        if boxes is None or boxes.dim() != 4 or boxes.shape[:2] != x_BTCHW.shape[:2] or boxes.shape[3] != 4:
            shape = None if boxes is None else tuple(boxes.shape)
            raise ValueError(f"i3d_gcn: boxes of shape {shape}: must be [B, T, N, 4] for clips {tuple(x_BTCHW.shape)}")
        features_BTCHW, masks = self.last_map(x_BTCHW)
        if self.refinement is not None:
            features_BTCHW = self.refinement(features_BTCHW, masks)
        # The network strides over time: each frame of the map has the boxes of the first frame that it stands for.
        kept, given = features_BTCHW.shape[1], boxes.shape[1]
        frames_T = torch.arange(kept, device=boxes.device) * given // kept
        logits_BK = self.classifier(features_BTCHW, boxes[:, frames_T])
        return VideoOutput(logits_BK, (features_BTCHW,))


def i3d_gcn(options: I3DGCNOptions | None = None, *, num_classes: int, dropout: float = 0.3) -> I3DGCN:
    """I3D ResNet-50 and its graphs. Its clips have at least 2 frames; every second one has nodes."""
    options = I3DGCNOptions() if options is None else options
    i3d = i3d_r50(options, num_classes=1)
    return I3DGCN(i3d, GraphHead(i3d.num_features, num_classes, dropout, options))


def _is_there(boxes_BTN4: Tensor) -> Tensor:
    """[B, T, N]: whether the box has an area."""
    return (boxes_BTN4[..., 2] > boxes_BTN4[..., 0]) & (boxes_BTN4[..., 3] > boxes_BTN4[..., 1])


def box_features(map_BTDHW: Tensor, boxes_BTN4: Tensor, cells: int) -> Tensor:
    """RoIAlign: the maximum over `cells` x `cells` cells of each box, [B, T N, D].

    Args:
        map_BTDHW: features.
        boxes_BTN4: in shares of the map's width and height.
        cells: along each side of a box.
    """
    batch, frames, channels, height, width = map_BTDHW.shape
    count = boxes_BTN4.shape[2]
    # Not in half precision: it would move the boxes.
    dtype = torch.promote_types(map_BTDHW.dtype, torch.float32)
    scale_4 = torch.tensor([width, height, width, height], device=boxes_BTN4.device, dtype=dtype)
    places_R4 = (boxes_BTN4.to(dtype) * scale_4).flatten(0, 2)
    number_R1 = torch.arange(batch * frames, device=boxes_BTN4.device, dtype=dtype).repeat_interleave(count)[:, None]
    cells_RDhw = roi_align(
        map_BTDHW.flatten(0, 1).to(dtype), torch.cat([number_R1, places_R4], dim=1), cells, sampling_ratio=_SAMPLES,
        aligned=True,
    )  # fmt: skip
    return cells_RDhw.amax(dim=(2, 3)).view(batch, frames * count, channels).to(map_BTDHW.dtype)


def overlaps(boxes_BTN4: Tensor) -> tuple[Tensor, Tensor]:
    """The forward and the backward graph, [B, P, P] each. A box that overlaps with nothing has a row of zeros."""
    batch, frames, count = boxes_BTN4.shape[:3]
    boxes_BTN4 = boxes_BTN4.to(torch.promote_types(boxes_BTN4.dtype, torch.float32))
    now, then = boxes_BTN4[:, :-1, :, None], boxes_BTN4[:, 1:, None, :]
    low, high = torch.maximum(now[..., :2], then[..., :2]), torch.minimum(now[..., 2:], then[..., 2:])
    common_BTNN = (high - low).clamp(min=0).prod(dim=-1)
    area_BTN = (boxes_BTN4[..., 2:] - boxes_BTN4[..., :2]).clamp(min=0).prod(dim=-1)
    joint_BTNN = area_BTN[:, :-1, :, None] + area_BTN[:, 1:, None, :] - common_BTNN
    iou_BTNN = torch.where(common_BTNN > 0, common_BTNN / joint_BTNN.clamp(min=1e-12), 0.0)
    graph = boxes_BTN4.new_zeros(batch, frames, count, frames, count)
    steps = torch.arange(frames - 1, device=boxes_BTN4.device)
    graph[:, steps, :, steps + 1] = iou_BTNN.transpose(0, 1)
    forward_BPP = graph.view(batch, frames * count, frames * count)
    return _rows_of_one(forward_BPP), _rows_of_one(forward_BPP.transpose(1, 2))


def _rows_of_one(graph_BPP: Tensor) -> Tensor:
    sums_BP1 = graph_BPP.sum(dim=2, keepdim=True)
    return torch.where(sums_BP1 > 0, graph_BPP / sums_BP1.clamp(min=1e-12), 0.0)
