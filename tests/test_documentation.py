"""The documentation: links, commands, names and figures of README, `docs/` and the other pages are correct."""

import ast
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import _draw
import _generate
import pytest
import typer
from _results import figures

import w3ray
from w3ray._format import percent
from w3ray.cli import COMMANDS, build_app
from w3ray.recipe import Recipe, load_recipe
from w3ray.recipe.load import known_recipes
from w3ray.sweep.space import known_spaces, load_space

REPO = Path(__file__).resolve().parent.parent
README = REPO / "README.md"
GENERATED = {REPO / "docs" / name: text for name, text in _generate.pages().items()}
DOCS = sorted(page for page in (REPO / "docs").rglob("*.md") if page not in GENERATED)
PAGES = [README, *DOCS, *_generate.COPIES.values(), REPO / "SECURITY.md"]
OWN_RECIPE = "my-recipe.yaml"
"""The pages' names for the reader's own recipes."""
MADE_BY_COMMANDS = {"best.yaml", "your.yaml", "squeeze.yaml", OWN_RECIPE}
MADE_SPACES = {"rates.yaml"}
BEHIND_A_COMMAND = {">", "2>", "2>&1", "&", "|", "&&"}
"""Words of the shell that end the arguments of a command."""

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", flags=re.MULTILINE | re.DOTALL)


def name_of(page: Path) -> str:
    return str(page.relative_to(REPO))


def blocks(page: Path) -> list[tuple[str, str]]:
    """The language and text of each fenced block."""
    return FENCE.findall(page.read_text())


def inline_code(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text()))


def shell_lines(page: Path) -> Iterator[list[str]]:
    """The words of each shell line in blocks without a language, without comments."""
    for language, text in blocks(page):
        if not language:
            for line in text.replace("\\\n", " ").splitlines():
                try:
                    yield shlex.split(line, comments=True)
                except ValueError:  # a drawing, or a line of quoted text
                    continue


def commands(page: Path) -> list[list[str]]:
    """The arguments of `w3ray` on each shell line, also after `ray job submit ... --`."""
    found = []
    for words in shell_lines(page):
        words = words[: next((i for i, word in enumerate(words) if word in BEHIND_A_COMMAND), None)]
        if words[:1] == ["w3ray"] and words[1:] != ["--version"]:
            found.append(words[1:])
        elif "--" in words and words[words.index("--") + 1 :][:1] == ["w3ray"]:
            found.append(words[words.index("--") + 2 :])
    return found


def leaf(words: list[str]) -> tuple[Any, str, list[str]]:
    """The command that the words name, its full name, and its arguments."""
    assert words[0] in COMMANDS, f"w3ray has no command {words[0]!r}"
    command: Any = typer.main.get_command(build_app(words[0]))
    rest, names = list(words), ["w3ray"]
    while hasattr(command, "commands"):
        assert rest[:1], f"{' '.join(names)} needs a command"
        assert rest[0] in command.commands, f"{' '.join(names)} has no command {rest[0]!r}"
        command = command.commands[rest[0]]
        names.append(rest.pop(0))
    return command, " ".join(names), rest


ALL_COMMANDS = [
    pytest.param(words, id=f"{name_of(page)}: {' '.join(words)}") for page in PAGES for words in commands(page)
]


def test_commands_were_found() -> None:
    assert len(ALL_COMMANDS) >= 30
    assert [words[0] for words in commands(README)] == ["data", "run", "evaluate"]


@pytest.mark.parametrize("words", ALL_COMMANDS)
def test_a_command_is_one_that_w3ray_understands(words: list[str]) -> None:
    command, name, arguments = leaf(words)
    command.make_context(name, list(arguments))  # raises a usage error that names the fault


