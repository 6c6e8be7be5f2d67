"""TSN: a 2D network scores each frame, and the scores are averaged (Wang et al., arXiv:1608.00859)."""

from torch import Tensor, nn

from w3ray.attention.sites import Stages
from w3ray.models._common import VideoModel, VideoOutput
from w3ray.models.frame_backbone import frame_backbone
from w3ray.models.heads import MeanHead
from w3ray.models.options import ModelOptions


class TSN(VideoModel):
    """A 2D network over each frame of a clip. It ignores the order of frames, unless its attention uses the order.

    Args:
        backbone: a `FrameBackbone`, or a torchvision ResNet.
        options: TSN has no options of its own.
        num_classes: K.
        dropout: before the classifier, per frame.
    """

    def __init__(
        self, backbone: nn.Module, options: ModelOptions | None = None, *, num_classes: int, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.backbone = frame_backbone(backbone)
        self.pixels, self.layouts = self.backbone.pixels, self.backbone.layouts
        self.num_features = self.backbone.num_features
        self.classifier = MeanHead(self.num_features, num_classes, dropout)

    def stages(self) -> Stages:
        return self.backbone.stages()

    def forward(self, x_BTCHW: Tensor) -> VideoOutput:
        """[B, T, 3, H, W] (normalised) -> logits [B, K] and features [B, T, C, H', W']."""
        self.check_clips(x_BTCHW)
        num_frames = x_BTCHW.shape[1]
        x_NCHW = self.backbone.stem(x_BTCHW.flatten(0, 1), num_frames)
        x_NCHW, masks = self.run_stages(x_NCHW, num_frames)
        return self.finish(self.backbone.last(x_NCHW).unflatten(0, (-1, num_frames)), masks)
