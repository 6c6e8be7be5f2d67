"""How does a YAML file, with overrides from the command line, become a recipe or a list of faults?"""

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from w3ray._nearest import did_you_mean
from w3ray.errors import InputError
from w3ray.models.options import SHIFT_OPTIONS
from w3ray.plugins import absolute
from w3ray.recipe._recipe import Recipe
from w3ray.recipe.faults import fault_lines, override_faults, show

PIPELINES = Path(__file__).resolve().parent.parent / "_pipelines"
"""The shipped recipes. In a checkout this is a link to `pipelines/`, in a wheel a copy."""


class _Loader(yaml.SafeLoader):
    """Safe YAML loader. It refuses aliases and duplicate keys, and reads 1e-4 as a number, as YAML 1.2 does.

    Aliases are refused because a few lines of nested aliases can expand to gigabytes.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            event = self.peek_event()
            line = event.start_mark.line + 1
            raise InputError(f"line {line}: the alias *{event.anchor} is not supported; write the part out")
        return super().compose_node(parent, index)


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        key = str(key_node.value)
        if key in seen:
            line = key_node.start_mark.line + 1
            raise InputError(f"line {line}: key {key!r} appears twice; remove one")
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def known_recipes() -> dict[str, Path]:
    """The shipped recipes: name -> file."""
    return {path.stem: path for path in sorted(PIPELINES.glob("*.yaml"))}


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe from a YAML file, or a shipped recipe by name.

    Args:
        name_or_path: "quickstart", or a path that ends with .yaml or .yml.
        overrides: "train.epochs=3", "model.attention=null", "stages.student.loss_weights.mfr=0.3" (YAML values).

    Raises:
        InputError: the recipe is absent or has faults. The message has one line for each fault.
    """
    path = find_recipe(name_or_path)
    return checked(recipe_values(path), overrides, path.name)


def checked(values: dict[str, Any], overrides: Sequence[str], source: str) -> Recipe:
    """Apply the overrides to plain values, and build the recipe. Faults of the values are reported for `source`.

    Raises:
        InputError: as in `load_recipe`.
    """
    overridden = [apply_override(values, override) for override in overrides]
    try:
        return Recipe.model_validate(values, context={"fresh_plugins": True})
    except ValidationError as error:
        lines = fault_lines(error, Recipe, (), stage_names=_stage_names(values))
        if not any(detail["loc"] == () for detail in error.errors()):
            lines += override_faults(values, Recipe)
        raise InputError(*(_with_source(line, source, overridden) for line in lines)) from None


def find_recipe(name_or_path: str | Path) -> Path:
    """The file of a recipe. Raises InputError if there is none."""
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith((".yaml", ".yml")) or "/" in text:
        path = Path(text).expanduser()
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "no such file"
            raise InputError(
                f"{path}: {what}; give a recipe file, or the name of a shipped recipe: {', '.join(known_recipes())}"
            )
        return path
    known = known_recipes()
    if text not in known:
        raise InputError(
            f"unknown recipe {text!r}; {did_you_mean(text, known)}known: {', '.join(known) or 'none'}; "
            "the name of a recipe file must end with .yaml"
        )
    return known[text]


def recipe_values(path: Path) -> dict[str, Any]:
    """The plain values of a recipe file, its plugins with their paths. Raises: as `read_yaml`."""
    values = read_yaml(path)
    if isinstance(names := values.get("plugins"), list):
        folder = path.absolute().parent
        values["plugins"] = [absolute(name, folder) if isinstance(name, str) else name for name in names]
    return values


@lru_cache(maxsize=64)
def _parsed(text: str) -> Any:
    """The values of a text. Kept, because a command may load one recipe several times, and to parse it is slow."""
    return yaml.load(text, Loader=_Loader)


def read_yaml(path: Path) -> dict[str, Any]:
    """The plain values of a YAML file. Raises InputError with the line number if it is not valid YAML."""
    try:
        values = deepcopy(_parsed(path.read_text(encoding="utf-8")))
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path.name}: line {mark.line + 1}" if mark else path.name
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise InputError(f"{where}: not valid YAML: {problem}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    except RecursionError:
        raise InputError(f"{path.name}: not a recipe: its values are nested too deeply") from None
    if not isinstance(values, dict):
        raise InputError(f"{path.name}: must hold the keys of a recipe, got {show(values)}")
    return values


def apply_override(values: dict[str, Any], override: str) -> str:
    """Apply one override "a.b=value" to the plain values. Returns its dotted key.

    A stage is given by its name or number. A section that is absent or null is created.

    Raises:
        InputError: the text has another form, or names an unknown stage.
    """
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise InputError(f"--set {override}: must look like key=value, such as train.epochs=3")
    try:
        value = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, InputError, RecursionError):
        raise InputError(f"--set {override}: {text!r} is not valid YAML; quote it") from None
    put_value(values, parts, value, f"--set {override}")
    return ".".join(parts)


def put_value(values: dict[str, Any], parts: Sequence[str], value: Any, said: str) -> None:
    """Set a value at a dotted key, given as its parts, in the plain values of a recipe.

    A stage is given by its name or number. A section that is absent or null is created.

    Args:
        said: what the user wrote. Error messages begin with it.

    Raises:
        InputError: the key goes through a value that has no keys, or names an unknown stage.
    """
    place: Any = values
    for depth, part in enumerate(parts[:-1]):
        if isinstance(place, list):
            place = place[_list_index(place, part, said)]
        else:
            if place.get(part) is None:
                place[part] = {}
            place = place[part]
        if not isinstance(place, dict | list):
            where = ".".join(parts[: depth + 1])
            raise InputError(f"{said}: {where} is {show(place)}, which has no keys; set {where} itself")
    if isinstance(place, dict) and tuple(parts[-2:]) == ("model", "name") and place.get("name") != value:
        for option in ("options", *SHIFT_OPTIONS):  # options of the previous model
            place.pop(option, None)
    if isinstance(place, list):
        place[_list_index(place, parts[-1], said)] = value
    else:
        place[parts[-1]] = value


def _list_index(items: list[Any], part: str, said: str) -> int:
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    if part in names:
        return names.index(part)
    if part.isdecimal() and int(part) < len(items):
        return int(part)
    known = [name for name in names if isinstance(name, str)]
    raise InputError(
        f"{said}: nothing is named {part!r}; {did_you_mean(part, known)}"
        f"known: {', '.join(known) or f'0 to {len(items) - 1}'}"
    )


def _stage_names(values: Mapping[str, Any]) -> list[str]:
    stages = values.get("stages")
    if not isinstance(stages, list):
        return []
    return [
        str(stage["name"]) if isinstance(stage, dict) and isinstance(stage.get("name"), str) else str(number)
        for number, stage in enumerate(stages)
    ]


def _with_source(line: str, file_name: str, overridden: Sequence[str]) -> str:
    """The line with its source in front: `--set` if an override set the faulty value, else the file."""
    where = line.partition(":")[0]
    # Options are checked as a whole: the fault names the section, while the override names a key in it.
    by_override = any(f"{where}.".startswith(f"{key}.") or f"{key}.".startswith(f"{where}.") for key in overridden)
    return f"--set: {line}" if by_override else f"{file_name}: {line}"
