"""How does a stage override parts of a section?"""

from collections.abc import Mapping
from typing import Any

_RENAMED = {"identity_start": "start", "subsample": "pool"}
_OTHER_NAMES = {**_RENAMED, **{new: old for old, new in _RENAMED.items()}}
"""Options of attentions with an old and a new name. An override by one name replaces a value under the other."""


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `override`. Nested sections are merged, except for an attention of another kind."""
    replaced = {_OTHER_NAMES.get(key) for key in override} - set(override)
    merged = {key: value for key, value in base.items() if key not in replaced}
    for key, value in override.items():
        old = merged.get(key)
        other_kind = isinstance(value, Mapping) and isinstance(old, Mapping) and value.get("kind", old.get("kind"))
        if isinstance(old, Mapping) and isinstance(value, Mapping) and other_kind == old.get("kind"):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged
