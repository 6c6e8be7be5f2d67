"""A model's files in memory: how a model reaches nodes that cannot read its folder."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from w3ray.data.views import Protocol
from w3ray.evaluation.scorer import Average, FeatureScorer, Kept, Scorer
from w3ray.models.bundle import DESCRIPTION_NAME, WEIGHTS_NAME, ModelDescription, load_model, read_description
from w3ray.storage import StoragePath, fetched

ModelFiles = Mapping[str, bytes]
"""Name -> content of each file of a model's folder."""


def model_files(folder: StoragePath) -> ModelFiles:
    """The files of a model, for nodes that cannot read its folder.

    Raises:
        InputError: the folder holds no model.
    """
    with fetched(folder) as local:
        read_description(local)
        return {name: (local / name).read_bytes() for name in (WEIGHTS_NAME, DESCRIPTION_NAME)}


def scorer_of(
    files: ModelFiles,
    protocol: Protocol,
    average: Average,
    flip_map: Mapping[int, int],
    *,
    device: str | None = None,
) -> Scorer:
    """A `Scorer` made from a model's files, on `device`. None: on this process's GPU if it has one."""
    import torch

    with _unpacked(files) as folder:
        model, description = load_model(folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Scorer(model, description, mirrored_V=protocol.mirrored_V, average=average, flip_map=flip_map, device=device)


def kept_of(
    files: ModelFiles, protocol: Protocol, average: Average, flip_map: Mapping[int, int], keep: Kept
) -> Scorer | FeatureScorer:
    """As `scorer_of`; with `keep="features"`, a `FeatureScorer`."""
    import torch

    if keep == "scores":
        return scorer_of(files, protocol, average, flip_map)
    with _unpacked(files) as folder:
        model, description = load_model(folder)
    return FeatureScorer(model, description, device="cuda" if torch.cuda.is_available() else "cpu")


def description_of(files: ModelFiles) -> ModelDescription:
    """The model's description, from its files."""
    with _unpacked(files) as folder:
        return read_description(folder)


@contextmanager
def _unpacked(files: ModelFiles) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="w3ray-model-") as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        yield Path(folder)
