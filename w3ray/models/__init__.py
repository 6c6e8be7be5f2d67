"""Video models: backbones, temporal models, refinement, weights, profile. Nothing here uses Ray, MLflow or a recipe.

The tables do not import torch: a member is imported on first use.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from w3ray._nearest import did_you_mean
from w3ray._registry import Registry, attribute, lazy_attributes

if TYPE_CHECKING:
    from torch import nn

    from w3ray.models._common import LoadedWeights, VideoModel, VideoOutput
    from w3ray.models.build import build_model
    from w3ray.models.options import ModelOptions
    from w3ray.models.profiling import Part, Profile, profile
    from w3ray.models.weights import load_weights

MODEL_VERSION: int = 1
"""Increased whenever the same parameters give different numbers than before. Part of a stage's identity."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """A row of the table: a 2D network as "module:name", imported on first use, and the frames that it takes.

    A network that takes frames of all sizes needs no such row: the function that makes it is enough.
    """

    place: "str | Callable[[], nn.Module]"
    side: int = 1
    """Height and width of frames must be multiples of this, in pixels."""

    def __call__(self) -> "nn.Module":
        """Make the network."""
        made: nn.Module = attribute(self.place)()
        return made

    def check_size(self, name: str, size: int) -> None:
        """Raise ValueError if the network cannot take frames of `size` x `size` pixels."""
        if size % self.side:
            raise ValueError(f"{name}: frames of {size} x {size} pixels: sides must be multiples of {self.side}")


BACKBONES: "Registry[Callable[[], nn.Module]]" = Registry(
    "backbones",
    {
        "resnet18": "torchvision.models:resnet18",
        "resnet34": "torchvision.models:resnet34",
        "resnet50": "torchvision.models:resnet50",
        "resnet101": "torchvision.models:resnet101",
        "resnet_small": "w3ray.models.resnet_small:resnet_small",
        "resnet_small_wide": "w3ray.models.resnet_small:resnet_small_wide",
        "efficientnet_lite0": "w3ray.models.efficientnet_lite0:EfficientNetLite0",
        "bninception": Backbone("w3ray.models.bninception:BNInception", side=32),
        "vgg16": "w3ray.models.vgg16:VGG16",
    },
    contract="w3ray.testing:check_backbone",
)
"""2D networks inside the frame networks: a torchvision ResNet or a `w3ray.models.frame_backbone.FrameBackbone`.

A member is a function that makes the network, or a `Backbone` row that also says which frames the network takes.
"""


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """A row of the table: a network and its options, each as "module:name", imported on first use."""

    place: "str | Callable[..., VideoModel]"
    options_place: "str | type[ModelOptions]" = "w3ray.models.options:ModelOptions"
    takes_backbone: bool = False
    """Whether the network is built around one of `BACKBONES`."""

    @property
    def build(self) -> "Callable[..., VideoModel]":
        """Builds the model without attention and weights: `build([backbone,] options, num_classes=K, dropout=p)`."""
        found: Callable[..., VideoModel] = attribute(self.place)
        return found

    @property
    def options(self) -> "type[ModelOptions]":
        """The class of the family's options."""
        found: type[ModelOptions] = attribute(self.options_place)
        return found


def _fault(name: str, row: Any) -> str | None:
    return None if isinstance(row, ModelFamily) else f"it must be a ModelFamily(network, options), not {row!r}"


MODELS: Registry[ModelFamily] = Registry(
    "models",
    {
        "tsm": ModelFamily("w3ray.models.tsm:TSM", "w3ray.models.options:TSMOptions", takes_backbone=True),
        "tsn": ModelFamily("w3ray.models.tsn:TSN", takes_backbone=True),
        "tam": ModelFamily("w3ray.models.tam:TAM", "w3ray.models.tam:TAMOptions", takes_backbone=True),
        "trn": ModelFamily("w3ray.models.trn:TRN", "w3ray.models.frame_options:TRNOptions", takes_backbone=True),
        "trn_multiscale": ModelFamily(
            "w3ray.models.trn:TRNMultiscale", "w3ray.models.frame_options:TRNMultiscaleOptions", takes_backbone=True
        ),
        "lstm": ModelFamily(
            "w3ray.models.lstm:FrameLSTM", "w3ray.models.frame_options:LSTMOptions", takes_backbone=True
        ),
        "c3d": ModelFamily("w3ray.models.c3d:C3D", "w3ray.models.clip_options:C3DOptions"),
        "c3d_rsttm": ModelFamily("w3ray.models.c3d_rsttm:C3DRSTTM", "w3ray.models.clip_options:C3DRSTTMOptions"),
        "eco": ModelFamily("w3ray.models.eco:ECO", "w3ray.models.clip_options:ECOOptions"),
        "r3d_18": ModelFamily("w3ray.models.clip_network:r3d_18"),
        "mc3_18": ModelFamily("w3ray.models.clip_network:mc3_18"),
        "r2plus1d_18": ModelFamily("w3ray.models.clip_network:r2plus1d_18"),
        "i3d_r50": ModelFamily("w3ray.models.i3d_resnet:i3d_r50", "w3ray.models.clip_options:I3DResNet50Options"),
        "i3d_gcn": ModelFamily("w3ray.models.i3d_gcn:i3d_gcn", "w3ray.models.clip_options:I3DGCNOptions"),
        "lfb": ModelFamily("w3ray.models.lfb:lfb", "w3ray.models.clip_options:LFBOptions"),
        "i3d_r18": ModelFamily("w3ray.models.i3d_resnet:i3d_r18", "w3ray.models.clip_options:I3DResNet18Options"),
        "i3d_inception": ModelFamily(
            "w3ray.models.i3d_inception:I3DInception", "w3ray.models.clip_options:I3DInceptionOptions"
        ),
        "slowfast_r50": ModelFamily("w3ray.models.slowfast:SlowFast", "w3ray.models.clip_options:SlowFastOptions"),
    },
    fault=_fault,
    contract="w3ray.testing:check_model",
)
"""Name -> its row: what a recipe and `build_model` need."""


def model_family(name: Any) -> ModelFamily:
    """The row with this name.

    Raises:
        ValueError: the name is unknown.
    """
    if not isinstance(name, str) or name not in MODELS:
        raise ValueError(f"unknown model {name!r}; {did_you_mean(str(name), MODELS)}known: {', '.join(MODELS)}")
    return MODELS[name]


__all__ = [
    "BACKBONES",
    "MODELS",
    "MODEL_VERSION",
    "Backbone",
    "LoadedWeights",
    "ModelFamily",
    "Part",
    "Profile",
    "VideoModel",
    "VideoOutput",
    "build_model",
    "load_weights",
    "model_family",
    "profile",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "LoadedWeights": "w3ray.models._common",
        "Part": "w3ray.models.profiling",
        "Profile": "w3ray.models.profiling",
        "VideoModel": "w3ray.models._common",
        "VideoOutput": "w3ray.models._common",
        "build_model": "w3ray.models.build",
        "load_weights": "w3ray.models.weights",
        "profile": "w3ray.models.profiling",
    },
)
