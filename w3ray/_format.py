"""How are numbers shown to a person, on screens and in reports, and how are they written as JSON?"""

import math
from collections.abc import Mapping
from typing import Any

METRIC_LABELS = {"top1": "top-1", "top5": "top-5", "mean_class_accuracy": "class mean", "map": "mAP", "hit1": "hit@1"}


def percent(share: float | None) -> str:
    """A share as "96.3%"."""
    return "-" if share is None else f"{100 * share:.1f}%"


def duration(seconds: float) -> str:
    """Seconds as "8.2 s" below ten, then "42 s", "3 min 07 s", "2 h 05 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def clock(seconds: float, digits: int = 1) -> str:
    """A moment of a video as "1:02:03.5", hours always."""
    parts = 10**digits
    whole, part = divmod(round(seconds * parts), parts)
    minutes, second = divmod(whole, 60)
    shown = f"{minutes // 60}:{minutes % 60:02d}:{second:02d}"
    return f"{shown}.{part:0{digits}d}" if digits else shown


def without_nan(value: Any) -> Any:
    """NaN and infinities as null: JSON has no form for them, and strict readers refuse the whole document."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value
