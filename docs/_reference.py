"""The reference pages, made from the code: fields, options, commands, parts, protocols, exit codes, Python.

Each function returns one page as Markdown. Nothing here knows Sphinx, so a test can look at the pages alone.
"""

import ast
import enum
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from itertools import pairwise
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import w3ray.testing
from w3ray._options import Options
from w3ray.cli import COMMANDS, build_app
from w3ray.plugins import FAMILIES, table
from w3ray.recipe import Recipe


def recipe_page() -> str:
    """Every field of a recipe, section by section."""
    lines = [
        "# Recipe fields",
        "",
        "Every field that a recipe may have, with its type, its default and its meaning. `w3ray run RECIPE --dry-run`",
        "prints a recipe with all its values. An unknown field is refused, and the nearest known name is shown.",
        "",
        "`--set train.lr=0.01` changes a value on the command line. The options of `model.attention` and",
        "`model.options` depend on the chosen part; see [options](options.md).",
    ]
    for title, section in _sections(Recipe, ""):
        lines += [
            "",
            f"## {title or 'The recipe itself'}",
            "",
            _first_line(section),
            "",
            *_pydantic_rows(section, title),
        ]
    return _page(lines)


def spaces_page() -> str:
    """Every field of a search space."""
    from w3ray.sweep.space import Space

    lines = ["# Search space fields", "", "A search space says which values a [sweep](../sweeps.md) tries."]
    for title, section in _sections(Space, ""):
        lines += [
            "",
            f"## {title or 'The space itself'}",
            "",
            _first_line(section),
            "",
            *_pydantic_rows(section, title),
        ]
    return _page(lines)


def options_page() -> str:
    """The options of each built-in attention, network and augmentation."""
    lines = ["# Options of parts", "", "## Attentions", ""]
    lines += ["A recipe names one as `model.attention: {kind: w3, reduction: 8}`. `null` means no attention.", ""]
    attentions = table("attentions")
    for name in _built_in(attentions):
        lines += [f"### `{name}`", "", *_dataclass_rows(attentions[name].config), ""]
    lines += ["## Networks", "", "A recipe names one as `model: {name: tsm, options: {shift_div: 8}}`.", ""]
    models = table("models")
    without = [name for name in _built_in(models) if not _shown_fields(models[name].options)]
    for name in _built_in(models):
        if name not in without:
            lines += [f"### `{name}`", "", *_dataclass_rows(models[name].options), ""]
    lines += [f"These networks have no options: {', '.join(f'`{name}`' for name in without)}.", ""]
    lines += [
        "## Augmentations",
        "",
        "A recipe names them as `data.augmentations: [{name: rand_augment, magnitude: 5}]`.",
        "",
    ]
    augmentations = table("augmentations")
    for name in _built_in(augmentations):
        rows = _dataclass_rows(augmentations[name]) if _shown_fields(augmentations[name]) else ["It has no options."]
        lines += [f"### `{name}`", "", *rows, ""]
    return _page(lines)


def commands_page() -> str:
    """Every command with its arguments and options."""
    lines = [
        "# Commands",
        "",
        "`w3ray --version` prints the version. `w3ray COMMAND --help` prints what this page says about one command.",
        "See also the [exit codes](exit-codes.md).",
    ]
    for name, (_, help_line) in COMMANDS.items():
        command: Any = typer.main.get_command(build_app(name)).commands[name]  # type: ignore[attr-defined]
        for words, leaf in _leaves(f"w3ray {name}", command):
            lines += ["", f"## `{words}`", "", *_command_lines(words, leaf, help_line)]
    return _page(lines)


def parts_page() -> str:
    """The families of parts, the parts that w3ray has, and the contract of each family."""
    lines = [
        "# Parts and their contracts",
        "",
        "A recipe chooses these parts by name. [Your own parts](../plugins.md) says how to add one. A contract is a",
        "function of `w3ray.testing`. It takes the name of a part and raises `ContractBroken` with one line that says",
        "what is wrong.",
    ]
    for family, place in FAMILIES.items():
        parts = table(family)
        check = parts.contract.partition(":")[2].removesuffix("_signature")
        names = ", ".join(f"`{name}`" for name in _built_in(parts))
        lines += ["", f"## {family}", "", f"Table: `{place.replace(':', '.')}`. Entry points: `w3ray.{family}`.", ""]
        lines += [f"Built in: {names or 'none'}.", "", f"Contract `{check}`:", ""]
        lines += [f"> {line}".rstrip() for line in _docstring(getattr(w3ray.testing, check))]
    return _page(lines)