@pytest.mark.parametrize("words", ALL_COMMANDS)
def test_recipes_and_spaces_of_a_command_are_there(words: list[str]) -> None:
    command, name, arguments = leaf(words)
    given = command.make_context(name, list(arguments)).params
    recipe = given.get("recipe") or given.get("pipeline")
    changes = list(given.get("overrides") or [])
    if recipe is not None:
        if recipe in MADE_BY_COMMANDS:
            recipe = "my-clips"
        load_recipe(recipe, changes)
    if words[0] == "tune" and given["space"] not in {"report", *MADE_SPACES}:
        load_space(given["space"])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_settings_on_lines_of_their_own_are_of_a_recipe(page: Path) -> None:
    lines = [words for words in shell_lines(page) if words[:1] == ["--set"]]
    for words in lines:
        load_recipe("my-clips", [value for word, value in pairwise(words) if word == "--set"])
    assert lines or page.name != "cluster.md"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_the_text_are_there(page: Path) -> None:
    for code in inline_code(page):
        if code.startswith("w3ray ") and "..." not in code and code != "w3ray --version":
            command, _, arguments = leaf(shlex.split(code)[1:])
            options = {option for parameter in command.params for option in parameter.opts}
            unknown = [word for word in arguments if word.startswith("--") and word not in options]
            assert not unknown, code


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_targets_are_there(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (REPO / "Makefile").read_text(), flags=re.MULTILINE))
    words = list(shell_lines(page)) + [code.split() for code in inline_code(page)]
    named = {line[1] for line in words if line[:1] == ["make"] and len(line) > 1}
    assert named <= targets
    assert named or page != README


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists() or file in GENERATED, target
        if anchor:
            assert anchor in anchors(file), target


def anchors(page: Path) -> set[str]:
    """The link names of a page's headings."""
    text = GENERATED.get(page) or page.read_text()
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_of_the_site_is_in_its_contents() -> None:
    listed = set()
    for page in (REPO / "docs" / "index.md", REPO / "docs" / "tutorials" / "index.md"):
        for toctree in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), flags=re.DOTALL):
            names = [line for line in toctree.splitlines() if line and not line.startswith(":")]
            assert len(names) == len(set(names))
            listed |= {(page.parent / f"{name}.md") for name in names}
    assert listed == {*DOCS, *GENERATED} - {REPO / "docs" / "index.md"}


@pytest.mark.parametrize("name", _draw.DRAWINGS)
def test_a_drawing_is_what_its_script_draws(name: str) -> None:
    assert (REPO / "docs" / "_static" / f"{name}.svg").read_text() == _draw.DRAWINGS[name]().svg()


class TestReference:
    def test_every_field_of_a_recipe_is_described(self) -> None:
        page = GENERATED[REPO / "docs" / "reference" / "recipe.md"]
        rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
        assert {"seed", "data.synthetic.clips", "train.schedule.kind", "stages.teacher", "train.phases.lr"} <= set(rows)
        assert [name for name, line in rows.items() if line.endswith("|  |")] == []
        assert rows["train.batch_size"] == (
            "| `train.batch_size` | whole number, at least 1 | `64` | clips of one optimiser step, over all workers |"
        )

    def test_every_option_is_described(self) -> None:
        page = GENERATED[REPO / "docs" / "reference" / "options.md"]
        rows = [line for line in page.splitlines() if line.startswith("| `")]
        assert len(rows) > 40
        assert [line for line in rows if line.endswith("|  |")] == []

    def test_every_command_and_option_is_described(self) -> None:
        page = GENERATED[REPO / "docs" / "reference" / "commands.md"]
        for words in ("run", "tune", "data import", "data synth", "explain", "profile"):
            assert f"## `w3ray {words}" in page
        rows = [line for line in page.splitlines() if line.startswith("| `")]
        assert [line for line in rows if line.endswith("|  |")] == []

    def test_it_is_the_same_each_time(self) -> None:
        assert _generate.pages() == {str(page.relative_to(REPO / "docs")): text for page, text in GENERATED.items()}


FOLDERS = ("w3ray", "docs", "benchmarks", "pipelines", "tune_spaces", "cluster", "tests")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_are_there(page: Path) -> None:
    for code in inline_code(page):
        if code.partition("/")[0] in FOLDERS and re.fullmatch(r"[\w./*-]+", code) and code != "cluster/mlflow.env":
            assert list(REPO.glob(code.rstrip("/"))), code


FIELD = re.compile(r"(?:data|model|train|evaluation|tracking|resources)(?:\.[a-z]\w*)+(?==|$)")


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "scale.md"], ids=name_of)
def test_fields_that_are_named_are_of_a_recipe(page: Path) -> None:
    values = load_recipe("my-clips").to_dict()
    for code in inline_code(page):
        for word in code.split(" "):
            if (found := FIELD.match(word)) and not word.endswith(".json"):
                place: Any = values
                for part in found[0].split("."):
                    assert isinstance(place, Mapping), code
                    assert part in place, code
                    place = place[part]


