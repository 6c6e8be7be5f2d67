"""Where do the initial weights of a stage lie, and what identifies them?

    ResNet50_Weights.IMAGENET1K_V2, efficientnet_lite0   a name: each worker has them, or fetches them by itself
    weights.pth, weights.safetensors                     a file on this machine
    runs/stages/teacher-1234/model                       the folder of a model that w3ray wrote
    s3://bucket/weights.pth                              a file on a store that `w3ray.storage` knows
    https://host/weights.pth#sha256=0123...              a file on the web; the checksum may be left out
    hf://owner/repository@revision/weights.pth           a file of the Hugging Face hub; the revision may be left out
    models:/name@alias, runs:/id/name                    a model in MLflow

Weights are identified by the SHA-256 of their content, wherever they come from, and by their name in the first case.
What is not on this machine is copied into the folder `weights` of the storage, where workers of all nodes read it. A
file on a store is fetched again if its size or time of change differs, a model in MLflow if its alias moves. A file on
the web is fetched once.

A model of w3ray that names other classes gives everything but its classifier.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from w3ray._redact import redact
from w3ray.errors import InputError
from w3ray.heads import Heads
from w3ray.pipeline.tracked import tracked
from w3ray.recipe import Recipe
from w3ray.storage import (
    RemotePath,
    StoragePath,
    file_digest,
    file_size,
    is_remote,
    modified_s,
    replacing,
    storage_path,
    write_json,
)
from w3ray.tracking import local_models
from w3ray.tracking.registered import is_registered

FOLDER = "weights"
_CHECKSUM = re.compile(r"sha256=([0-9a-f]{64})")
_HUB = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([^/]+))?/(.+)")
_COPY = re.compile(r"([0-9a-f]{64})(?:\.\w+)?")
_WEB = ("http://", "https://")


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialWeights:
    """What the recipe's `model.weights` turned out to be."""

    key: str | None
    """Identifies them: "sha256:" and the hash of the content, a name, or None for random weights."""
    place: str | None
    """The name, or the address where a worker on any node finds the file; an argument of `build_model`."""
    source: str | None
    """Where they come from, for people. An alias is resolved to its version."""
    left_out: tuple[str, ...] = ()
    """Tensors that were not copied: the classifier of a model for other classes."""


RANDOM = InitialWeights(key=None, place=None, source=None)


def find_weights(weights: str | None, recipe: Recipe, heads: Heads) -> InitialWeights:
    """Find the initial weights of a stage, and fetch them if they are elsewhere.

    Args:
        weights: `model.weights` of a stage.
        recipe: says where the storage and MLflow are.
        heads: the classes of the recipe's data.

    Raises:
        InputError: they cannot be fetched, or are not what the checksum says.
        StorageFailing, StorageRefused: the store does not answer, or refuses.
    """
    if weights is None:
        return RANDOM
    folder = storage_path(recipe.storage) / FOLDER
    if is_registered(weights):
        with local_models([weights], uri=tracked(recipe)[0].value) as (model,):
            return _own_model(Path(model.folder), model.name, heads, folder)
    if weights.startswith("hf://"):
        return _copied(_from_hub(weights), weights, folder)
    if weights.startswith(_WEB):
        return _from_web(weights, folder)
    if is_remote(weights):
        return _from_store(weights, folder)
    path = Path(weights).expanduser().absolute()
    if (path / "model.json").is_file():
        return _own_model(path, weights, heads, folder)
    if not path.is_file():
        return InitialWeights(key=_name(weights), place=weights, source=weights)
    if isinstance(folder, RemotePath):  # workers may run where this machine's disk is not
        return _copied(path, weights, folder)
    return InitialWeights(key=f"sha256:{_sum(path)}", place=str(path), source=weights)


def _name(weights: str) -> str:
    """A name that stays the same when torchvision gives its alias DEFAULT to newer weights."""
    if not weights.endswith(".DEFAULT"):
        return weights
    from w3ray.models.weights import enum_name

    return enum_name(weights)


def _copied(file: Path, source: str, folder: StoragePath, left_out: tuple[str, ...] = ()) -> InitialWeights:
    """A local file, copied into the folder under the name of its content."""
    digest = _sum(file)
    copy = folder / f"{digest}{file.suffix}"
    if not copy.is_file():
        with replacing(copy) as part:
            shutil.copyfile(file, part)
    return InitialWeights(key=f"sha256:{digest}", place=str(copy), source=source, left_out=left_out)


def _own_model(model: Path, source: str, heads: Heads, folder: StoragePath) -> InitialWeights:
    """The weights of a model that w3ray wrote, without its classifier if its classes are others."""
    from safetensors.torch import load_file, save_file

    from w3ray.models.bundle import WEIGHTS_NAME, load_model, read_description
    from w3ray.models.fits import classifier_names

    description = read_description(model)
    if description.heads == heads.of_scores:
        return _copied(model / WEIGHTS_NAME, source, folder)
    load_model(model)  # whatever is wrong with it is told by its own name
    state, names = load_file(model / WEIGHTS_NAME), classifier_names(description.model)
    with tempfile.TemporaryDirectory(prefix="w3ray-") as scratch:
        rest = Path(scratch) / WEIGHTS_NAME
        save_file({name: value for name, value in state.items() if name not in names}, rest, metadata={"format": "pt"})
        return _copied(rest, source, folder, left_out=names)


