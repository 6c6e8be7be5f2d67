"""Which parts of a text must be hidden? Passwords in addresses, keys in their queries, secrets from the environment.

They are hidden where values leave the process: in errors, on the terminal, in JSON documents, in events, in the
tracking store and the files on the way to it, and in the files of stages. Code that connects to a service uses the
values as they are.
"""

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"

_USER = re.compile(r"(?<=://)[^\s/?#'\"<>]*@")
_QUERY = re.compile(
    r"([?&;][\w.-]*(?:secret|password|passwd|pwd|token|signature|credential|access[_-]?key|api[_-]?key|\bsig)[\w.-]*=)"
    r"[^&;#\s'\"<>]+",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(
    r"SECRET|PASSWORD|PASSWD|TOKEN(?![A-Z])|ACCESS_KEY|API_KEY|PRIVATE_KEY|CREDENTIAL", re.IGNORECASE
)
# Such a variable says where a secret is or how it is used; it does not hold the secret.
_NO_SECRET = re.compile(r"(_PATH|_FILE|_DIR|_URI|_URL|_MODE|APPLICATION_CREDENTIALS)$", re.IGNORECASE)
_SHORTEST = 6
"""Characters. A shorter value would match parts of unrelated words."""


def redact(text: str) -> str:
    """`text` with each secret replaced by `***`."""
    if "://" in text:
        text = _USER.sub(f"{HIDDEN}@", text)
    if "=" in text:
        text = _QUERY.sub(rf"\g<1>{HIDDEN}", text)
    for secret in _environment_secrets():
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return text


def redacted(value: Any) -> Any:
    """A copy of plain values (mappings, lists, tuples, dataclasses, texts) with `redact` applied to each text."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [redacted(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **{name: redacted(item) for name, item in fields.items()})
    return value


def _environment_secrets() -> list[str]:
    """The secrets in the environment, the longest first: one may be a part of another."""
    found = {
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and _SECRET_NAME.search(name) and not _NO_SECRET.search(name)
    }
    return sorted(found, key=len, reverse=True)
