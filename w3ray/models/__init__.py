"""Video models: backbones, temporal models, refinement, weights, profile. No Ray, MLflow or recipe in here."""

from w3ray.models._common import VideoModel, VideoOutput
from w3ray.models.build import BACKBONES, BACKBONES_3D, MODELS, build_model
from w3ray.models.profile import Part, Profile, profile
from w3ray.models.weights import LoadedWeights, load_weights

MODEL_VERSION: int = 1
"""Raised whenever the same parameters would give other numbers; part of a stage's identity."""

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
