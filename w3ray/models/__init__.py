"""Video models: backbones, temporal models, refinement, weights, profile. No Ray, MLflow or recipe in here.

The tables need no torch: their members are imported when they are taken out.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from w3ray._registry import Registry, lazy_attributes

if TYPE_CHECKING:
    from torch import nn

    from w3ray.models._common import VideoModel, VideoOutput
    from w3ray.models.build import build_model
    from w3ray.models.profiling import Part, Profile, profile
    from w3ray.models.weights import LoadedWeights, load_weights

MODEL_VERSION: int = 1
"""Raised whenever the same parameters would give other numbers; part of a stage's identity."""

BACKBONES: "Registry[Callable[..., nn.Module]]" = Registry(
    {
        "resnet18": "torchvision.models:resnet18",
        "resnet34": "torchvision.models:resnet34",
        "resnet50": "torchvision.models:resnet50",
        "resnet101": "torchvision.models:resnet101",
        "resnet_small": "w3ray.models.resnet_small:resnet_small",
        "resnet_small_wide": "w3ray.models.resnet_small:resnet_small_wide",
    }
)
"""2D backbones of TSM and TSN."""

BACKBONES_3D: "Registry[Callable[..., nn.Module]]" = Registry(
    {
        "r3d_18": "torchvision.models.video:r3d_18",
        "mc3_18": "torchvision.models.video:mc3_18",
        "r2plus1d_18": "torchvision.models.video:r2plus1d_18",
    }
)
"""3D networks: model and backbone in one name."""

MODELS: "Registry[Callable[..., VideoModel]]" = Registry(
    {
        "tsm": "w3ray.models.build:build_tsm",
        "tsn": "w3ray.models.build:build_tsn",
        **dict.fromkeys(BACKBONES_3D, "w3ray.models.build:build_3d"),
    }
)
"""Name -> function that builds the model without attention and weights."""

__all__ = [
    "BACKBONES",
    "BACKBONES_3D",
    "MODELS",
    "MODEL_VERSION",
    "LoadedWeights",
    "Part",
    "Profile",
    "VideoModel",
    "VideoOutput",
    "build_model",
    "load_weights",
    "profile",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "LoadedWeights": "w3ray.models.weights",
        "Part": "w3ray.models.profiling",
        "Profile": "w3ray.models.profiling",
        "VideoModel": "w3ray.models._common",
        "VideoOutput": "w3ray.models._common",
        "build_model": "w3ray.models.build",
        "load_weights": "w3ray.models.weights",
        "profile": "w3ray.models.profiling",
    },
)
