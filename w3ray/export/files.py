"""How is a trained model exported for a program that has only PyTorch or ONNX Runtime?

The exported graph takes frames as a decoder gives them and returns scores. The normalisation is inside, so that nobody
can get it wrong. Choosing and cropping frames stays outside; the metadata in the file says how it was done in training.
Only the number of clips, or of streams, is free: `w3ray.export.clips`, `w3ray.export.stream`.

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
from torch import Tensor
from torch.nn import functional as F

from w3ray.errors import InputError, RunError
from w3ray.export._common import Exportable, Run
from w3ray.export.clips import Recogniser
from w3ray.models.bundle import ModelDescription, load_model, model_folder
from w3ray.models.side_inputs import names_of
from w3ray.storage import PART_SUFFIX, fetched, replacing

METADATA = "w3ray.json"
"""Name of the metadata inside the file: an extra file in PyTorch's format, a property in ONNX."""

LOGITS_TOLERANCE = 1e-3
"""Largest difference of a logit, as a share of how much logits differ between the clips of the check."""
SCORES_TOLERANCE = 1e-4
"""Largest difference of a score."""


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


def export_model(
    folder: str | os.PathLike[str], kind: str, out: str | os.PathLike[str], *, stream: bool = False
) -> Exported:
    """Export a model folder to one file and check it. The file appears only if it gives the scores of the model.

    Args:
        folder: the folder of a model (`w3ray.models.bundle`), or of the stage that trained it.
        kind: a name in FORMATS.
        out: the file; an older one is replaced.
        stream: the exported network takes frame after frame (`w3ray.export.stream`).

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
    recogniser = _stream_of(network, description) if stream else Recogniser(network, description).eval()
    metadata = recogniser.describe()
    try:
        with replacing(out, parents=False, suffix=f"{PART_SUFFIX}{out.suffix}") as part:
            part.touch()  # an unwritable file is reported before the network is traced
            _write(part, out, kind, recogniser, metadata)
            logits, scores = recogniser.differences(open_run(part, recogniser))
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


def _stream_of(network: Any, description: ModelDescription) -> Exportable:
    from w3ray.export.stream import StreamRecogniser

    try:
        return StreamRecogniser(network, description).eval()
    except ValueError as error:
        raise InputError(f"{error}; or export it without --stream") from error


def _write(part: Path, out: Path, kind: str, recogniser: Exportable, metadata: dict[str, Any]) -> None:
    """Write what will be `out` as `part`. Raises: RunError where that fails."""
    write, _ = FORMATS[kind]
    try:
        with _quiet():
            write(recogniser, metadata, part)
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


def _program(recogniser: Exportable) -> torch.export.ExportedProgram:
    shapes = recogniser.dynamic_shapes(torch.export.Dim("batch", min=1))
    with torch.no_grad():
        return torch.export.export(recogniser, recogniser.example(), dynamic_shapes=shapes, strict=False)


def _write_torch(recogniser: Exportable, metadata: dict[str, Any], path: Path) -> None:
    torch.export.save(_program(recogniser), path, extra_files={METADATA: json.dumps(metadata)})


def _open_torch(path: Path, recogniser: Exportable) -> Run:
    network = torch.export.load(path).module()

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        with torch.inference_mode():
            return tuple(network(*inputs))

    return run


def _pool_3d(x_BCTHW: Tensor, size_THW: list[int]) -> Tensor:
    """Adaptive pooling over space, then over time. The result is that of 3D pooling, which ONNX does not have."""
    channels, num_frames = x_BCTHW.shape[1:3]
    T, H, W = size_THW
    space = F.adaptive_avg_pool2d(x_BCTHW.flatten(1, 2), (H, W)).unflatten(1, (channels, num_frames))
    return F.adaptive_avg_pool2d(space.flatten(3, 4), (T, H * W)).unflatten(3, (H, W))


def _write_onnx(recogniser: Exportable, metadata: dict[str, Any], path: Path) -> None:
    program = torch.onnx.export(
        _program(recogniser).run_decompositions({torch.ops.aten.adaptive_avg_pool3d.default: _pool_3d}),
        dynamo=True,
        input_names=list(recogniser.input_names),
        output_names=list(recogniser.output_names),
        dynamic_shapes=recogniser.dynamic_shapes("batch"),
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props[METADATA] = json.dumps(metadata)
    program.save(path, external_data=False)


def _open_onnx(path: Path, recogniser: Exportable) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        given = {name: one.numpy() for name, one in zip(recogniser.input_names, inputs, strict=True)}
        return tuple(torch.from_numpy(np.asarray(one)) for one in session.run(list(recogniser.output_names), given))

    return run


FORMATS: dict[str, tuple[Callable[[Exportable, dict[str, Any], Path], None], Callable[[Path, Exportable], Run]]] = {
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
