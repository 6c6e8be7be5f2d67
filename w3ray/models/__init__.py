"""Video models: backbones, temporal models, refinement, weights, profile. No Ray, MLflow or recipe in here."""

from w3ray.models._common import VideoModel, VideoOutput
from w3ray.models.build import BACKBONES, BACKBONES_3D, MODELS, build_model

MODEL_VERSION: int = 1
"""Raised whenever the same parameters would give other numbers; part of a stage's identity."""

__all__ = ["BACKBONES", "BACKBONES_3D", "MODELS", "MODEL_VERSION", "VideoModel", "VideoOutput", "build_model"]
