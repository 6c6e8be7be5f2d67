"""How is a trained model exported for a program that has only PyTorch or ONNX Runtime?

The exported graph takes frames as a decoder gives them and returns scores. The normalisation is inside, so that nobody
can get it wrong. Choosing and cropping frames stays outside; the metadata in the file says how it was done in training.
Only the number of clips is free.

    clips   uint8   [batch, T, S, S, C]   RGB, or the grey values of flow, 0 to 255
    logits  float32 [batch, K]            before the softmax: to average views or models, or to calibrate
    scores  float32 [batch, K]            softmax, in the order of the classes (of each head, if there are several)

Every file is checked: it is read back and run on a few clips, and its scores are compared with the model's.
"""

import importlib.util
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from w3ray._version import __version__
from w3ray.data.clip import ClipSpec
from w3ray.errors import InputError, RunError
from w3ray.evaluation.head_scores import softmax_by_head
from w3ray.evaluation.normalize import normalize_clips, scale_and_shift
from w3ray.models.bundle import DESCRIPTION_NAME, ModelDescription, load_model, model_folder
from w3ray.models.side_inputs import names_of
from w3ray.storage import PART_SUFFIX, fetched, replacing

METADATA = "w3ray.json"
"""Name of the metadata inside the file: an extra file in PyTorch's format, a property in ONNX."""

CHECK_BATCHES = (1, 4)
"""Batch sizes of the check, in clips."""
LOGITS_TOLERANCE = 1e-3
"""Largest difference of a logit, as a share of how much logits differ between the clips of the check."""
SCORES_TOLERANCE = 1e-4
"""Largest difference of a score."""

_Run = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A file that was written and checked."""

    path: Path
    metadata: dict[str, Any]
    size_bytes: int
    logits_difference: float
    """The largest difference of a logit that was found, as a share of how much logits differ between clips."""
    scores_difference: float
    """The largest difference of a score that was found."""


class Recogniser(nn.Module):
    """A network from raw frames to logits and scores. It does what `normalize_clips` and the softmax do."""

    scale_C: Tensor
    shift_C: Tensor

    def __init__(self, network: nn.Module, description: ModelDescription) -> None:
        super().__init__()
        self.network, self.heads = network, description.heads
        scale_C, shift_C = scale_and_shift(description.mean, description.std)
        self.register_buffer("scale_C", scale_C)
        self.register_buffer("shift_C", shift_C)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [B, T, S, S, C] -> logits and scores, float32 [B, K]."""
        x_BTHWC = clips.to(torch.float32) * self.scale_C + self.shift_C
        logits_BK = self.network(x_BTHWC.permute(0, 1, 4, 2, 3)).logits_BK
        return logits_BK, softmax_by_head(logits_BK, self.heads)


def export_model(folder: str | os.PathLike[str], kind: str, out: str | os.PathLike[str]) -> Exported:
    """Export a model folder to one file and check it. The file appears only if it gives the scores of the model.

    Args:
        folder: the folder of a model (`w3ray.models.bundle`), or of the stage that trained it.
        kind: a name in FORMATS.
        out: the file; an older one is replaced.

    Raises:
        InputError: there is no such model, it reads more than clips, the format is unknown, the file cannot be
            written, or packages that the format needs are not installed.
        RunError: the network cannot be exported, or the exported network gives other scores.
    """
    if kind not in FORMATS:
        raise InputError(f"unknown format {kind!r}; known: {', '.join(FORMATS)}")
    _, open_run = FORMATS[kind]
    require_packages(kind)
    with fetched(model_folder(folder)) as local:
        network, description = load_model(local)
    if needs := names_of(network):
        raise InputError(
            f"{description.model['name']}: cannot be exported: it reads {', '.join(needs)} with each clip, and an "
            "exported network reads clips only"
        )
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    out = Path(out).absolute()
    metadata = describe(description)
    try:
        with replacing(out, parents=False, suffix=f"{PART_SUFFIX}{out.suffix}") as part:
            part.touch()  # an unwritable file is reported before the network is traced
            _write(part, out, kind, network, description, metadata)
            logits, scores = compare(network, description, open_run(part))
            # `not (a and b)`: a NaN must not pass.
            if not (logits <= LOGITS_TOLERANCE and scores <= SCORES_TOLERANCE):
                raise RunError(
                    f"the exported network gives other scores than the model: scores differ by up to {scores:.2g} "
                    f"(allowed {SCORES_TOLERANCE:g}), logits by {logits:.2%} of their spread (allowed "
                    f"{LOGITS_TOLERANCE:.1%}); no file was written"
                )
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror})") from error
    return Exported(
        path=out,
        metadata=metadata,
        size_bytes=out.stat().st_size,
        logits_difference=logits,
        scores_difference=scores,
    )


