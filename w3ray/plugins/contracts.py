"""Does a part of a plugin keep the contract of its family?"""

from collections.abc import Iterable

from w3ray._registry import PluginError, attribute, cause
from w3ray.plugins.families import Part, table
from w3ray.plugins.sources import source_of

_kept: set[tuple[Part, str]] = set()
"""The parts that kept their contracts in this process, with the sources that they had."""


def check_contracts(parts: Iterable[Part]) -> None:
    """Run the contract of its family (`w3ray.testing`) on each part that is not built in.

    Raises:
        PluginError: the first one that breaks it.
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
        except Exception as error:  # what a plugin's code does
            broken = str(error) if isinstance(error, AssertionError) else cause(error)
            called = f"{family}: {name!r} of {parts_of.origin(name)}"
            raise PluginError(f"{called} breaks the contract of its family: {broken}") from error
        _kept.add(key)
