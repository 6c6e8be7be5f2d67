"""Which documents are the same document? Those with the same digest."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def digest_of(document: Mapping[str, Any]) -> str:
    """Hex SHA-256 of JSON values."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
