"""Attention modules: pure torch, one file each, and the function that puts them into a network.

A new attention is a file here and a row in each of the two tables. They, and the options, need no torch.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from w3ray._table import Table, lazy_attributes
from w3ray.attention.options import AttentionConfig, CBAMConfig, NonLocalConfig, W3Config

if TYPE_CHECKING:
    from torch import nn

    from w3ray.attention.attach import add_attention, residual_stages
    from w3ray.attention.w3 import W3

ATTENTION: "Table[Callable[..., nn.Module]]" = Table(
    {
        "w3": "w3ray.attention.w3:W3",
        "cbam": "w3ray.attention.cbam:CBAM",
        "nonlocal": "w3ray.attention.nonlocal_block:NonLocal",
    }
)
"""Name -> attention class, built as `kind(channels, **options)`; `_common.Attention` is the interface."""

ATTENTION_OPTIONS: dict[str, Callable[[Mapping[str, Any]], AttentionConfig]] = {
    "w3": W3Config.from_options,
    "cbam": CBAMConfig.from_options,
    "nonlocal": NonLocalConfig.from_options,
}
"""Name -> check of the options of that attention; raises ValueError for a wrong one."""

__all__ = [
    "ATTENTION",
    "ATTENTION_OPTIONS",
    "W3",
    "AttentionConfig",
    "CBAMConfig",
    "NonLocalConfig",
    "W3Config",
    "add_attention",
    "residual_stages",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "W3": "w3ray.attention.w3",
        "add_attention": "w3ray.attention.attach",
        "residual_stages": "w3ray.attention.attach",
    },
)
