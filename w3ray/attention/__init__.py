"""Attention modules: pure torch, one file each, and the function that puts them into a network."""

from collections.abc import Callable

from torch import nn

from w3ray.attention.attach import add_attention, residual_stages
from w3ray.attention.w3 import W3, W3Config

ATTENTION: dict[str, Callable[..., nn.Module]] = {
    "w3": W3,
}
"""Name -> attention class, built as `kind(channels, **options)`; `_common.Attention` is the interface."""

__all__ = ["ATTENTION", "W3", "W3Config", "add_attention", "residual_stages"]