def protocols_page() -> str:
    """The evaluation protocols."""
    from w3ray.data.views import PROTOCOLS, parse_protocol

    rows = [
        "# Protocols",
        "",
        "A protocol says which views of a clip a model scores. The scores of the views are averaged. Use it as",
        "`w3ray evaluate MODEL --manifest FILE --protocol 3crop-2clip`.",
        "",
        "| protocol | clips in time | crops of each | views | frame |",
        "|---|---|---|---|---|",
    ]
    for name in PROTOCOLS:
        one = parse_protocol(name)
        frame = "the whole frame" if one.whole_frame else "a square"
        rows.append(f"| `{name}` | {one.clips} | {one.crops} | {one.num_views} | {frame} |")
    rows += [
        "",
        "Any number N of clips works in `Nclip-center`, `Nclip-full-res`, `3crop-Nclip` and `10crop-Nclip`.",
        "Five of the ten crops are mirror images. They count for the mirrored class if the manifest has a flip map.",
    ]
    return _page(rows)


def exit_codes_page() -> str:
    """The exit codes of all commands."""
    from w3ray.cli import _common

    meaning = {
        "EXIT_DONE": "done",
        "EXIT_FAILED": "it failed while running; one line says why. A traceback means a bug in w3ray",
        "EXIT_BAD_INPUT": "bad input: a file, a value, a name or an option; one line says what is allowed",
        "EXIT_INTERRUPTED": "interrupted by Ctrl-C or SIGTERM; the same command resumes",
    }
    codes = {name: value for name, value in vars(_common).items() if name.startswith("EXIT_")}
    assert codes.keys() == meaning.keys(), "each exit code needs its meaning here"
    lines = ["# Exit codes", "", "| code | meaning |", "|---|---|"]
    lines += [f"| {value} | {meaning[name]} |" for name, value in codes.items()]
    lines += [
        "",
        "With `--json` a command prints exactly one JSON document on standard output, also when it fails:",
        "",
        "```json",
        '{"error": {"kind": "input", "message": "..."}, "exit_code": 2}',
        "```",
        "",
        "`kind` is `input`, `usage`, `run`, `interrupted` or `internal`. Everything else goes to standard error.",
    ]
    return _page(lines)


def python_page() -> str:
    """The public names of the package, for autodoc to fill in."""
    lines = ["# Python names", "", "## w3ray", "", "```{eval-rst}"]
    for name in w3ray.__all__:
        if name != "__version__":
            kind = "exception" if inspect.isclass(getattr(w3ray, name)) else "function"
            lines += [f".. auto{kind}:: w3ray.{name}", ""]
    lines += ["```", "", "## Results of a run and of a sweep", "", "```{eval-rst}"]
    for place in ("w3ray.pipeline.results.RunResult", "w3ray.pipeline.results.StageResult"):
        lines += [f".. autoclass:: {place}", "   :members:", ""]
    lines += ["```", "", "## w3ray.testing", "", "```{eval-rst}"]
    for name in w3ray.testing.__all__:
        kind = "exception" if inspect.isclass(getattr(w3ray.testing, name)) else "function"
        lines += [f".. auto{kind}:: w3ray.testing.{name}", ""]
    return _page([*lines, "```"])


PAGES: dict[str, Callable[[], str]] = {
    "recipe": recipe_page,
    "options": options_page,
    "spaces": spaces_page,
    "commands": commands_page,
    "parts": parts_page,
    "protocols": protocols_page,
    "exit-codes": exit_codes_page,
    "python": python_page,
}
"""Name of each generated page in `docs/reference/`, and what makes it."""


def _page(lines: list[str]) -> str:
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def _sections(section: type[BaseModel], title: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """A section and all sections in it, with their dotted names."""
    yield title, section
    for name, field in section.model_fields.items():
        inner = _section_in(field.annotation)
        if inner is not None:
            yield from _sections(inner, f"{title}.{name}" if title else name)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds: itself, or in a tuple, a mapping or an optional."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)


def _pydantic_rows(section: type[BaseModel], title: str) -> list[str]:
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, field in section.model_fields.items():
        dotted = f"{title}.{name}" if title else name
        default = field.get_default(call_default_factory=True)
        limits = [text for text in map(_limit, field.metadata) if text]
        kind = ", ".join([_type(field.annotation), *limits])
        inner = _section_in(field.annotation)
        meaning = field.description or ("" if inner is None else f"{_first_line(inner)} See `{dotted}` below.")
        rows.append(f"| `{dotted}` | {kind} | {_default(default)} | {_cell(meaning)} |")
    return rows


def _limit(mark: Any) -> str:
    """A limit of a field's value, such as `Ge(1)`, in words."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below", "min_length": "length at least"}
    return ", ".join(f"{text} {getattr(mark, key):g}" for key, text in words.items() if hasattr(mark, key))


def _type(annotation: Any) -> str:
    """A type in words that a writer of YAML knows."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return ", ".join([_type(inside[0]), *(text for text in map(_limit, inside[1:]) if text)])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_type, inside)))
    if origin is Literal:
        return " or ".join(f"`{_yaml(value)}`" for value in inside)
    if origin is tuple:
        one = [part for part in inside if part is not Ellipsis]
        return f"list of {_type(one[0])}" if Ellipsis in inside else f"[{', '.join(map(_type, one))}]"
    if origin is dict:
        held = _section_in(inside[1])
        return "section of names" if held is None else "section of names, each with the fields below"
    simple = {
        int: "whole number",
        float: "number",
        str: "text",
        bool: "true or false",
        type(None): "null",
        Any: "value",
    }
    if annotation in simple:
        return simple[annotation]
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return " or ".join(f"`{one.value}`" for one in annotation)
    return "section"


def _default(value: Any) -> str:
    if value is PydanticUndefined or value is MISSING:
        return "required"
    if isinstance(value, Options):
        kind = getattr(value, "kind", None)
        return f"`{{kind: {kind}}}`" if kind else "see its page"
    if isinstance(value, BaseModel):
        return "its defaults"
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")


def _cell(text: str) -> str:
    """Text as a cell of a table. Outside of code, `<` would begin HTML, which a page does not show."""
    code_or_not = re.split(r"(`[^`]*`)", " ".join(text.split()).replace("|", "\\|"))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in code_or_not)