def test_programs_of_the_environment_are_there() -> None:
    """`make install` brings them, or an earlier line of the page does."""
    named = 0
    for page in PAGES:
        installed: set[str] = set()
        for words in shell_lines(page):
            if words[1:2] == ["install"] and Path(words[0]).name == "pip":
                installed |= set(words[2:])
            if words[:1] and words[0].startswith(".venv/bin/"):
                named += 1
                program = Path(words[0]).name
                assert program in installed or (Path(sys.executable).parent / program).exists(), f"{page}: {program}"
    assert named >= 5


@pytest.mark.parametrize("page", [*GENERATED, *PAGES], ids=name_of)
def test_the_tables_of_a_page_are_shown_whole(page: Path) -> None:
    text = FENCE.sub("", GENERATED.get(page) or page.read_text())
    for table in re.findall(r"(?:^ *\|.*\n)+", text, flags=re.MULTILINE):
        columns = len(table.splitlines()[1].strip("| ").split("|"))
        for row in table.splitlines():
            assert len(re.findall(r"(?<!\\)\|", row)) - 1 == columns, f"a | inside of a cell: {row}"
            assert "| `` |" not in row, f"an empty default: {row}"
            assert not re.search(r"<\w", re.sub(r"`[^`]*`", "", row)), f"HTML, which is not shown: {row}"


def test_scale_names_figures_of_its_file() -> None:
    parts = figures("scale")
    keys = [code for code in inline_code(REPO / "docs" / "scale.md") if code.partition(".")[0] in parts and "." in code]
    assert len(keys) >= 10
    for part, _, key in (code.partition(".") for code in keys):
        assert key in {"*", *parts[part]}, f"{part}.{key}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_is_python_and_names_what_w3ray_has(page: Path) -> None:
    for language, text in blocks(page):
        if language == "python":
            ast.parse(text)
            for name in re.findall(r"\bw3ray\.(\w+)", text):
                assert hasattr(w3ray, name) or find_spec(f"w3ray.{name}"), name


def test_the_extras_are_those_of_the_package() -> None:
    extras = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    rows = [line for line in (REPO / "docs" / "start" / "install.md").read_text().splitlines() if "| `w3ray[" in line]
    assert {line.split("`")[1] for line in rows} == {f"w3ray[{name}]" for name in extras if name != "dev"}


def test_all_recipes_and_spaces_are_described() -> None:
    training, sweeps = (set(inline_code(REPO / "docs" / name)) for name in ("training.md", "sweeps.md"))
    assert set(known_recipes()) <= training
    assert set(known_spaces()) <= sweeps
    sections = set(Recipe.model_fields) - {"name", "seed"}
    assert sections >= {"data", "model", "train", "stages", "evaluation", "tracking", "resources", "storage"}


class TestReadme:
    def test_it_is_short(self) -> None:
        text = README.read_text()
        assert len(text.splitlines()) <= 120
        assert len([word for word in text.split() if re.search(r"\w", word)]) <= 700

    def test_its_table_of_results_is_that_of_the_files(self) -> None:
        text = README.read_text()
        assert text == _generate.with_results(text), "run python docs/_generate.py --readme"

    def test_its_picture_is_small(self) -> None:
        assert (REPO / "docs" / "_static" / "attention.png").stat().st_size < 300_000

    def test_every_folder_is_there_and_named(self) -> None:
        named = {
            code
            for code in inline_code(REPO / "CONTRIBUTING.md")
            if code.endswith("/") and code.count("/") <= 2 and code not in {"clips/", "w3ray/"}
        }
        packages = {f"w3ray/{path.parent.name}/" for path in (REPO / "w3ray").glob("*/__init__.py")}
        assert {name for name in named if name.startswith("w3ray/")} == packages
        assert {"pipelines/", "tune_spaces/", "cluster/", "benchmarks/", "docs/", "tests/"} <= named

    def test_the_quickstarts_table_is_that_of_its_file(self) -> None:
        top1 = figures("quickstart")["runs"]["first"]["0"]["top1"]
        (block,) = (text for language, text in blocks(README) if language == "text")
        printed = {line.split()[0]: line.split()[2:] for line in block.splitlines()[1:]}
        assert {stage: cells[0] for stage, cells in printed.items()} == {
            stage: percent(value) for stage, value in top1.items()
        }
        gains = [f"{100 * (after - before):+.1f}" for before, after in pairwise(top1.values())]
        assert [cell for cells in printed.values() for cell in cells[1:]] == gains
