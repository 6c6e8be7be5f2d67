"""Imports a user's modules and files, and reports those that cannot be imported."""

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
"""Modules and files to load in addition to those of a recipe, separated like the paths in PATH."""

_FILE_MODULE = "w3ray_plugin_"
_MODULE_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")

_files: dict[str, str] = {}
"""Absolute path of a file -> its text when it was loaded."""
_lock = threading.RLock()
_environment_is_loaded = False


def is_file_name(name: str) -> bool:
    """Whether the name of a plugin is a file, not a module."""
    return name.endswith(".py") or "/" in name


def absolute(name: str, folder: Path) -> str:
    """The name of a plugin. A file gets its absolute path; a relative path is relative to `folder`."""
    return os.path.abspath(os.path.join(folder, os.path.expanduser(name))) if is_file_name(name) else name


def load_plugins(names: Iterable[str], *, fresh: bool = False) -> None:
    """Import modules (`my_package.module`) and files (by absolute path). They register their parts.

    Args:
        names: of plugins. A plugin that this process has already loaded is skipped.
        fresh: load a file again if it has changed.

    Raises:
        PluginError: a plugin is absent, raises, or registers something invalid.
    """
    with _lock:
        for name in names:
            if not is_file_name(name):
                _load_module(name)
            elif name not in _files or fresh:
                _load_file(name, _read(name))


def load_environment() -> None:
    """Load the plugins that the environment variable names, once per process.

    Raises:
        PluginError: as `load_plugins`.
    """
    global _environment_is_loaded
    with _lock:
        if _environment_is_loaded:
            return
        _environment_is_loaded = True  # set first: a plugin may look up a part, which comes here again
        try:
            names = [name for name in os.environ.get(ENVIRONMENT_VARIABLE, "").split(os.pathsep) if name]
            load_plugins(absolute(name, Path.cwd()) for name in names)
        except PluginError as error:
            _environment_is_loaded = False
            raise PluginError(f"{ENVIRONMENT_VARIABLE}: {error}") from error


def load_sent(files: Mapping[str, str], modules: Iterable[str]) -> None:
    """Load a driver's plugins in another process: its modules, then its files, given as path -> text.

    The environment variable is not read here: its value is the driver's, and its paths are relative to the driver's
    folder.
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
    """The text of a plugin file when it was loaded. None: it was not loaded."""
    return _files.get(path)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PluginError(f"{path}: byte {error.start} is not UTF-8 text") from error
    except OSError as error:
        raise PluginError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # not a valid file name
        raise PluginError(f"{path}: cannot be read ({error})") from error


class _TextLoader(InspectLoader):
    """Imports the text of a file that may not exist on this machine. Tracebacks show its lines."""

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
    linecache.cache.pop(path, None)  # lines of the older text
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        forget_module(name)
        del _files[path], sys.modules[name]
        if before is not None:  # running code keeps the version that it started with
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
