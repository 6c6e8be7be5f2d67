"""The source of a part: its package, its version, and a hash of its files."""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from w3ray._registry import PluginError
from w3ray.plugins.families import Part, table
from w3ray.plugins.loading import text_of_file


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Package and version of a part, and the SHA-256 of its files."""

    package: str | None
    version: str | None
    sha256: str

    def values(self) -> dict[str, Any]:
        return {"package": self.package, "version": self.version, "sha256": self.sha256}


def source_of(family: str, name: str) -> Source | None:
    """The source of a part. None: it is built in.

    For a part of a package, the files are the file that registers it, the modules of its class, and what these import
    from the same package. For a part of a file, it is this file.

    Raises:
        KeyError: the name is unknown.
        PluginError: its plugin cannot be loaded, its source cannot be read, or no other process can load it.
    """
    parts = table(family)
    origin = parts.origin(name)
    if origin.built_in:
        return None
    if origin.file is not None and (text := text_of_file(origin.file)) is not None:
        return Source(package=None, version=None, sha256=_hash(text.encode()))
    top = origin.module.partition(".")[0]
    if top == "__main__":
        raise PluginError(
            f"{family}: {name!r} was registered by the program itself, which other processes cannot import; "
            "move it into a file, and name this file in the recipe's plugins"
        )
    own = {module for module in modules_of(parts.row(name)) if module.partition(".")[0] == top}
    files = _files_of(top, {origin.module, *own})
    if origin.module not in files:
        raise PluginError(f"{family}: {name!r} from {origin}: the source of {origin.module} cannot be found")
    content = [f"{module} {_hash(path.read_bytes())}" for module, path in sorted(files.items())]
    package, its_version = (origin.package, origin.version) if origin.package else _package_of(top)
    return Source(package=package, version=its_version, sha256=_hash("\n".join(content).encode()))


def sources_of(parts: Iterable[Part]) -> dict[str, dict[str, Any]]:
    """`family/name` -> source, as JSON values, for the parts that are not built in.

    Raises:
        PluginError: as `source_of`.
    """
    found = {f"{family}/{name}": source_of(family, name) for family, name in parts}
    return {part: source.values() for part, source in sorted(found.items()) if source is not None}


def modules_of(member: Any) -> Iterator[str]:
    """The modules that define a member of a table. For a row with fields: the modules of all its fields."""
    if isinstance(member, str):
        module, colon, _ = member.partition(":")
        if colon:
            yield module
    elif is_dataclass(member) and not isinstance(member, type):
        for field in fields(member):
            yield from modules_of(getattr(member, field.name))
    elif callable(member):
        yield str(getattr(member, "__module__", ""))


def _files_of(top: str, modules: set[str]) -> dict[str, Path]:
    """Module -> file, for modules of the package `top` and all that they import from it. Nothing is imported."""
    found: dict[str, Path] = {}
    wanted = set(modules)
    while wanted:
        module = wanted.pop()
        path = None if module in found else _file_of(top, module)
        if path is None:
            continue
        found[module] = path
        names = module.split(".")
        wanted.update(".".join(names[:count]) for count in range(1, len(names)))  # parent packages are imported first
        wanted.update(name for name in _imports(module, path) if name.partition(".")[0] == top)
    return found


def _file_of(top: str, module: str) -> Path | None:
    spec = find_spec(top)  # finding a top-level module imports nothing
    if spec is None:
        return None
    if module == top:
        return Path(spec.origin) if spec.origin is not None and Path(spec.origin).is_file() else None
    for root in spec.submodule_search_locations or ():
        base = Path(root, *module.split(".")[1:])
        for path in (base / "__init__.py", *(Path(f"{base}{suffix}") for suffix in (".py", *EXTENSION_SUFFIXES))):
            if path.is_file():
                return path
    return None


def _imports(module: str, path: Path) -> Iterator[str]:
    """The names that a file imports, also inside functions. Some may be modules."""
    if path.suffix != ".py":
        return
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return  # the import will report it
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


@cache
def _package_of(top: str) -> tuple[str | None, str | None]:
    """The installed package of a top-level module, and the package's version."""
    packages = packages_distributions().get(top, [])
    return (packages[0], version(packages[0])) if packages else (None, None)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
