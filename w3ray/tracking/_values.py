"""Which names and values does MLflow accept, and how are others changed to fit?"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

MAX_VALUE = 6000
_FORBIDDEN = re.compile(r"[^\w\-. :/]", re.ASCII)
_FORBIDDEN_IN_PATHS = re.compile(r"[^\w\-.]", re.ASCII)


def metric_name(name: str) -> str:
    """`name` with an underscore in place of each character that MLflow refuses."""
    return _FORBIDDEN.sub("_", name)[:250]


def model_name(name: str) -> str:
    """`name` with an underscore in place of each character that MLflow refuses in a model's name."""
    return re.sub(r"[/:.%\"']", "_", name)


def artifact_folder(name: str) -> str:
    """`name` as an artifact folder of a run; slashes make nested folders.

    An underscore replaces each character that a store might refuse. A changed name ends with its digest, so that
    different names stay different.
    """
    parts = [_FORBIDDEN_IN_PATHS.sub("_", part)[:100] for part in name.split("/")]
    path = "/".join(part if part.strip(".") else f"_{part}" for part in parts)  # `..` is another folder
    return path if path == name else f"{path}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested parameters as dotted names and strings.

    A value that is too long for MLflow keeps its beginning and ends with its SHA-256, so that different long values
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
