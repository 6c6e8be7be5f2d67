"""Which names and values does MLflow take, and how is everything else made to fit?"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

MAX_VALUE = 6000
_FORBIDDEN = re.compile(r"[^\w\-. :/]", re.ASCII)
_FORBIDDEN_IN_PATHS = re.compile(r"[^\w\-.]", re.ASCII)


def metric_name(name: str) -> str:
    """`name` with each character that MLflow refuses as an underscore."""
    return _FORBIDDEN.sub("_", name)[:250]


def model_name(name: str) -> str:
    """`name` with each character that MLflow refuses in the name of a model as an underscore."""
    return re.sub(r"[/:.%\"']", "_", name)


def artifact_folder(name: str) -> str:
    """`name` as a folder of a run's files; slashes make folders in it.

    Each character that a store might refuse is an underscore, and a name that was changed ends with its digest, so that
    two that differ stay different.
    """
    parts = [_FORBIDDEN_IN_PATHS.sub("_", part)[:100] for part in name.split("/")]
    path = "/".join(part if part.strip(".") else f"_{part}" for part in parts)  # `..` is another folder
    return path if path == name else f"{path}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters as dotted names and strings.

    A value longer than MLflow takes keeps its beginning and ends with its SHA-256, so that two long values that differ
    stay different.
    """
    flat: dict[str, str] = {}
    for name, value in params.items():
        full = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{full}."))
        else:
            flat[metric_name(full)] = _text(value)
    return flat


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else _as_json(value)
    if len(text) <= MAX_VALUE:
        return text
    digest = f" ... sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    return text[: MAX_VALUE - len(digest)] + digest


def _as_json(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    try:
        return json.dumps(value)
    except TypeError:
        return str(value)