def _write(
    part: Path, out: Path, kind: str, network: nn.Module, description: ModelDescription, metadata: dict[str, Any]
) -> None:
    """Write what will be `out` as `part`. Raises: RunError where that fails."""
    write, _ = FORMATS[kind]
    try:
        with _quiet():
            write(Recogniser(network, description).eval(), description, metadata, part)
    except OSError as error:
        raise RunError(f"{out}: cannot be written ({error.strerror or error})") from error
    # Catch everything: the exporters have no common error class.
    except Exception as error:
        raise RunError(f"this network cannot be exported to {kind}: {_cause(error)}") from error


def require_packages(kind: str) -> None:
    """Refuse a format whose packages are not installed.

    Raises: InputError that says what to install.
    """
    missing = [name for name in _PACKAGES[kind] if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"format {kind}: {', '.join(missing)} not installed; pip install 'w3ray[{kind}]'")


def describe(description: ModelDescription) -> dict[str, Any]:
    """What somebody needs to know to use the file. It is written into the file as JSON."""
    clip, num_classes = clip_of(description), len(description.classes)
    return {
        "w3ray_version": __version__,
        "inputs": {
            "clips": {
                "dtype": "uint8",
                "shape": ["batch", clip.num_frames, clip.size, clip.size, clip.channels],
                "meaning": "clips, frames in order of time, height, width, RGB from 0 to 255; not normalised",
            }
        },
        "outputs": {
            "logits": {
                "dtype": "float32",
                "shape": ["batch", num_classes],
                "meaning": "logit of each class, before the softmax",
            },
            "scores": {
                "dtype": "float32",
                "shape": ["batch", num_classes],
                "meaning": "score of each class, between 0 and 1; the scores of one head add up to 1",
            },
        },
        "classes": list(description.classes),
        "heads": [list(head) for head in description.head_sizes],
        "clip": {
            "num_frames": clip.num_frames,
            "sampling": clip.sampling,
            "stride_frames": clip.stride_frames,
            "short_side": clip.resolved_short_side,
            "size": clip.size,
            "crop": "centre",
        },
        "normalised_inside": {"mean": list(description.mean), "std": list(description.std)},
        "model": description.model,
        "stage": description.stage,
        "metrics": description.metrics,
    }


def clip_of(description: ModelDescription) -> ClipSpec:
    """What the clips are that a model takes.

    Raises:
        InputError: the description does not hold it.
    """
    try:
        return ClipSpec(**description.clip)
    except (TypeError, ValueError) as error:
        raise InputError(f"{DESCRIPTION_NAME}: clip: {error}; written by another version?") from error


def compare(network: nn.Module, description: ModelDescription, run: _Run) -> tuple[float, float]:
    """How much logits (as a share of their spread) and scores of an exported network differ from the model's.

    Returns the largest difference of each. The clips are synthetic and always the same: moving smooth colours of
    several contrasts, and noise.
    """
    clips = check_clips(max(CHECK_BATCHES), clip_of(description))
    x_BTCHW = normalize_clips(clips, mean=description.mean, std=description.std)
    with torch.inference_mode():
        expected_BK = network(x_BTCHW).logits_BK.float()
    spread = float((expected_BK.amax(dim=0) - expected_BK.amin(dim=0)).max())
    # A network may give the same logits for all clips. Then their size sets the scale, because the spread is zero.
    spread = max(spread, 1e-3 * float(expected_BK.abs().max()), 1e-9)
    logits_difference = scores_difference = 0.0
    for batch in CHECK_BATCHES:
        logits_BK, scores_BK = run(clips[:batch])
        if logits_BK.shape != expected_BK[:batch].shape or scores_BK.shape != logits_BK.shape:
            return float("inf"), float("inf")
        logits = (logits_BK - expected_BK[:batch]).abs().max() / spread
        scores = (scores_BK - softmax_by_head(expected_BK[:batch], description.heads)).abs().max()
        # torch.maximum keeps a NaN of the exported network; Python's max would drop it.
        logits_difference = float(torch.maximum(logits, torch.tensor(logits_difference)))
        scores_difference = float(torch.maximum(scores, torch.tensor(scores_difference)))
    return logits_difference, scores_difference


