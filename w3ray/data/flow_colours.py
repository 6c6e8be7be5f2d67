"""How does a clip of optical flow become pictures to look at?"""

import numpy as np

from w3ray.data.crop import Frames


def visible(frames_TSSC: Frames) -> Frames:
    """A clip as RGB pictures. Of optical flow, the middle field of each stack: hue is direction, saturation is speed.

    Args:
        frames_TSSC: uint8 [T, S, S, C]: RGB, or flow with x and y in turn.

    Returns:
        uint8 [T, S, S, 3]. White means no motion; full colour is the fastest motion of the clip.
    """
    if frames_TSSC.shape[-1] == 3:
        return frames_TSSC
    from matplotlib.colors import hsv_to_rgb

    first = frames_TSSC.shape[-1] // 4 * 2
    motion_TSS2 = frames_TSSC[..., first : first + 2].astype(np.float64) - 127.5
    motion_TSS2 = np.where(np.abs(motion_TSS2) <= 0.5, 0.0, motion_TSS2)  # no motion lies between two grey values
    x_TSS, y_TSS = np.moveaxis(motion_TSS2, -1, 0)
    speed_TSS = np.hypot(x_TSS, y_TSS)
    hue_TSS = (np.arctan2(y_TSS, x_TSS) / (2 * np.pi)) % 1.0
    hsv_TSSC = np.stack([hue_TSS, speed_TSS / max(float(speed_TSS.max()), 1.0), np.ones_like(hue_TSS)], axis=-1)
    return np.rint(255 * hsv_to_rgb(hsv_TSSC)).astype(np.uint8)
