"""Plugins: how a user's modules and files are loaded, here and on a cluster, and which source a part comes from.

A plugin registers its parts in the tables of their families: `LOSSES.add("mine", ...)`. Parts of installed packages
need no loading. They are found by their entry points (`w3ray._registry`).
"""

from w3ray.plugins.contracts import check_contracts
from w3ray.plugins.families import CLIP_FAMILIES, FAMILIES, MODEL_FAMILIES, Part, part_of, table
from w3ray.plugins.loading import ENVIRONMENT_VARIABLE, absolute, load_environment, load_plugins
from w3ray.plugins.shipping import NO_PLUGINS, Shipment, require_parts, shipment
from w3ray.plugins.sources import source_of, sources_of

__all__ = [
    "CLIP_FAMILIES",
    "ENVIRONMENT_VARIABLE",
    "FAMILIES",
    "MODEL_FAMILIES",
    "NO_PLUGINS",
    "Part",
    "Shipment",
    "absolute",
    "check_contracts",
    "load_environment",
    "load_plugins",
    "part_of",
    "require_parts",
    "shipment",
    "source_of",
    "sources_of",
    "table",
]
