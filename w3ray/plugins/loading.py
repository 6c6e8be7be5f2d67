"""How are a user's modules and files imported, and what is said of one that cannot be?"""

import hashlib
import linecache
import os
import re
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.abc import InspectLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

from w3ray._registry import PluginError, cause, files_of_modules, forget_module

ENVIRONMENT_VARIABLE = "W3RAY_PLUGINS"
"""Modules and files to load beside those of a recipe, separated as paths are in PATH."""

_FILE_MODULE = "w3ray_plugin_"
_MODULE_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")

_files: dict[str, str] = {}
"""Absolute path of a file -> its text as it was loaded."""
_lock = threading.RLock()
_environment_is_loaded = False


def is_file_name(name: str) -> bool:
    """Whether a plugin is named as a file, not as a module."""
    return name.endswith(".py") or "/" in name


def absolute(name: str, folder: Path) -> str:
    """The name of a plugin, a file's with its absolute path; relative ones count from `folder`."""
    return os.path.abspath(os.path.join(folder, os.path.expanduser(name))) if is_file_name(name) else name


def load_plugins(names: Iterable[str], *, fresh: bool = False) -> None:
    """Import modules (`my_package.module`) and files (with their absolute paths), which register their parts.

    Args:
        names: of plugins. One that this process has loaded is not loaded again.
        fresh: a file that has changed since is.

    Raises:
        PluginError: one is not there, raises, or registers what cannot be registered.
    """
    with _lock:
        for name in names:
            if not is_file_name(name):
                _load_module(name)
            elif name not in _files or fresh:
                _load_file(name, _read(name))


def load_environment() -> None:
    """Load the plugins that the environment variable names, once a process.

    Raises:
        PluginError: as `load_plugins`.
    """
    global _environment_is_loaded
    with _lock:
        if _environment_is_loaded:
            return
        _environment_is_loaded = True  # a plugin may look something up
        try:
            names = [name for name in os.environ.get(ENVIRONMENT_VARIABLE, "").split(os.pathsep) if name]
            load_plugins(absolute(name, Path.cwd()) for name in names)
        except PluginError as error:
            _environment_is_loaded = False
            raise PluginError(f"{ENVIRONMENT_VARIABLE}: {error}") from error


def load_sent(files: Mapping[str, str], modules: Iterable[str]) -> None:
    """Load a driver's plugins in another process: its modules, then its files, which are path and text.

    What the environment names here is the driver's, whose paths count from its own folder: it is not loaded.

    Raises:
        PluginError: as `load_plugins`.
    """
    global _environment_is_loaded
    with _lock:
        _environment_is_loaded = True
        load_plugins(modules)
        for path, source in files.items():
            _load_file(path, source)


def text_of_file(path: str) -> str | None:
    """A plugin file's text as it was loaded; None: it was not."""
    return _files.get(path)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PluginError(f"{path}: byte {error.start} is not UTF-8 text") from error
    except OSError as error:
        raise PluginError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # a name that no file can have
        raise PluginError(f"{path}: cannot be read ({error})") from error


class _TextLoader(InspectLoader):
    """Imports the text of a file, which need not be on this machine; tracebacks show its lines all the same."""

    def __init__(self, path: str, source: str) -> None:
        self._path, self._source = path, source

    def get_source(self, fullname: str) -> str:
        return self._source

    def get_filename(self, fullname: str) -> str:
        return self._path

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self._source, self._path)


def _load_file(path: str, source: str) -> None:
    if _files.get(path) == source:
        return
    key = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    name = f"{_FILE_MODULE}{re.sub(r'[^A-Za-z0-9_]', '_', Path(path).stem)}_{key}"
    loader = _TextLoader(path, source)
    spec = spec_from_loader(name, loader, origin=path)
    assert spec is not None
    module = module_from_spec(spec)
    module.__file__ = path
    before, _files[path] = _files.get(path), source
    files_of_modules[name] = path
    forget_module(name)
    linecache.cache.pop(path, None)  # the lines of before
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        forget_module(name)
        del _files[path], sys.modules[name]
        if before is not None:  # what runs goes on with what it began with
            _load_file(path, before)
        raise _raised(path, error) from error


def _load_module(name: str) -> None:
    if not _MODULE_NAME.fullmatch(name):
        raise PluginError(f"{name!r}: is neither a module (my_package.module) nor a file (./my_part.py)")
    try:
        import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise PluginError(f"{name}: there is no module {error.name}; install its package here") from error
        raise _raised(name, error) from error
    except (Exception, SystemExit) as error:
        raise _raised(name, error) from error


def _raised(plugin: str, error: BaseException) -> PluginError:
    if isinstance(error, PluginError):
        return PluginError(f"{plugin}: {error}")
    if isinstance(error, SyntaxError):
        return PluginError(f"{plugin}: line {error.lineno}: {error.msg}")
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == plugin]
    where = f" in line {lines[-1]}" if lines else ""
    return PluginError(f"{plugin}: raised{where} when it was imported: {cause(error)}")
