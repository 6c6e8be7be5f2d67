"""The non-local block: each place looks at all places of all frames (Wang et al., CVPR 2018, Eq. 1-6).

    y_i = sum_j softmax_j(theta(x_i) . phi(x_j)) g(x_j)          embedded Gaussian   (Eq. 1-4)
    z_i = BN(W y_i) + x_i                                                            (Eq. 6)

As the authors use it: theta, phi, g are 1x1x1 convolutions to half of the channels; phi and g are max-pooled 2x2 over
space; the norm's scale starts at 0, so a block starts as the identity. It works on the output of every second block of
the second and third stage (five in a ResNet-50), not on all blocks, because its cost grows with the square of T*H*W.

Axes: B clips, T frames, C channels, H height, W width, E inner channels, P places (T*H*W), Q pooled places.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from w3ray.attention._common import AttentionOutput
from w3ray.attention.options import NonLocalConfig, Placement


class NonLocal(nn.Module):
    """Non-local block on features of any T, H and W. It has no spatial mask.

    Args:
        channels: C of the features.
        config: the options.
    """

    placement: Placement = "after"
    has_spatial_mask = False
    norm_gain = 1.0
    constant_start = None

    def __init__(self, channels: int, config: NonLocalConfig | None = None) -> None:
        super().__init__()
        self.config = NonLocalConfig() if config is None else config
        inner = max(1, channels // self.config.reduction)
        self.theta = nn.Conv2d(channels, inner, 1)
        self.phi = nn.Conv2d(channels, inner, 1)
        self.g = nn.Conv2d(channels, inner, 1)
        self.expand = nn.Conv2d(inner, channels, 1)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x_BTCHW: Tensor, identity_BTCHW: Tensor | None = None) -> AttentionOutput:
        """Attend, then add the shortcut if given. Shapes: see `w3ray.attention._common`."""
        B, T, _, H, W = x_BTCHW.shape
        x_NCHW = x_BTCHW.flatten(0, 1)
        pooled_NCHW = F.max_pool2d(x_NCHW, 2, ceil_mode=True) if self.config.subsample and min(H, W) > 1 else x_NCHW
        theta_BPE = _places(self.theta(x_NCHW), T)
        phi_BQE, g_BQE = _places(self.phi(pooled_NCHW), T), _places(self.g(pooled_NCHW), T)
        # scale=1: Eq. 3 has no scale. unsqueeze: with an axis for heads, torch can choose a kernel that never stores
        # all P x Q numbers.
        y_BPE = F.scaled_dot_product_attention(
            theta_BPE.unsqueeze(1), phi_BQE.unsqueeze(1), g_BQE.unsqueeze(1), scale=1.0
        ).squeeze(1)
        y_NEHW = y_BPE.unflatten(1, (T, H, W)).permute(0, 1, 4, 2, 3).flatten(0, 1)
        z_BTCHW = self.norm(self.expand(y_NEHW)).unflatten(0, (B, T)) + x_BTCHW
        return AttentionOutput(z_BTCHW if identity_BTCHW is None else z_BTCHW + identity_BTCHW, None)


def _places(x_NEHW: Tensor, num_frames: int) -> Tensor:
    """[B*T, E, H, W] -> [B, T*H*W, E]."""
    return x_NEHW.unflatten(0, (-1, num_frames)).permute(0, 1, 3, 4, 2).flatten(1, 3)
