"""torchvision's 3D residual networks with the interface of w3ray's models.

Tran et al., arXiv:1711.11248 (R3D, MC3, R(2+1)D).
"""

from torch import Tensor, nn
from torchvision.models import video

from w3ray.attention import network_stages
from w3ray.attention.sites import Stages
from w3ray.models._common import VideoModel, VideoOutput
from w3ray.models.heads import MeanHead
from w3ray.models.options import ModelOptions


class ClipNetwork(VideoModel):
    """A VideoResNet over whole clips. Its features have fewer frames than the clip (T / 8 in R3D and R(2+1)D)."""

    def __init__(self, backbone: video.VideoResNet, *, num_classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        self.backbone = backbone
        self.num_features = self.stages()[-1][-1].channels
        backbone.fc = nn.Identity()
        self.classifier = MeanHead(self.num_features, num_classes, dropout)

    def stages(self) -> Stages:
        return network_stages(self.backbone)

    def forward(self, x_BTCHW: Tensor) -> VideoOutput:
        """[B, T, 3, H, W] (normalised) -> logits [B, K] and features [B, T', C, H', W']."""
        self.check_clips(x_BTCHW)
        x_BCTHW, masks = self.run_stages(self.backbone.stem(x_BTCHW.transpose(1, 2)), None)
        return self.finish(x_BCTHW.transpose(1, 2), masks)


def r3d_18(options: ModelOptions | None = None, *, num_classes: int, dropout: float = 0.5) -> ClipNetwork:
    """3D convolutions in all stages."""
    return ClipNetwork(video.r3d_18(), num_classes=num_classes, dropout=dropout)


def mc3_18(options: ModelOptions | None = None, *, num_classes: int, dropout: float = 0.5) -> ClipNetwork:
    """3D convolutions in the first stage, 2D convolutions in the others."""
    return ClipNetwork(video.mc3_18(), num_classes=num_classes, dropout=dropout)


def r2plus1d_18(options: ModelOptions | None = None, *, num_classes: int, dropout: float = 0.5) -> ClipNetwork:
    """Each 3D convolution is split into one over space and one over time."""
    return ClipNetwork(video.r2plus1d_18(), num_classes=num_classes, dropout=dropout)
