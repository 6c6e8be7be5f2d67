"""Checks whether the parts of plugins keep the contracts of their families."""

from collections.abc import Iterable

from w3ray._registry import PluginError, attribute, cause
from w3ray.plugins.families import Part, table
from w3ray.plugins.sources import source_of

_kept: set[tuple[Part, str]] = set()
"""The parts that passed in this process, with the sources that they had."""


def check_contracts(parts: Iterable[Part]) -> None:
    """Run the contract of its family (`w3ray.testing`) for each part that is not built in.

    Raises:
        PluginError: a part breaks its contract. Only the first one is reported.
    """
    for family, name in parts:
        source = source_of(family, name)
        if source is None or (key := ((family, name), source.sha256)) in _kept:
            continue
        parts_of = table(family)
        try:
            attribute(parts_of.contract)(name)
        except PluginError:
            raise
        except Exception as error:  # a plugin's code can raise anything
            broken = str(error) if isinstance(error, AssertionError) else cause(error)
            called = f"{family}: {name!r} from {parts_of.origin(name)}"
            raise PluginError(f"{called} breaks the contract of its family: {broken}") from error
        _kept.add(key)
