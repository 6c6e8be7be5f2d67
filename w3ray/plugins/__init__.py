"""A user's own parts: how are their modules and files loaded, here and on a cluster, and of which source are they?

A plugin registers its parts in the tables of their families: `LOSSES.add("mine", ...)`. Parts of installed packages
need no loading: their entry points are found by name (`w3ray._registry`).
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
