"""CBAM: a channel gate, then a spatial gate, for each frame separately (Woo et al., ECCV 2018, Eq. 1-3).

    F'  = M_c(F) * F,    M_c = sigmoid(MLP(avg_HW F) + MLP(max_HW F))     one MLP C -> C/r -> C     (Eq. 2)
    F'' = M_s(F') * F',  M_s = sigmoid(conv7x7([avg_C F', max_C F']))                               (Eq. 3)

These are Eq. 3 and 5 of W3: CBAM is W3 without the temporal convolutions. The authors start CBAM as `start: plain`
does. Their code has a batch norm after the 7x7 convolution. The paper has none, and this module has none.
"""

from dataclasses import asdict

from w3ray.attention.options import CBAMConfig, W3Config
from w3ray.attention.w3 import W3


class CBAM(W3):
    """CBAM on features of any T, H and W. Its spatial gates are a mask for refinement, as in W3.

    Args:
        channels: C of the features.
        config: the options.
    """

    def __init__(self, channels: int, config: CBAMConfig | None = None) -> None:
        super().__init__(channels, W3Config(**asdict(config or CBAMConfig()), temporal=False))