def _from_store(address: str, folder: StoragePath) -> InitialWeights:
    try:
        file = storage_path(address)
        there = file.is_file()
    except OSError as error:  # of a file system that connects when it is made
        raise InputError(
            f"weights {address}: cannot be read ({error}); give the path of a local copy instead"
        ) from error
    if not there:
        raise InputError(f"weights {address}: no such file")
    now = {"size": file_size(file), "modified_s": modified_s(file)}
    note = _note(address, folder)
    known = _known(note, folder, address)
    if known is not None and {name: known[1].get(name) for name in now} == now:
        return known[0]
    with _scratch(file.name) as copy:
        with file.open("rb") as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        found = _copied(copy, address, folder)
    _write_note(note, found, address, **now)
    return found


def _from_web(address: str, folder: StoragePath) -> InitialWeights:
    url, _, fragment = address.partition("#")
    wanted = _CHECKSUM.fullmatch(fragment)
    if fragment and wanted is None:
        raise InputError(f"weights {address}: after the # stands no 'sha256=' with 64 hexadecimal digits")
    note = _note(url, folder)
    known = _known(note, folder, address)
    if known is not None and (wanted is None or known[0].key == f"sha256:{wanted[1]}"):
        return known[0]
    from torch.hub import download_url_to_file

    with _scratch(Path(urlsplit(url).path).name or "weights") as copy:
        try:
            download_url_to_file(url, str(copy), hash_prefix=None, progress=False)
        except (OSError, ValueError) as error:  # urllib's errors are OSErrors
            raise InputError(
                f"weights {address}: cannot be downloaded ({error}); give the path of a local copy instead"
            ) from error
        if wanted is not None and (digest := _sum(copy)) != wanted[1]:
            raise InputError(f"weights {address}: the file's sha256 is {digest}; it is not the file that was meant")
        found = _copied(copy, address, folder)
    _write_note(note, found, url)
    return found


def _from_hub(address: str) -> Path:
    """The file in the hub's own cache, which asks whether it is the newest."""
    parts = _HUB.fullmatch(address)
    if parts is None:
        raise InputError(
            f"weights {address}: must be hf://owner/repository/file or hf://owner/repository@revision/file"
        )
    if find_spec("huggingface_hub") is None:
        raise InputError(f"weights {address}: the package huggingface_hub is not installed; pip install 'w3ray[hf]'")
    try:
        return _downloaded(*parts.groups())
    except (OSError, ValueError) as error:  # the hub's own errors, too
        reason = " ".join(str(error).split())
        raise InputError(
            f"weights {address}: cannot be downloaded ({reason}); give the path of a local copy instead"
        ) from error


def _downloaded(repository: str, revision: str | None, file: str) -> Path:
    """A file of the hub. Without a connection: the one that was fetched before.

    Raises:
        OSError, ValueError.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(repository, file, revision=revision))
    except (OSError, ValueError):
        pass  # the hub was reached, or is switched off: the download says what is wrong
    except Exception as error:  # no connection: the download itself would try again for half a minute
        with suppress(OSError):
            return Path(hf_hub_download(repository, file, revision=revision, local_files_only=True))
        raise OSError(f"the hub cannot be reached: {error}") from error
    return Path(hf_hub_download(repository, file, revision=revision))


def _sum(file: Path) -> str:
    return str(file_digest(file)["sha256"])


# The notes about addresses: what was found there.


def _note(address: str, folder: StoragePath) -> StoragePath:
    return folder / f"{hashlib.sha256(address.encode()).hexdigest()}.json"


def _known(note: StoragePath, folder: StoragePath, source: str) -> tuple[InitialWeights, dict[str, object]] | None:
    """What was fetched from an address before, with its note; None: nothing, or it is gone or damaged."""
    if not note.is_file():
        return None
    try:
        document = json.loads(note.read_text())
        name = _COPY.fullmatch(document["file"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if name is None or not (copy := folder / name[0]).is_file():
        return None
    return InitialWeights(key=f"sha256:{name[1]}", place=str(copy), source=source), document


def _write_note(note: StoragePath, found: InitialWeights, address: str, **more: object) -> None:
    assert found.place is not None
    write_json(note, {"address": redact(address), "file": found.place.rpartition("/")[2], **more})


@contextmanager
def _scratch(name: str) -> Iterator[Path]:
    """A path for a download, with the suffix of its name."""
    with tempfile.TemporaryDirectory(prefix="w3ray-") as folder:
        yield Path(folder) / f"download{Path(name).suffix}"
