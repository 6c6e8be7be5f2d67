"""TSN: frames through a 2D network, class scores averaged (Wang et al., arXiv:1608.00859)."""

from torch import Tensor

from w3ray.models._common import VideoModel, VideoOutput, check_clips


class TSN(VideoModel):
    """A 2D ResNet over each frame of a clip; knows nothing of order unless an attention in it does."""

    def forward(self, x_BTCHW: Tensor) -> VideoOutput:
        """[B, T, 3, H, W] (normalised) -> logits [B, K] and features [B, T, C, H', W']."""
        check_clips(x_BTCHW)
        num_frames = x_BTCHW.shape[1]
        backbone = self.backbone
        x_NCHW = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(x_BTCHW.flatten(0, 1)))))
        x_NCHW, masks = self.run_stages(x_NCHW, num_frames)
        features_BTCHW = x_NCHW.unflatten(0, (-1, num_frames))
        if self.refinement is not None:
            features_BTCHW = self.refinement(features_BTCHW, masks)
        return VideoOutput(self.head(features_BTCHW), features_BTCHW)
