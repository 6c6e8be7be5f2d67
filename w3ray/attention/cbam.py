"""CBAM: a channel gate, then a spatial gate, each frame by itself (Woo et al., ECCV 2018, Eq. 1-3).

    F'  = M_c(F) * F,    M_c = sigmoid(MLP(avg_HW F) + MLP(max_HW F))     one MLP C -> C/r -> C     (Eq. 2)
    F'' = M_s(F') * F',  M_s = sigmoid(conv7x7([avg_C F', max_C F']))                               (Eq. 3)

These are Eq. 3 and 5 of W3, which adds time: CBAM is W3 without its temporal convolutions. Its authors start it as
`start: plain` does. Their code has a batch norm behind the 7x7 convolution that the paper does not have; neither have
we.
"""

from dataclasses import asdict

from w3ray.attention.options import CBAMConfig, W3Config
from w3ray.attention.w3 import W3


class CBAM(W3):
    """CBAM on features of any T, H and W; its spatial gates are a mask for refinement, as W3's are.

    Args:
        channels: C of the features.
        config: its knobs.
    """

    def __init__(self, channels: int, config: CBAMConfig | None = None) -> None:
        super().__init__(channels, W3Config(**asdict(config or CBAMConfig()), temporal=False))
