"""The options of each family of models.

The checks here need no torch, so a wrong recipe fails at once.

A family may also define its options in the file of its network. Then the check imports torch; nothing else differs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from w3ray._options import Options, check_one_of, check_whole

ShiftMode = Literal["bidirectional", "online"]
"""Where shifted channels come from: both neighbours in time, or only the past."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions(Options):
    """The options of a family without options, and the base class of all other options."""

    label: ClassVar[str] = "model"
    small: ClassVar[Mapping[str, Any]] = {}
    """Options that make a small network of the family. Checks and tests use it."""
    small_clips: ClassVar[tuple[tuple[int, int, int], ...]] = ((4, 32, 32), (3, 64, 32))
    """T, height and width of clips that the small network takes."""
    side_inputs: ClassVar[tuple[str, ...]] = ()
    """What the network reads besides the clip (`VideoModel.side_inputs`)."""

    @property
    def bank_shape(self) -> tuple[int, int] | None:
        """Features of a bank that a clip comes with, and their channels, of a network that reads "bank"."""
        return None

    def check_clip(self, num_frames: int, size: int) -> None:
        """Check that the network can take clips of `num_frames` frames of `size` x `size` pixels. Here: all clips.

        A family that cannot take every clip overrides this. It needs no torch, so a recipe is refused at once.

        Raises:
            ValueError: it cannot. The message is one line: the model, the given value, and what the network takes.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class TSMOptions(ModelOptions):
    """The options of TSM. Raises ValueError naming the field."""

    label: ClassVar[str] = "TSM"
    shift_div: int = 8
    """1/shift_div of the channels move in each direction."""
    shift_mode: ShiftMode = "bidirectional"
    """"bidirectional": from both neighbours in time. "online": only from the past."""

    def __post_init__(self) -> None:
        check_whole("TSM", "shift_div", self.shift_div, least=2)
        check_one_of("TSM", "shift_mode", self.shift_mode, ShiftMode)


SHIFT_OPTIONS = ("shift_div", "shift_mode")
"""Options of TSM that all models had in older versions."""


def model_from_before(values: Mapping[str, Any]) -> dict[str, Any]:
    """Bring the arguments of `build_model`, or a recipe's `model`, of any version to the present form.

    The attention is not changed. Versions without `options` gave every model a shift and a 2D backbone; for most
    models both had no effect.

    Raises:
        ValueError: an option is unknown or out of range.
    """
    from w3ray.models import model_family

    values = dict(values)
    family = model_family(values["name"])
    shift = {name: values.pop(name) for name in SHIFT_OPTIONS if name in values}
    options = values.get("options")
    if options is None:
        options = shift if issubclass(family.options, TSMOptions) else {}
    values["options"] = family.options.from_before(options).values()
    if not family.takes_backbone:
        values["backbone"] = None
    return values


def model_as_before(values: Mapping[str, Any]) -> dict[str, Any]:
    """The complete arguments of `build_model` in the form of the first versions. Identities hash this form.

    Options that the first versions did not have are in their shortest form.
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
