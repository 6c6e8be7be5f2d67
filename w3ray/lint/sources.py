"""Where does a published value come from? Only the comment beside it in its shipped recipe says so."""

from collections.abc import Iterator, Mapping
from functools import cache

import yaml

from w3ray.recipe.load import known_recipes


@cache
def sources(recipe: str) -> Mapping[str, str]:
    """Dotted field of a shipped recipe -> the comment after its value, or, if there is none, right above it."""
    text = known_recipes()[recipe].read_text(encoding="utf-8")
    page = yaml.compose(text, Loader=yaml.SafeLoader)
    assert page is not None, "a shipped recipe is not empty"
    return dict(_comments(page, text.split("\n"), ""))


def _comments(node: yaml.Node, lines: list[str], above: str) -> Iterator[tuple[str, str]]:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        name = f"{above}{key.value}"
        if isinstance(value, yaml.MappingNode):
            yield from _comments(value, lines, f"{name}.")
        elif comment := _comment(value, lines):
            yield name, comment


def _comment(value: yaml.Node, lines: list[str]) -> str:
    if value.start_mark.line != value.end_mark.line:  # stages: each has its own comments
        return ""
    behind = lines[value.end_mark.line][value.end_mark.column :].partition("#")[2]
    above = lines[value.start_mark.line - 1].strip() if value.start_mark.line else ""
    return (behind or (above.partition("#")[2] if above.startswith("#") else "")).strip()
