"""Attention modules: pure torch, one file each, and the function that puts them into a network.

A new attention is one file here and one row in the table `ATTENTION`. The table and the options do not import torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from w3ray._nearest import did_you_mean
from w3ray._registry import Registry, attribute, lazy_attributes
from w3ray.attention.options import AttentionConfig, CBAMConfig, NonLocalConfig, W3Config

if TYPE_CHECKING:
    from torch import nn

    from w3ray.attention._common import AttentionOutput
    from w3ray.attention.attach import add_attention, network_stages
    from w3ray.attention.w3 import W3


@dataclass(frozen=True, slots=True)
class AttentionKind:
    """A row of the table: the options' class, and the module as "module:class", imported on first use."""

    config: type[AttentionConfig]
    place: "str | Callable[[int, Any], nn.Module]"

    @property
    def module(self) -> "Callable[[int, Any], nn.Module]":
        """The class, built as `module(channels, config)`; `_common.Attention` is the interface."""
        found: Callable[[int, Any], nn.Module] = attribute(self.place)
        return found


def _fault(kind: str, row: Any) -> str | None:
    if not isinstance(row, AttentionKind):
        return f"it must be an AttentionKind(config, module), not {row!r}"
    config = row.config
    if not (isinstance(config, type) and issubclass(config, AttentionConfig)):
        return f"its config must be a subclass of AttentionConfig, not {config!r}"
    if getattr(config, "kind", None) != kind:
        return f"the kind of {config.__name__} is {getattr(config, 'kind', None)!r}, not {kind!r}"
    return None if isinstance(getattr(config, "label", None), str) else f"{config.__name__} has no label for messages"


ATTENTION: Registry[AttentionKind] = Registry(
    "attentions",
    {
        row.config.kind: row
        for row in (
            AttentionKind(W3Config, "w3ray.attention.w3:W3"),
            AttentionKind(CBAMConfig, "w3ray.attention.cbam:CBAM"),
            AttentionKind(NonLocalConfig, "w3ray.attention.nonlocal_block:NonLocal"),
        )
    },
    fault=_fault,
    contract="w3ray.testing:check_attention",
)
"""Kind -> its row: what a recipe and a network need."""


def attention_kind(kind: Any) -> type[AttentionConfig]:
    """The options' class of a kind.

    Raises:
        ValueError: the kind is unknown.
    """
    if not isinstance(kind, str) or kind not in ATTENTION:
        raise ValueError(f"unknown kind {kind!r}; {did_you_mean(str(kind), ATTENTION)}known: {', '.join(ATTENTION)}")
    return ATTENTION[kind].config


def attention_config(options: Mapping[str, Any]) -> AttentionConfig:
    """The config for the options of a recipe, such as `{kind: w3, reduction: 8}`. The default kind is w3.

    Raises:
        ValueError: an unknown kind, or an option that is unknown or out of range.
    """
    kind = attention_kind(options.get("kind", W3Config.kind))
    return kind.from_options({name: value for name, value in options.items() if name != "kind"})


def attention_from_before(options: Mapping[str, Any]) -> AttentionConfig:
    """As `attention_config`, for options written by an older version: absent ones get that version's defaults."""
    kind = attention_kind(options.get("kind", W3Config.kind))
    return kind.from_before({name: value for name, value in options.items() if name != "kind"})


__all__ = [
    "ATTENTION",
    "W3",
    "AttentionConfig",
    "AttentionKind",
    "AttentionOutput",
    "CBAMConfig",
    "NonLocalConfig",
    "W3Config",
    "add_attention",
    "attention_config",
    "attention_from_before",
    "attention_kind",
    "network_stages",
]

__getattr__ = lazy_attributes(
    __name__,
    {
        "AttentionOutput": "w3ray.attention._common",
        "W3": "w3ray.attention.w3",
        "add_attention": "w3ray.attention.attach",
        "network_stages": "w3ray.attention.attach",
    },
)
