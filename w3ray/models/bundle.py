"""The folder of a finished model, from which it can be rebuilt without its recipe.

    model.safetensors   the weights, under the model's own state names
    raw.safetensors     if these are a moving average: the weights of the last step
    model.json          {"format": 3, "w3ray_version", "model", "clip", "classes", "mean", "std", "stage", "metrics"},
                        "head_sizes" if a clip has several labels, "multi_label" if it has any number of classes (the
                        format is 4 then), "bank" if the network reads one, and "plugins" if parts are not built in

`model` holds the arguments of `build_model`, `clip` holds the fields of `ClipSpec`. No file is a pickle, because the
folder may come from an untrusted source.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from w3ray._registry import PluginError, cause
from w3ray._version import __version__
from w3ray.attention import attention_from_before
from w3ray.errors import InputError
from w3ray.heads import Heads
from w3ray.models.build import build_model
from w3ray.models.options import model_from_before
from w3ray.models.weights import other_gates
from w3ray.plugins import part_of, require_parts, sources_of
from w3ray.storage import StoragePath, replacing_folder, storage_path

FORMAT, MULTI_LABEL_FORMAT = 3, 4
"""Format 1 had no `start` of an attention's gates, format 2 no `options` of a model. Reading adds what is absent.
Format 4 is that of multi-label models: older versions would take their scores for those of one class a clip."""
WEIGHTS_NAME = "model.safetensors"
DESCRIPTION_NAME = "model.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """The content of `model.json`: it describes the weights beside it."""

    model: dict[str, Any]
    """Arguments of `build_model`. `weights` is not written, because the folder holds the trained weights."""
    clip: dict[str, Any]
    """Fields of `ClipSpec`: the clips that the model was trained on."""
    classes: tuple[str, ...]
    """Class names in the order of the scores."""
    head_sizes: tuple[tuple[str, int], ...] = ()
    """Name and number of classes of each head if there are several, as in `w3ray.heads.Heads`."""
    multi_label: bool = False
    """Clips have any number of classes, and scores are sigmoids."""
    mean: tuple[float, ...]
    """One value per channel, subtracted from pixels in [0, 1]."""
    std: tuple[float, ...]
    """One value per channel; divides after the subtraction."""
    stage: str = ""
    """Name of the stage that trained the model."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The result of the model's evaluation."""
    plugins: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The parts that are not built in, with the sources with which they were trained: `w3ray.plugins.sources_of`."""

    bank: dict[str, Any] | None = None
    """Of a network that reads a bank, the fields of `w3ray.data.bank.BankAbout`: which banks it can read."""

    @property
    def heads(self) -> Heads:
        return Heads(self.classes, self.head_sizes, () if self.multi_label else None)

    @property
    def sources(self) -> dict[str, dict[str, Any]]:
        """The sources of `plugins` as they are now.

        Raises:
            InputError: one cannot be read.
        """
        return sources_of(map(part_of, self.plugins))


def write_model(folder: Path | str, model: nn.Module, description: ModelDescription) -> None:
    """Write the folder. It appears complete or not at all, and replaces an older folder.

    Args:
        folder: created, with its parents.
        model: as `build_model` returned it (not wrapped for training).
        description: the description beside the weights.
    """
    folder = Path(folder)
    written = MULTI_LABEL_FORMAT if description.multi_label else FORMAT
    document = {"format": written, "w3ray_version": __version__, **asdict(description)}
    for name in ("head_sizes", "multi_label", "plugins", "bank"):
        if not document[name]:
            del document[name]
    document["model"] = {name: value for name, value in description.model.items() if name != "weights"}
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with replacing_folder(folder, durable=True) as new:
        save_file(state, new / WEIGHTS_NAME, metadata={"format": "pt"})
        (new / DESCRIPTION_NAME).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def load_model(folder: Path | str) -> tuple[nn.Module, ModelDescription]:
    """Rebuild the model of a folder, in eval mode, on the CPU.

    Raises:
        InputError: a file is absent or damaged or has an unknown format, or the weights have another architecture.
    """
    folder = Path(folder)
    description = read_description(folder)
    try:
        # The weights lie beside the description. A `weights` entry in the description is ignored.
        model = build_model(**{**description.model, "weights": None})
    except (TypeError, ValueError) as error:
        raise InputError(f"{folder / DESCRIPTION_NAME}: model: {error}; written by another version?") from error
    except Exception as error:
        if not description.plugins:
            raise
        raise InputError(f"{folder / DESCRIPTION_NAME}: model: {cause(error)}") from error  # whatever a plugin does
    try:
        state = load_file(folder / WEIGHTS_NAME)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder / WEIGHTS_NAME}: cannot be read ({error}); make the model again") from error
    expected = model.state_dict()
    if message := other_gates(state, expected):
        raise InputError(f"{folder / WEIGHTS_NAME}: {message}")
    wrong = sorted(set(state) ^ set(expected))
    wrong += sorted(name for name in set(state) & set(expected) if state[name].shape != expected[name].shape)
    if wrong:
        raise InputError(
            f"{folder / WEIGHTS_NAME}: does not match the architecture in {DESCRIPTION_NAME}; {len(wrong)} tensors are "
            f"missing, unexpected or of another shape: {', '.join(wrong[:5])}"
        )
    model.load_state_dict(state)
    return model.eval(), description


def model_folder(location: str | os.PathLike[str]) -> StoragePath:
    """The folder of a model: `location` itself, or its subfolder `model` if `location` is the folder of a stage.

    Raises:
        InputError: neither folder holds a model.
    """
    folder = storage_path(location)
    for candidate in (folder, folder / "model"):
        if (candidate / DESCRIPTION_NAME).is_file():
            return candidate
    stages = folder if folder.name == "stages" else folder / "stages"
    found = sorted(str(stage) for stage in stages.iterdir() if (stage / "model").is_dir()) if stages.is_dir() else []
    example = "such as runs/stages/student-<id>" if not found else f"one of {', '.join(found[:8])}"
    raise InputError(f"{location}: no model here; name the folder of a stage or of its model, {example}")


def read_description(folder: Path | str) -> ModelDescription:
    """Read `model.json` alone.

    Raises:
        InputError: the file is absent or damaged, or has an unknown format, or needs a plugin that is not there.
    """
    path = Path(folder) / DESCRIPTION_NAME
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = document["format"]
        if found not in (1, 2, FORMAT, MULTI_LABEL_FORMAT):
            raise InputError(
                f"{path}: format {found}, but this version of w3ray reads formats 1 to {MULTI_LABEL_FORMAT}"
            )
        plugins = dict(document.get("plugins", {}))
        require_parts(plugins)
        model = model_from_before(document["model"])
        if found == 1 and model.get("attention") is not None:
            model["attention"] = attention_from_before(model["attention"]).written_out()
        return ModelDescription(
            model=model,
            clip=dict(document["clip"]),
            classes=tuple(document["classes"]),
            head_sizes=tuple((name, int(size)) for name, size in document.get("head_sizes", ())),
            multi_label=bool(document.get("multi_label", False)),
            mean=tuple(document["mean"]),
            std=tuple(document["std"]),
            stage=document["stage"],
            metrics=dict(document["metrics"]),
            plugins=plugins,
            bank=document.get("bank"),
        )
    except PluginError as error:
        raise InputError(f"{path}: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; name the folder of a trained model") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not a description of a model ({error!r}); make the model again") from error
