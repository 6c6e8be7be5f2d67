"""A trained model as one file, for a program that has only PyTorch or ONNX Runtime."""

from w3ray.export._common import check_clips, clip_of
from w3ray.export.clips import CHECK_BATCHES
from w3ray.export.files import LOGITS_TOLERANCE, METADATA, SCORES_TOLERANCE, Exported, export_model, require_packages

__all__ = [
    "CHECK_BATCHES",
    "LOGITS_TOLERANCE",
    "METADATA",
    "SCORES_TOLERANCE",
    "Exported",
    "check_clips",
    "clip_of",
    "export_model",
    "require_packages",
]
