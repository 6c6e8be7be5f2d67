"""Fixtures for tests of plugins: files with parts, installed packages, and a process without loaded plugins."""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from w3ray import _registry
from w3ray.plugins import ENVIRONMENT_VARIABLE, contracts, loading, sources


@pytest.fixture(autouse=True)
def _as_in_a_new_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(loading, "_environment_is_loaded", False)
    monkeypatch.setattr(loading, "_files", {})
    monkeypatch.setattr(contracts, "_kept", set())
    added = {id(table): dict(table._added) for table in _registry._tables}
    yield
    for table in _registry._tables:
        table._added = added.get(id(table), {})
        table._loaded.clear()
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]
    _registry.installed_groups.cache_clear()
    sources._package_of.cache_clear()


Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a package as pip would: its modules, and its entry points by group."""

    def put(
        package: str, files: Mapping[str, str], groups: Mapping[str, Mapping[str, str]], *, version: str = "1.0"
    ) -> Path:
        folder = tmp_path / f"site-{package}"
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        info = folder / f"{package.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        lines = [
            line
            for group, entries in groups.items()
            for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
        ]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        (info / "top_level.txt").write_text("\n".join({name.partition("/")[0].removesuffix(".py") for name in files}))
        monkeypatch.syspath_prepend(str(folder))
        _registry.installed_groups.cache_clear()
        return folder

    return put
