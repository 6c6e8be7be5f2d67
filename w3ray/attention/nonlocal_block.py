"""The non-local block: each place looks at all places of all frames (Wang et al., CVPR 2018, Eq. 1-6).

    y_i = sum_j softmax_j(theta(x_i) . phi(x_j)) g(x_j)          embedded Gaussian   (Eq. 1-4)
    z_i = BN(W y_i) + x_i                                                            (Eq. 6)

theta, phi, g are 1x1x1 convolutions, by default to half of the channels. The norm's scale starts at 0, so a block
starts as the identity. It works on the output of every second block of the second and third stage (five in a
ResNet-50), not on all blocks, because its cost grows with the square of T*H*W.

Codes differ in what the paper leaves open, and these are different functions. The authors' code: blocks 2 and 4 of the
second stage and 2, 4, 6 of the third (`first: 2`), phi and g read 2x2 max-pooled features (`pool: input`), the affinity
is scaled (`scale: true`), weights start as N(0, 0.01) (`weight_start: gaussian`). TSM's code: blocks 1, 3 and 1, 3, 5,
phi and g are pooled after their convolutions (`pool: output`), no scale.

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
        if self.config.weight_start == "gaussian":
            for convolution in (self.theta, self.phi, self.g, self.expand):
                nn.init.normal_(convolution.weight, std=0.01)
                assert convolution.bias is not None
                nn.init.zeros_(convolution.bias)

    @property
    def affinity_scale(self) -> float:
        """Factor of theta(x_i) . phi(x_j)."""
        return self.theta.out_channels**-0.5 if self.config.scale else 1.0

    def project(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries theta [N, E, H, W]; keys phi and values g [N, E, H', W'], with half the size if they are pooled."""
        pools = self.config.pool if min(x_NCHW.shape[2:]) > 1 else "none"
        read_NCHW = _pooled(x_NCHW) if pools == "input" else x_NCHW
        phi_NEHW, g_NEHW = self.phi(read_NCHW), self.g(read_NCHW)
        if pools == "output":
            phi_NEHW, g_NEHW = _pooled(phi_NEHW), _pooled(g_NEHW)
        return self.theta(x_NCHW), phi_NEHW, g_NEHW

    def forward(self, x_BTCHW: Tensor, identity_BTCHW: Tensor | None = None) -> AttentionOutput:
        """Attend, then add the shortcut if given. Shapes: see `w3ray.attention._common`."""
        B, T, _, H, W = x_BTCHW.shape
        theta_BPE, phi_BQE, g_BQE = (_places(each, T) for each in self.project(x_BTCHW.flatten(0, 1)))
        # Eq. 3 has no scale, so 1. unsqueeze: with an axis for heads, torch can choose a kernel that never stores all
        # P x Q numbers.
        y_BPE = F.scaled_dot_product_attention(
            theta_BPE.unsqueeze(1),
            phi_BQE.unsqueeze(1),
            g_BQE.unsqueeze(1),
            scale=self.affinity_scale,
        ).squeeze(1)
        y_NEHW = y_BPE.unflatten(1, (T, H, W)).permute(0, 1, 4, 2, 3).flatten(0, 1)
        z_BTCHW = self.norm(self.expand(y_NEHW)).unflatten(0, (B, T)) + x_BTCHW
        return AttentionOutput(z_BTCHW if identity_BTCHW is None else z_BTCHW + identity_BTCHW, None)


def _pooled(x_NCHW: Tensor) -> Tensor:
    return F.max_pool2d(x_NCHW, 2, ceil_mode=True)


def _places(x_NEHW: Tensor, num_frames: int) -> Tensor:
    """[B*T, E, H, W] -> [B, T*H*W, E]."""
    return x_NEHW.unflatten(0, (-1, num_frames)).permute(0, 1, 3, 4, 2).flatten(1, 3)
