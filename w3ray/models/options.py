"""Which options does each family of models take?

Those here are checked without torch, so that a wrong recipe is answered at once.

A family whose options are in the file of its network is checked with torch; nothing else differs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from w3ray._options import Options, check_one_of, check_whole

ShiftMode = Literal["bidirectional", "online"]
"""Where shifted channels come from: both neighbours in time, or the past only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions(Options):
    """The options of a family that has none; base of all others'."""

    label: ClassVar[str] = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class TSMOptions(ModelOptions):
    """The knobs of TSM. Raises ValueError that names the field."""

    label: ClassVar[str] = "TSM"
    shift_div: int = 8
    """1/shift_div of the channels move each way."""
    shift_mode: ShiftMode = "bidirectional"
    """Both ways, or from the past only ("online")."""

    def __post_init__(self) -> None:
        check_whole("TSM", "shift_div", self.shift_div, least=2)
        check_one_of("TSM", "shift_mode", self.shift_mode, ShiftMode)


_SHIFT = ("shift_div", "shift_mode")
"""Options of TSM that were options of all models."""


def model_from_before(values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `build_model`, or a recipe's `model`, that any version wrote, in the present form but for
    the attention.

    Before `options` there was, every model had a shift and a 2D backbone, most of them without effect.

    Raises:
        ValueError: an option is unknown or out of range.
    """
    from w3ray.models import model_family

    values = dict(values)
    family = model_family(values["name"])
    shift = {name: values.pop(name) for name in _SHIFT if name in values}
    options = values.get("options")
    if options is None:
        options = shift if issubclass(family.options, TSMOptions) else {}
    values["options"] = family.options.from_before(options).values()
    if not family.takes_backbone:
        values["backbone"] = None
    return values


def model_as_before(values: Mapping[str, Any]) -> dict[str, Any]:
    """Whole arguments of `build_model` as the first versions wrote them, and what they did not know in its shortest
    form: what identities are hashes of.
    """
    from w3ray.models import model_family

    values = dict(values)
    family = model_family(values["name"])
    options = family.options.from_options(values.pop("options"))
    first = {"shift_div": 8, "shift_mode": "bidirectional"}
    if isinstance(options, TSMOptions):
        values |= options.values()
    else:
        values |= first
        if shortest := options.shortest():
            values["options"] = shortest
    if values["backbone"] is None:
        values["backbone"] = "resnet50"
    return values
