"""What is a checkpoint on disk, how is it checked, and how is the same state restored bit for bit?

A checkpoint is a folder of `model.safetensors`, `optimizer.safetensors` and `checkpoint.json`. If the training keeps a
moving average of the weights, `model.safetensors` holds the average, and `raw.safetensors` the weights of the last
step. The JSON is written last and holds the size and SHA-256 of the other files. No file is a pickle. The folder gets
its name only when complete.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from w3ray.storage import file_digest, replacing_folder
from w3ray.training.checkpoint_files import (
    FORMAT_VERSION,
    INDEX_FILE,
    MODEL_FILE,
    OPTIMIZER_FILE,
    RAW_FILE,
    CheckpointError,
    verify_checkpoint,
)
from w3ray.training.moving_average import MovingAverage


class Stateful(Protocol):
    """An object with a state of JSON values, such as `TrainingStep`."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A copy of a checkpoint's content in CPU memory. Training may continue while the copy is written."""

    model: dict[str, Tensor]
    raw: dict[str, Tensor] | None
    """The weights of the last step, if `model` is their average."""
    averaged_steps: int
    optimizer: dict[str, Tensor]
    optimizer_index: dict[str, Any]
    step_state: dict[str, Any]
    meta: dict[str, Any]


def unwrap_model(model: nn.Module) -> nn.Module:
    """The module without DistributedDataParallel and torch.compile: files must not hold the names that these add."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(original := getattr(model, "_orig_mod", None), nn.Module):
            model = original
        else:
            return model


def take_snapshot(
    model: nn.Module,
    *,
    average: MovingAverage | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    step_state: Stateful | None = None,
    meta: Mapping[str, Any],
) -> Snapshot:
    """Copy the state to CPU memory. `meta` holds JSON values (step, epoch, model config, seed, metrics, run id ...).

    Raises:
        TypeError: `meta` holds a value that is not a JSON value.
    """
    plain = unwrap_model(model)
    tensors: dict[str, Tensor] = {}
    index: dict[str, Any] = {"kind": None, "groups": [], "scalars": {}}
    if optimizer is not None:
        tensors, index = _optimizer_state(plain, optimizer)
    state = _copied_state(plain)
    return Snapshot(
        model=state if average is None else _copied_state(average.model),
        raw=None if average is None else state,
        averaged_steps=0 if average is None else average.steps,
        optimizer=tensors,
        optimizer_index=index,
        step_state=step_state.state_dict() if step_state is not None else {},
        meta=json.loads(json.dumps(dict(meta))),
    )


def _copied_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: _to_cpu(tensor) for name, tensor in model.state_dict().items()}


def _to_cpu(tensor: Tensor) -> Tensor:
    # A copy even on the CPU: safetensors refuses shared memory, and training continues to change the original.
    return tensor.detach().to("cpu", copy=True).contiguous()


def _optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by `<parameter name>|<state name>`; and as JSON values, the groups and all state that is not a tensor."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = []
    for group in optimizer.param_groups:
        options = {key: value for key, value in group.items() if key not in ("params", "parameter_names")}
        groups.append({"options": options, "parameters": [names[id(parameter)] for parameter in group["params"]]})
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for parameter, state in optimizer.state.items():
        name = names[id(parameter)]
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{name}|{key}"] = _to_cpu(value)
            else:
                scalars.setdefault(name, {})[key] = value
    return tensors, {"kind": type(optimizer).__name__, "groups": groups, "scalars": scalars}


def write_snapshot(snapshot: Snapshot, directory: str | Path) -> Path:
    """Write the folder `directory` and return it. An existing one is replaced. The folder is never incomplete."""
    directory = Path(directory)
    with replacing_folder(directory, durable=True) as partial:
        save_file(snapshot.model, partial / MODEL_FILE)
        save_file(snapshot.optimizer, partial / OPTIMIZER_FILE)
        names = [MODEL_FILE, OPTIMIZER_FILE]
        if snapshot.raw is not None:
            save_file(snapshot.raw, partial / RAW_FILE)
            names.append(RAW_FILE)
        files = {name: file_digest(partial / name) for name in names}
        index = {
            "format_version": FORMAT_VERSION,
            "files": files,
            "meta": snapshot.meta,
            "step_state": snapshot.step_state,
            "optimizer": snapshot.optimizer_index,
        }
        if snapshot.raw is not None:
            index["averaged_steps"] = snapshot.averaged_steps
        text = json.dumps(index, indent=1)
        # The index holds the checksums of the other files. Its own checksum, in the last line, shows cuts and edits.
        sealed = text + "\n" + hashlib.sha256(text.encode()).hexdigest() + "\n"
        (partial / INDEX_FILE).write_text(sealed, encoding="utf-8")
    return directory


def save_checkpoint(
    directory: str | Path,
    *,
    model: nn.Module,
    average: MovingAverage | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    step_state: Stateful | None = None,
    meta: Mapping[str, Any],
) -> Path:
    """`take_snapshot` and `write_snapshot` in one call."""
    snapshot = take_snapshot(model, average=average, optimizer=optimizer, step_state=step_state, meta=meta)
    return write_snapshot(snapshot, directory)


def load_checkpoint(
    directory: str | Path,
    *,
    model: nn.Module,
    average: MovingAverage | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    step_state: Stateful | None = None,
) -> dict[str, Any]:
    """Verify the checkpoint, then load it into the given objects. Returns the `meta` that was saved with it.

    Without `average`, `model` gets the weights to use: the average, if the training kept one. With `average`, which is
    for training on, `model` gets the weights of the last step.

    Nothing is changed unless everything fits. The given optimizer keeps its learning rate, weight decay and so on.

    Raises:
        CheckpointError: the checkpoint is damaged, or has another architecture or another optimizer.
    """
    index = verify_checkpoint(directory)
    plain = unwrap_model(model)
    tensors = _read_tensors(Path(directory) / MODEL_FILE)
    _check_architecture(directory, plain.state_dict(), tensors)
    averaged = None
    if average is not None:
        if RAW_FILE not in index["files"]:
            raise CheckpointError(f"{directory}: holds no moving average; resume with the settings of its training")
        averaged, tensors = tensors, _read_tensors(Path(directory) / RAW_FILE)
        _check_architecture(directory, plain.state_dict(), tensors)
    optimizer_state = None
    if optimizer is not None:
        optimizer_state = _fitting_optimizer_state(Path(directory), index["optimizer"], plain, optimizer)
    if step_state is not None:
        try:
            step_state.load_state_dict(index["step_state"])
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{directory}: its training state does not fit: {error}") from error
    plain.load_state_dict(tensors)
    if average is not None and averaged is not None:
        average.model.load_state_dict(averaged)
        average.steps = int(index["averaged_steps"])
    if optimizer is not None and optimizer_state is not None:
        optimizer.load_state_dict(optimizer_state)
        _give_strides_of_parameters(optimizer)
    meta: dict[str, Any] = index["meta"]
    return meta


def _give_strides_of_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Files hold tensors in one order of memory. A fused update needs each state in the order of its parameter."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            same_shape = isinstance(value, Tensor) and value.shape == parameter.shape
            if same_shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not readable ({error}); use another checkpoint") from error


def _check_architecture(directory: str | Path, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    faults = [f"no {name}" for name in wanted if name not in found]
    faults += [f"unexpected {name}" for name in found if name not in wanted]
    faults += [
        f"{name} is {tuple(found[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in found and found[name].shape != wanted[name].shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise CheckpointError(
            f"{directory}: checkpoint of another architecture: {'; '.join(faults[:3])}{more}; "
            f"use the model settings of its training"
        )


def _fitting_optimizer_state(
    directory: Path, index: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """The argument for `optimizer.load_state_dict`, after checking that the state fits this optimizer."""
    if index["kind"] != type(optimizer).__name__:
        raise CheckpointError(
            f"{directory}: its optimizer is {index['kind']}, but this one is {type(optimizer).__name__}; "
            f"resume with the optimizer of its training"
        )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    wanted = [[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]
    found = [group["parameters"] for group in index["groups"]]
    if wanted != found:
        raise CheckpointError(
            f"{directory}: the parameter groups of its optimizer have {[len(group) for group in found]} parameters, "
            f"those of this one {[len(group) for group in wanted]}, or other names; "
            f"resume with the settings of its training"
        )
    saved = _read_tensors(directory / OPTIMIZER_FILE)
    by_name: dict[str, dict[str, Any]] = {name: dict(state) for name, state in index["scalars"].items()}
    for key, tensor in saved.items():
        name, _, state_name = key.rpartition("|")
        by_name.setdefault(name, {})[state_name] = tensor
    order = [name for group in wanted for name in group]
    state = {position: by_name[name] for position, name in enumerate(order) if name in by_name}
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
