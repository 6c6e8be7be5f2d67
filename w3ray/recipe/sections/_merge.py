"""What does a section become when a stage overrides parts of it?"""

from collections.abc import Mapping
from typing import Any

_OTHER_NAMES = {"identity_start": "start", "start": "identity_start"}
"""An option of attentions has two names; the one that is given replaces the other one below it."""


def merge(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `override`; sections are merged, but for an attention of another kind."""
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
