"""torchvision's 3D residual networks behind the interface of our models.

Tran et al., arXiv:1711.11248 (R3D, MC3, R(2+1)D).
"""

from torch import Tensor

from w3ray.models._common import VideoModel, VideoOutput, check_clips


class ClipNetwork(VideoModel):
    """A VideoResNet over whole clips; its features have fewer frames than the clip (T / 8 in R3D and R(2+1)D)."""

    def forward(self, x_BTCHW: Tensor) -> VideoOutput:
        """[B, T, 3, H, W] (normalised) -> logits [B, K] and features [B, T', C, H', W']."""
        check_clips(x_BTCHW)
        x_BCTHW, masks = self.run_stages(self.backbone.stem(x_BTCHW.transpose(1, 2)), None)
        features_BTCHW = x_BCTHW.transpose(1, 2)
        if self.refinement is not None:
            features_BTCHW = self.refinement(features_BTCHW, masks)
        return VideoOutput(self.head(features_BTCHW), features_BTCHW)
