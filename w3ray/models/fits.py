"""Does a network take these clips, and its attention? Asked before a run starts.

`check_clip` needs no torch. `check_network` finds everything else, but imports torch.
"""

from collections.abc import Mapping
from typing import Any

from w3ray._registry import cause
from w3ray.models import BACKBONES, Backbone, model_family
from w3ray.models.options import ModelOptions


def check_clip(name: str, options: ModelOptions, backbone: str | None, num_frames: int, size: int) -> None:
    """Check the clips against what the family and the backbone say about themselves.

    Args:
        name: a key of `MODELS`.
        options: options of this family.
        backbone: a key of `BACKBONES`; it is not used if the family has none.
        num_frames: T of a clip.
        size: height and width of the frames, in pixels.

    Raises:
        ValueError: the network cannot take them.
    """
    options.check_clip(num_frames, size)
    if backbone is not None and model_family(name).takes_backbone:
        row = BACKBONES.row(backbone)
        if isinstance(row, Backbone):
            row.check_size(backbone, size)


def check_network(arguments: Mapping[str, Any], num_frames: int, size: int) -> None:
    """Build the network on the meta device, where tensors have shapes only, and pass one clip through it.

    Args:
        arguments: of `build_model`. Weights are not read.
        num_frames: T of the clip.
        size: height and width of the frames, in pixels.

    Raises:
        ValueError: the network cannot be built, or cannot take such a clip.
    """
    import torch

    from w3ray.models.build import build_model
    from w3ray.models.side_inputs import example

    try:
        with torch.device("meta"):
            model = build_model(**{**arguments, "weights": None}).eval()
        with torch.no_grad():
            clip_BTCHW = torch.empty(1, num_frames, model.pixels.channels, size, size, device="meta")
            model(clip_BTCHW, **example(model, clip_BTCHW))
    except ValueError:
        raise
    except Exception as error:
        # Not a fault of the network: an operation that needs real numbers, or a tensor that is made on the CPU.
        if isinstance(error, NotImplementedError) or "meta" in str(error):
            return
        raise ValueError(
            f"{arguments['name']}: cannot take clips of {num_frames} frames of {size} x {size} pixels: {cause(error)}"
        ) from error


def feature_channels(arguments: Mapping[str, Any], num_frames: int, size: int) -> int:
    """Channels of a network's last maps, all together. Computed on the meta device.

    Args:
        arguments: of `build_model`. Weights are not read. The network reads nothing besides clips.
        num_frames: T of the clip.
        size: height and width of the frames, in pixels.

    Raises:
        ValueError: the network cannot be built, or cannot take such a clip.
    """
    import torch

    from w3ray.models.build import build_model

    with torch.device("meta"):
        model = build_model(**{**arguments, "weights": None}).eval()
    with torch.no_grad():
        clip_BTCHW = torch.empty(1, num_frames, model.pixels.channels, size, size, device="meta")
        return sum(map_BTCHW.shape[2] for map_BTCHW in model(clip_BTCHW).features)


def classifier_names(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """State names of a network's last layers. Computed on the meta device.

    Args:
        arguments: of `build_model`. Weights are not read.

    Raises:
        ValueError: the network cannot be built.
    """
    import torch

    from w3ray.models.build import build_model

    with torch.device("meta"):
        return build_model(**{**arguments, "weights": None}).classifier_names()
