"""How is a dotted field read from and written to a recipe's plain values?"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from w3ray.attention import attention_config
from w3ray.recipe.load import put_value


def put_field(values: dict[str, Any], name: str, value: Any) -> None:
    if name.endswith(".attention.kind"):
        # Options of the old kind that differ from its defaults stay; validation rejects those that do not fit the new
        # kind.
        above = name.removesuffix(".kind")
        if (old := get_field(values, above)) and old.get("kind", value) != value:
            defaults = attention_config({"kind": old["kind"]}).written_out()
            kept = {option: given for option, given in old.items() if given != defaults.get(option)}
            put_value(values, above.split("."), kept, name)
    put_value(values, name.split("."), deepcopy(value), name)


def get_field(values: Any, name: str) -> Any:
    """The value of a dotted field; None if a part of it is absent."""
    for part in name.split("."):
        if isinstance(values, list):
            values = next((item for item in values if isinstance(item, dict) and item.get("name") == part), None)
        elif isinstance(values, dict):
            values = values.get(part)
        else:
            return None
    return values


def holds(value: Any, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, list | tuple) else bool(value == wanted)


def stage_names_of(values: Mapping[str, Any]) -> list[str]:
    """The stage names in a recipe's plain values, which may be invalid."""
    stages = values.get("stages")
    return [str(get_field(stage, "name")) for stage in stages] if isinstance(stages, list) else []
