"""`w3ray plugins`: which parts can a recipe name, where does each come from, and what cannot be used?"""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from w3ray._nearest import did_you_mean
from w3ray._registry import GROUP_PREFIX, PluginError, installed_groups
from w3ray.cli._common import EXIT_BAD_INPUT, JsonOption, finish, run_command
from w3ray.cli._console import Line, RenderableType, Table, write_error
from w3ray.plugins import FAMILIES, check_contracts, load_plugins, source_of, table


@run_command
def plugins(
    recipe: Annotated[
        str | None, typer.Argument(help="Name of a shipped recipe, or a YAML file: its plugins are loaded, too.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Test each part of a plugin against the contract of its family.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List all parts that a recipe can name: family, name, and where each comes from.

    Exit code 2 if a plugin cannot be used; a line says why. Plugins come from installed packages, from the
    environment variable W3RAY_PLUGINS, and from the recipe.
    """
    faults = [] if recipe is None else _load(recipe)
    rows = [row for family in FAMILIES for row in _rows(family, check)]
    faults += [*(row["fault"] for row in rows if row["fault"]), *_unknown_groups()]
    finish({"parts": rows, "faults": faults}, as_json, _table(rows))
    if faults:
        write_error(*(f"error: {fault}" for fault in faults))
        raise typer.Exit(EXIT_BAD_INPUT)


def _load(recipe: str) -> list[str]:
    """Load the plugins of a recipe, even if the recipe has other faults. Returns what cannot be loaded."""
    from w3ray.recipe.load import find_recipe, recipe_values

    path = find_recipe(recipe)
    names = recipe_values(path).get("plugins") or []
    faults = []
    for name in names if isinstance(names, list) else []:
        try:
            load_plugins([str(name)])
        except PluginError as error:
            faults.append(f"{path.name}: plugins: {error}")
    return faults


def _rows(family: str, check: bool) -> Iterator[dict[str, Any]]:
    parts = table(family)
    for name in parts:
        row: dict[str, Any] = {"family": family, "name": name, "from": "several", "fault": None}
        source = None
        try:
            origin = parts.origin(name)
            row["from"] = "built in" if origin.built_in else str(origin)
            source = source_of(family, name)
            if check:
                check_contracts([(family, name)])
        except PluginError as error:
            row["fault"] = str(error)
        yield {**row, "source": None if source is None else source.values()}


def _unknown_groups() -> Iterator[str]:
    """Entry points of an unknown family. w3ray would never find them."""
    known = [GROUP_PREFIX + family for family in FAMILIES]
    for group, names in installed_groups().items():
        if group not in known:
            origins = {str(entry.origin) for entries in names.values() for entry in entries}
            yield (
                f"entry points of the group {group!r} ({', '.join(sorted(origins))}): no such family; "
                f"{did_you_mean(group, known)}known: {', '.join(known)}"
            )


def _table(rows: list[dict[str, Any]]) -> RenderableType:
    shown = Table(box=None, pad_edge=False)
    for header in ("family", "name", "from"):
        shown.add_column(header)
    for row in rows:
        style, note = ("yellow", " (cannot be used)") if row["fault"] else ("", "")
        shown.add_row(*(Line(text, style=style) for text in (row["family"], row["name"], row["from"] + note)))
    return shown
