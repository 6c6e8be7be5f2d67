"""Which network does a stage train?"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, PlainSerializer, PlainValidator, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from w3ray.attention.options import AttentionConfig, W3Config
from w3ray.models.options import SHIFT_OPTIONS
from w3ray.plugins import Part
from w3ray.recipe._marks import AsBefore, Section
from w3ray.recipe.sections._known import known_in
from w3ray.recipe.sections._merge import merge

if TYPE_CHECKING:
    from w3ray.models.options import ModelOptions


def _read_attention(value: Any) -> AttentionConfig | None:
    """The typed options of an attention, from a recipe's values or a config."""
    from w3ray.attention import attention_config

    if value is None or isinstance(value, AttentionConfig):
        return value
    if not isinstance(value, Mapping):
        raise PydanticCustomError("dict_type", "must be a section of keys")
    return attention_config(value)


def _write_attention(config: AttentionConfig | None) -> dict[str, Any] | None:
    return None if config is None else config.written_out()


def _write_options(options: Any) -> dict[str, Any] | None:
    return None if options is None else options.values()


def options_of_before(model: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a recipe's `model`, or of a part of it, with the old options moved to `options`.

    Raises:
        ValueError: an option is given in both places.
    """
    values = dict(model)
    old = {name: values.pop(name) for name in SHIFT_OPTIONS if name in values}
    if not old:
        return values
    options = values.get("options") or {}
    if twice := sorted(set(old) & set(options)):
        raise ValueError(f"{twice[0]} is the old name of options.{twice[0]}, and both are given; remove one")
    values["options"] = {**options, **old}
    return values


def merge_model(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """`merge` for the keys of a recipe's `model`. The options of another model are not inherited."""
    base, override = options_of_before(base), options_of_before(override)
    if override.get("name", base.get("name")) != base.get("name"):
        base.pop("options", None)
    return merge(base, override)


class Model(Section):
    """The network. `attention: null` is the plain network."""

    name: Annotated[str, known_in("model", "models")] = Field(default="tsm", description="temporal model")
    backbone: Annotated[str, known_in("backbone", "backbones")] = Field(
        default="resnet50", description="2D network inside the temporal model; only for frame networks"
    )
    options: Annotated[Any, AsBefore(None), PlainSerializer(_write_options)] = Field(
        default=None, validate_default=True, description="options of the temporal model, such as TSM's shift_div"
    )
    attention: Annotated[AttentionConfig | None, PlainValidator(_read_attention), PlainSerializer(_write_attention)] = (
        Field(
            default=W3Config(),
            description="kind and options of the attention at the network's sites; null: none",
        )
    )
    refinement: bool = Field(
        default=True,
        description="attention-guided feature refinement; it needs an attention with spatial masks, else it is off",
    )
    dropout: float = Field(default=0.5, ge=0, lt=1, description="share of features dropped before the classifier")
    weights: str | None = Field(
        default=None,
        description="initial weights: torchvision enum, file, folder of a model, s3://, https://, hf:// or models:/ "
        "address; null: random",
    )

    @model_validator(mode="before")
    @classmethod
    def _read_old_names(cls, values: Any) -> Any:
        return options_of_before(values) if isinstance(values, Mapping) else values

    @field_validator("options", mode="plain")
    @classmethod
    def _read_options(cls, value: Any, info: ValidationInfo) -> "ModelOptions | None":
        from w3ray.models import model_family
        from w3ray.models.options import ModelOptions

        if "name" not in info.data:
            return None  # the name is wrong, and that fault is reported
        family = model_family(info.data["name"])
        if isinstance(value, ModelOptions):
            value = value.values()
        if value is not None and not isinstance(value, Mapping):
            raise PydanticCustomError("dict_type", "must be a section of keys")
        return family.options.from_options(value or {})

    @property
    def takes_backbone(self) -> bool:
        """Whether there is a 2D network inside the temporal model."""
        from w3ray.models import model_family

        return model_family(self.name).takes_backbone

    @property
    def refines(self) -> bool:
        """Whether the model has the refinement: it is requested, and the attention has spatial masks."""
        return self.refinement and self.attention is not None and self.attention.has_spatial_mask

    def check_clip(self, num_frames: int, size: int) -> None:
        """Raise ValueError if the network says that it cannot take clips of such frames. torch is not imported."""
        from w3ray.models.fits import check_clip

        check_clip(self.name, self.options, self.backbone, num_frames, size)

    def build_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `build_model`, except `num_classes`. Equal for recipes that mean the same model."""
        backbone = self.backbone if self.takes_backbone else None
        return {**self.model_dump(), "backbone": backbone, "refinement": self.refines}

    def parts(self) -> Iterator[Part]:
        """The parts of the model."""
        yield "models", self.name
        if self.takes_backbone:
            yield "backbones", self.backbone
        if self.attention is not None:
            yield "attentions", self.attention.kind

    def architecture(self) -> dict[str, Any]:
        """The arguments that decide the shapes of parameters and features."""
        arguments = self.build_arguments()
        del arguments["weights"], arguments["dropout"]
        return arguments