def check_clips(num_clips: int, spec: ClipSpec) -> Tensor:
    """Clips for the check, uint8 [N, T, S, S, C]: always the same."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(num_clips, spec.channels, 2 + spec.num_frames // 4, 5, 5, generator=random)
    size_THW = (spec.num_frames, spec.size, spec.size)
    smooth = F.interpolate(coarse, size=size_THW, mode="trilinear", align_corners=True)
    contrast = torch.linspace(0.3, 2.5, num_clips).view(-1, 1, 1, 1, 1)
    noise = 0.1 * torch.randn(smooth.shape, generator=random)
    clips = ((smooth - 0.5) * contrast + 0.5 + noise).clamp(0, 1)
    return (255 * clips).to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous()


def _program(recogniser: nn.Module, description: ModelDescription) -> torch.export.ExportedProgram:
    # Two clips: torch.export would treat a batch of one as a constant.
    example = check_clips(2, clip_of(description))
    with torch.no_grad():
        return torch.export.export(
            recogniser, (example,), dynamic_shapes={"clips": {0: torch.export.Dim("batch", min=1)}}, strict=False
        )


def _write_torch(recogniser: nn.Module, description: ModelDescription, metadata: dict[str, Any], path: Path) -> None:
    torch.export.save(_program(recogniser, description), path, extra_files={METADATA: json.dumps(metadata)})


def _open_torch(path: Path) -> _Run:
    network = torch.export.load(path).module()

    def run(clips: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            logits_BK, scores_BK = network(clips)
        return logits_BK, scores_BK

    return run


def _pool_3d(x_BCTHW: Tensor, size_THW: list[int]) -> Tensor:
    """Adaptive pooling over space, then over time. The result is that of 3D pooling, which ONNX does not have."""
    channels, num_frames = x_BCTHW.shape[1:3]
    T, H, W = size_THW
    space = F.adaptive_avg_pool2d(x_BCTHW.flatten(1, 2), (H, W)).unflatten(1, (channels, num_frames))
    return F.adaptive_avg_pool2d(space.flatten(3, 4), (T, H * W)).unflatten(3, (H, W))


def _write_onnx(recogniser: nn.Module, description: ModelDescription, metadata: dict[str, Any], path: Path) -> None:
    program = torch.onnx.export(
        _program(recogniser, description).run_decompositions({torch.ops.aten.adaptive_avg_pool3d.default: _pool_3d}),
        dynamo=True,
        input_names=["clips"],
        output_names=["logits", "scores"],
        dynamic_shapes={"clips": {0: "batch"}},
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props[METADATA] = json.dumps(metadata)
    program.save(path, external_data=False)


def _open_onnx(path: Path) -> _Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(clips: Tensor) -> tuple[Tensor, Tensor]:
        logits_BK, scores_BK = session.run(["logits", "scores"], {"clips": clips.numpy()})
        return torch.from_numpy(np.asarray(logits_BK)), torch.from_numpy(np.asarray(scores_BK))

    return run


FORMATS: dict[
    str, tuple[Callable[[nn.Module, ModelDescription, dict[str, Any], Path], None], Callable[[Path], _Run]]
] = {
    "torch": (_write_torch, _open_torch),
    "onnx": (_write_onnx, _open_onnx),
}
"""Name -> (function that writes a file, function that opens a file and returns how to run it)."""

_PACKAGES = {"torch": (), "onnx": ("onnx", "onnxscript", "onnxruntime")}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' messages about their inner steps off the terminal."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)


def _cause(error: BaseException) -> str:
    """Why an export failed, on one line. The exporter's own error is a page of advice; its first cause is short."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
