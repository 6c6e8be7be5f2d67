"""The tables of parts that a recipe chooses by name: built-in parts, parts of installed packages, and users' own parts.

A name is known before its member is imported, so recipes are checked fast and without torch. `w3ray.plugins` loads a
user's modules and files, and determines the source of a member.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from w3ray.errors import InputError

T = TypeVar("T")

GROUP_PREFIX = "w3ray."
"""The entry points of a family are in the group `w3ray.<family>`."""


class PluginError(InputError, ValueError):
    """A plugin cannot be used. One line says which one and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a member comes from."""

    module: str
    """The module that registered it, or that its entry point names."""
    file: str | None = None
    """Absolute path of a plugin that is a file."""
    package: str | None = None
    """The installed package with the entry point. None: it is from no package."""
    version: str | None = None

    @property
    def built_in(self) -> bool:
        return self.module == "w3ray"

    def __str__(self) -> str:
        if self.package is not None:
            return f"{self.package} {self.version}"
        return "w3ray itself" if self.built_in else f"module {self.module}" if self.file is None else self.file


_BUILT_IN = Origin(module="w3ray")


@dataclass(frozen=True, slots=True)
class _Entry:
    """What a table stores under a name."""

    value: Any
    """The member, the text "module:attribute", or the entry point that loads the member."""
    origin: Origin
    is_entry_point: bool = False
    """Stored here, because `isinstance` is not reliable: when a package imports the backport of importlib.metadata, as
    MLflow does, entry points get another class."""


def attribute(place: Any) -> Any:
    """Import what "module:attribute" names. Any other value is returned unchanged."""
    if not isinstance(place, str):
        return place
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


_tables: "list[Registry[Any]]" = []
"""All tables of this process."""
files_of_modules: dict[str, str] = {}
"""Module -> the plugin file from which it was made. `w3ray.plugins` maintains it."""


class Registry(Mapping[str, T], Generic[T]):
    """A family of parts: name -> member.

    Args:
        family: its name. Packages register members in the entry-point group `w3ray.<family>`.
        members: the built-in members. A "module:attribute" is imported on first use.
        fault: says why a member is not valid for this family under its name. None: it is valid.
        contract: "module:function" that tests a member by its name (`w3ray.testing`).
    """

    def __init__(
        self,
        family: str,
        members: "Mapping[str, T | str]",
        *,
        fault: Callable[[str, Any], str | None] | None = None,
        contract: str = "",
    ) -> None:
        self.family, self.contract = family, contract
        self._members = {name: _Entry(member, _BUILT_IN) for name, member in members.items()}
        self._added: dict[str, _Entry] = {}
        self._loaded: dict[str, Any] = {}
        self._fault = fault or not_callable
        _tables.append(self)

    def add(self, name: str, member: "T | str") -> None:
        """Register a member, in a module or file that a recipe names in `plugins`.

        Args:
            name: one word, for use in recipes.
            member: a member of the family, or "module:attribute", which is imported on first use.

        Raises:
            PluginError: the name is taken, or the member is not valid for this family.
        """
        module = str(sys._getframe(1).f_globals.get("__name__"))
        origin = Origin(module=module, file=files_of_modules.get(module))
        for other in self._named(name):
            if other.origin != origin:  # a reloaded module replaces its own members
                raise PluginError(
                    f"{self.family}: {name!r} from {origin} already exists, from {other.origin}; rename one"
                )
        self._check(name, member, origin)
        self._added[name] = _Entry(member, origin)

    def forget(self, module: str) -> None:
        """Remove what a module registered."""
        self._added = {name: entry for name, entry in self._added.items() if entry.origin.module != module}

    def origin(self, name: str) -> Origin:
        """Where a member comes from. The member is not loaded.

        Raises:
            KeyError: the name is unknown.
            PluginError: several members have this name.
        """
        return self._entry(name).origin

    def row(self, name: str) -> Any:
        """The member as it was registered. A plugin's is loaded, but a "module:attribute" is not imported.

        Raises:
            KeyError: the name is unknown.
            PluginError: several members have this name, or the package cannot be loaded or gives no valid member.
        """
        entry = self._entry(name)
        if not entry.is_entry_point:
            return entry.value
        if name not in self._loaded:
            try:
                member = entry.value.load()
            except (Exception, SystemExit) as error:  # importing a plugin can raise anything
                raise self._unloadable(name, error) from error
            self._check(name, member, entry.origin)
            self._loaded[name] = member
        return self._loaded[name]

    def __getitem__(self, name: str) -> T:
        row = self.row(name)
        try:
            found: T = attribute(row)
        except Exception as error:
            if self.origin(name).built_in:
                raise
            raise self._unloadable(name, error) from error
        return found

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        if not self._named(name):
            _load_environment()
        return bool(self._named(name))

    def __iter__(self) -> Iterator[str]:
        _load_environment()
        return iter(dict.fromkeys([*self._members, *self._installed, *self._added]))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def _installed(self) -> "Mapping[str, tuple[_Entry, ...]]":
        return installed_groups().get(GROUP_PREFIX + self.family, {})

    def _named(self, name: str) -> list[_Entry]:
        of_tables = [table[name] for table in (self._members, self._added) if name in table]
        return [*of_tables, *self._installed.get(name, ())]

    def _entry(self, name: str) -> _Entry:
        if name not in self:
            raise KeyError(name)
        entries = self._named(name)
        if len(entries) > 1:
            origins = " and ".join(str(entry.origin) for entry in entries)
            raise PluginError(f"{self.family}: {name!r} exists twice, from {origins}; rename or uninstall one")
        return entries[0]

    def _unloadable(self, name: str, error: BaseException) -> PluginError:
        return PluginError(f"{self.family}: {name!r} from {self.origin(name)} cannot be loaded: {cause(error)}")

    def _check(self, name: str, member: Any, origin: Origin) -> None:
        reason = self._fault(name, member) if name.split() == [name] else "its name must be one word"
        if reason is not None:
            raise PluginError(f"{self.family}: {name!r} from {origin} is not valid: {reason}")


def not_callable(name: str, member: Any) -> str | None:
    """The fault of a member that can neither be called nor imported."""
    is_place = isinstance(member, str) and ":" in member
    return None if callable(member) or is_place else f"it is {member!r}, which cannot be called"


def forget_module(module: str) -> None:
    """Remove what a module registered in any table."""
    for table in _tables:
        table.forget(module)


def cause(error: BaseException) -> str:
    """An exception in one line, with its kind."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@cache
def installed_groups() -> dict[str, dict[str, tuple[_Entry, ...]]]:
    """The entry points of all groups that begin with "w3ray.": group -> name -> entries. Nothing is imported."""
    installed = entry_points()
    found: dict[str, dict[str, tuple[_Entry, ...]]] = {}
    for group in sorted(installed.groups):
        if not group.startswith(GROUP_PREFIX):
            continue
        names = found[group] = {}
        for entry in sorted(installed.select(group=group), key=lambda one: (one.name, one.value)):
            package, version = ("a package", "") if entry.dist is None else (entry.dist.name, entry.dist.version)
            origin = Origin(module=entry.module, package=package, version=version)
            names[entry.name] = (*names.get(entry.name, ()), _Entry(entry, origin, is_entry_point=True))
    return found


def _load_environment() -> None:
    attribute("w3ray.plugins:load_environment")()  # by name: w3ray.plugins is in a higher layer


def lazy_attributes(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__` (PEP 562) for public names that are imported on first use; `places`: name -> module."""

    def __getattr__(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(places[name]), name)

    return __getattr__