def _first_line(thing: Any) -> str:
    return _docstring(thing)[0]


def _docstring(thing: Any) -> list[str]:
    return inspect.cleandoc(thing.__doc__ or "").splitlines() or [""]


def _built_in(parts: Any) -> list[str]:
    return [name for name in parts if parts.origin(name).built_in]


def _shown_fields(options: type[Options]) -> list[Any]:
    return [field for field in fields(options) if not field.name.startswith("_")]


def _dataclass_rows(options: type[Options]) -> list[str]:
    rows = ["| option | type | default | meaning |", "|---|---|---|---|"]
    hints = typing.get_type_hints(options, include_extras=True)
    meaning = _field_docs(options)
    # A class's own options come before those that all of its kind have, as in its error messages.
    own = sorted(_shown_fields(options), key=lambda field: field.name not in options.__annotations__)
    for field in own:
        kind, default = _type(hints[field.name]), _default(field.default)
        rows.append(f"| `{field.name}` | {kind} | {default} | {_cell(_of_yaml(meaning.get(field.name, '')))} |")
    return rows


def _of_yaml(text: str) -> str:
    """A docstring's text with the values that a writer of YAML types."""
    words = {"None": "null", "True": "true", "False": "false"}
    return re.sub(r"\b(None|True|False)\b", lambda found: words[found[0]], text)


def _field_docs(options: type) -> dict[str, str]:
    """Field -> the string under it, in the class and in its bases."""
    found: dict[str, str] = {}
    for one in reversed(options.__mro__):
        if one is object or one.__module__ == "builtins":
            continue
        (definition,) = ast.parse(inspect.cleandoc("\n" + inspect.getsource(one))).body
        body = typing.cast(ast.ClassDef, definition).body
        for field, text in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[ast.unparse(field.target)] = str(text.value.value)
    return found


def _leaves(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    """A command, or all commands below it, with their names."""
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from _leaves(f"{words} {name}", below)
    else:
        yield words, command


def _command_lines(words: str, command: Any, help_line: str) -> list[str]:
    shown = [parameter for parameter in command.params if "--help" not in parameter.opts]
    text = inspect.cleandoc(command.help or help_line).split("\f")[0]
    lines = [text, "", "| argument or option | default | meaning |", "|---|---|---|"]
    for parameter in shown:
        default = parameter.default
        plain = (
            default is None
            or callable(default)
            or default is False
            or default in ((), "")
            or not isinstance(default, (str, int, float, bool))
        )
        needed = "required" if parameter.required else "" if plain else f"`{default}`"
        lines.append(f"| {_parameter(parameter)} | {needed} | {_cell(getattr(parameter, 'help', None) or '')} |")
    return lines if shown else [text]


def _parameter(parameter: Any) -> str:
    if not any(option.startswith("-") for option in parameter.opts):
        return f"`{(parameter.metavar or parameter.name).upper()}`"
    names = ", ".join(f"`{option}`" for option in [*parameter.opts, *parameter.secondary_opts])
    if getattr(parameter, "is_flag", False):
        return names
    return f"{names} `{_cell(_placeholder(parameter))}`" + (", repeatable" if parameter.multiple else "")


def _placeholder(parameter: Any) -> str:
    """What stands for an option's value. Older versions of typer keep its type elsewhere."""
    if parameter.metavar:
        return str(parameter.metavar)
    descriptor = getattr(parameter, "type_descriptor", None)
    kind = str(descriptor.annotation if descriptor is not None else parameter.type.name).lower()
    return "NUMBER" if "int" in kind or "float" in kind else "PATH" if "path" in kind else "TEXT"
