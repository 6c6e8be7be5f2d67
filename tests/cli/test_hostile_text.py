"""Every command shows names of classes, files and folders completely, for any characters and any output."""

import ast
import contextlib
import csv
import html
import io
import json
import logging
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
import yaml
from rich.console import Console
from rich.panel import Panel
from rich.text import Text as RichText
from videos import write_video

import w3ray
from w3ray._text import one_line, plain_lines
from w3ray.cli import COMMANDS, build_app, main
from w3ray.cli._console import Console as OurConsole
from w3ray.cli._console import Line, Table
from w3ray.cli._display import Display
from w3ray.cli._streams import guarded
from w3ray.cli._sweep_display import SweepDisplay, ranking_table
from w3ray.data.clip import ClipSpec
from w3ray.data.importers import IMPORTERS
from w3ray.data.manifest import build_manifest, read_manifest, write_manifest
from w3ray.errors import InputError
from w3ray.evaluation.metrics import Counts
from w3ray.evaluation.normalize import IMAGENET_MEAN, IMAGENET_STD
from w3ray.evaluation.report import confusion_figure
from w3ray.events import RunStarted, StageStarted, Warned
from w3ray.models import build_model
from w3ray.models.bundle import ModelDescription, write_model
from w3ray.recipe import load_recipe
from w3ray.scoring.clip_scores import ClipScores, KeptScores, write_scores
from w3ray.scoring.question import Question
from w3ray.storage import storage_path
from w3ray.sweep.book import TrialBook
from w3ray.sweep.records import Report, SweepFolder, Trial
from w3ray.sweep.report import write_report
from w3ray.sweep.results import SweepStatus
from w3ray.sweep.space import Space

# Name -> how it is shown if all characters are available.
HOSTILE = {
    "Pushing [something]": "Pushing [something]",
    "x [/b]": "x [/b]",
    "[/]": "[/]",
    "[bold red]loud[/bold red]": "[bold red]loud[/bold red]",
    ":smile:": ":smile:",
    'it\'s "quoted"': 'it\'s "quoted"',
    "100% %s %(name)s {0} {name}": "100% %s %(name)s {0} {name}",
    "two\nlines\tand\rmore": r"two\nlines\tand\rmore",
    "\u200fright \u202eto\u2066 left": r"\u200fright \u202eto\u2066 left",
    "$x_1$ $": "$x_1$ $",
    "<b>&amp;</b>": "<b>&amp;</b>",
    "red\x1b[31m\x07\x9b": r"red\x1b[31m\x07\x9b",
    "né 漢字 😀 ±…": "né 漢字 😀 ±…",
}
EVERY = " ".join(HOSTILE).replace("/", "|")
"""All characters in one name of a file or folder."""
EVERY_SHOWN = " ".join(HOSTILE.values()).replace("/", "|")
ENCODINGS = ("utf-8", "ascii")


def leaves(command: Any, words: tuple[str, ...]) -> list[str]:
    inner = getattr(command, "commands", None)
    if inner is None:
        return [" ".join(words)]
    return [leaf for name, one in inner.items() for leaf in leaves(one, (*words, name))]


def every_command() -> list[str]:
    """All commands of the command line, such as "data import csv"."""
    apps = {name: typer.main.get_command(build_app(name)).commands[name] for name in COMMANDS}
    return [leaf for name, app in apps.items() for leaf in leaves(app, (name,))]


class World:
    """A folder with a data set, a model, evaluations and a sweep, all with hostile names. Nothing was trained."""

    def __init__(self, root: Path) -> None:
        self.root = root / EVERY
        self.root.mkdir()
        video = write_video(root / "video.mp4", 12)
        clips = self.root / "clips"
        rows = []
        for name in HOSTILE:
            for split in ("train", "val"):
                path = clips / f"{name} {split}.mp4"
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(video, path)
                rows.append((str(path.relative_to(clips)), name, split))
                if "/" not in name:
                    path = self.root / "tree" / name / f"{split} {name}.mp4"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(video, path)
        (clips / "broken [").mkdir()
        (clips / "broken [/b] %s :smile:.mp4").write_bytes(b"no video")
        self.write_csv(rows)
        self.manifest = self.path("set.parquet")

    def path(self, name: str) -> str:
        return str(self.root / name)

    def write_csv(self, rows: list[tuple[str, str, str]]) -> None:
        with (self.root / "clips" / "set.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerows([("path", "label", "split"), *rows])

    def add_models(self) -> None:
        classes = read_manifest(self.manifest).classes
        for number in (0, 1):
            torch.manual_seed(number)
            arguments = {"name": "tsm", "backbone": "resnet_small", "num_classes": len(classes)}
            model = build_model(**arguments, attention={"kind": "w3"})
            description = ModelDescription(
                model=arguments | {"attention": {"kind": "w3"}}, clip=asdict(ClipSpec(num_frames=2, size=32)),
                classes=classes, mean=IMAGENET_MEAN, std=IMAGENET_STD, stage="student",
            )  # fmt: skip
            write_model(self.root / f"model {number} [/b]", model, description)
            self.add_scores(number, description)

    def add_scores(self, number: int, description: ModelDescription) -> None:
        """Put evaluations of each model into its storage, so that no command needs Ray: all right, and all wrong."""
        question = Question.of(
            self.manifest, "val", protocol="1clip-center", average="scores", fold=None, folds=None
        )  # fmt: skip
        manifest, rows = question.clips, question.rows
        model = storage_path(self.path(f"model {number} [/b]"))
        kept = KeptScores(storage_path(self.path("runs [/b]")), model, description, question)
        labels = np.array(rows["label"].to_pylist())
        scores = np.eye(len(manifest.classes), dtype=np.float32)[(labels + number) % len(manifest.classes)]
        write_scores(
            kept.directory, ClipScores(clip_ids=tuple(rows["clip_id"].to_pylist()), labels=labels, scores=scores,
                                       reasons={}),
        )  # fmt: skip

    def add_sweep(self) -> None:
        book = sweep_book(self.path("runs [/b]"))
        trial = book.next()
        book.failed(trial.id, "bad **luck** [/b] | `a` <b> $x_1$ :smile: two\nlines")

    def add_recipes(self) -> None:
        recipe = {
            "name": "tiny", "data": {"manifest": self.path(f"absent/{EVERY}"), "num_frames": 2, "size": 32},
            "storage": self.path("runs [/b]"), "model": {"backbone": "resnet_small"}, "stages": [{"name": "teacher"}],
            "train": {"epochs": 1, "batch_size": 4, "microbatch_size": 4}, "resources": {"workers": 1},
        }  # fmt: skip
        Path(self.path("recipe [b] :smile:.yaml")).write_text(yaml.safe_dump(recipe))
        space = {"parameters": {"data.cache_dir": {"choice": list(HOSTILE)}}}
        Path(self.path("space.yaml")).write_text(yaml.safe_dump({"name": "odd", **space}))


def sweep_book(storage: str) -> TrialBook:
    base = load_recipe("quickstart")
    space = Space.model_validate(
        {
            "name": "odd", "description": "A *search* of <b>names</b> & [x](y) :smile: `code`",
            "parameters": {"data.cache_dir": {"choice": list(HOSTILE)}}, "fixed": {"data.cache_gib": 1},
            "search": {"searcher": "grid"},
        }
    )  # fmt: skip
    folder = SweepFolder(storage, "odd")
    with folder.open(space, base):
        book = TrialBook(space, base, folder)
    for value in (0.5, 0.25, 0.75):
        trial = book.next()
        book.reported(trial.id, Report(epoch=1, metrics={"top1": value}, best=value, time_s=1.0))
        stage = {"state": "run", "identity": "s", "seconds": 2.0, "validation": {"top1": value}, "metrics": {},
                 "tracking_run": None, "model": "m", "logged_model": None}  # fmt: skip
        book.finished(trial.id, {"stages": [{"name": "teacher", **stage}], "tracking": {"run": None}})
    return book


def run_all(folder: Path, commands: list[list[str]], encoding: str, cwd: Path) -> list[tuple[int, str, str]]:
    """Exit code, standard output and standard error of each command. All run in one process."""
    folder.mkdir()
    (folder / "asked.json").write_text(json.dumps(commands))
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": ""}
    if encoding == "ascii":
        environment |= {"LANG": "C", "LC_ALL": "C"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("run_commands.py")), str(folder / "asked.json")],
        cwd=cwd, env=environment, timeout=500, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert done.returncode == 0, (done.stderr, sorted(path.name for path in folder.iterdir()))
    codes = json.loads((folder / "codes.json").read_text())
    texts = [
        [(folder / f"{i}.{kind}").read_bytes().decode(encoding) for kind in ("out", "err")] for i in range(len(codes))
    ]
    return [(code, out, err) for code, (out, err) in zip(codes, texts, strict=True)]


def as_encoded(text: str, encoding: str) -> str:
    return text.encode(encoding, "backslashreplace").decode(encoding)


class Case:
    """A command, its exit code, and texts that its output must contain, each complete and on one line."""

    def __init__(self, words: list[str], shown: list[str], *, code: int = 0) -> None:
        self.words, self.shown, self.code = words, shown, code


def cases(world: World, out: Path) -> dict[str, Case]:
    """One case for each command that neither trains nor starts Ray. Files are written to `out`."""
    out.mkdir()
    (out / "plugins.yaml").write_text(yaml.safe_dump({"plugins": [f"./{EVERY}.py"]}))
    classes = list(HOSTILE.values())
    in_folders = [shown for name, shown in HOSTILE.items() if "/" not in name]
    model, folder = world.path("model 0 [/b]"), one_line(str(world.root))
    video, broken = world.path("clips/x [/b] val.mp4"), world.path("clips/broken [/b] %s :smile:.mp4")
    evaluations = sorted(str(path) for path in Path(world.path("runs [/b]")).glob("evaluations/*"))
    absent = world.path(f"absent/{EVERY}")
    return {
        "data import csv": Case(
            ["clips/set.csv", "-o", str(out / EVERY / "set.parquet")], [*classes, f"{EVERY_SHOWN}/set.parquet"]),
        "data import folder": Case(["tree", "-o", str(out / "f.parquet")], in_folders),
        "data stats": Case([world.manifest], [f"{HOSTILE[name]}: 1" for name in (min(HOSTILE), max(HOSTILE))]),
        "data show": Case(
            [world.manifest, "-o", str(out / "sheet [b] %s :smile:.png"), "--set", "data.size=32", "--count", "3"],
            ["sheet [b] %s :smile:.png"]),
        "data check": Case(["caf\udcff.parquet"], [r"caf\udcff.parquet"], code=2),
        "data flow": Case([f"{absent}.parquet", str(out / "flow")], [one_line(absent)], code=2),
        "data pack": Case([f"{absent}.parquet", "--out", str(out / "pack")], [one_line(absent)], code=2),
        "data boxes": Case([f"{absent}.parquet", str(out / "b.parquet"), "--grid", "2"], [one_line(absent)], code=2),
        "data bank": Case([absent, world.manifest, str(out / "bank")], [one_line(absent)], code=2),
        "data synth": Case(
            [str(out / "s" / EVERY), "--clips", "8", "--val-clips", "8", "--test-clips", "8", "--size", "16"],
            [f"s/{EVERY_SHOWN}"]),
        "run": Case([f"{absent}.yaml"], [one_line(absent)], code=2),
        "tune": Case(["report", "odd", "--storage", world.path("runs [/b]")], [f"{folder}/runs [/b]/sweeps/odd"]),
        "evaluate": Case(
            [model, "--manifest", world.manifest, "--storage", world.path("runs [/b]")],
            [f"{folder}/runs [/b]/evaluations/val"]),
        "compare": Case([*evaluations, "--classes", "20"], [*classes, f"{folder}/runs [/b]/evaluations/val"]),
        "submit": Case([evaluations[0], "--format", "jester", "-o", str(out / "x")], [f"{folder}/runs [/b]"], code=2),
        "predict": Case(
            [model, video, broken, world.path("clips/two\nlines\tand\rmore val.mp4")],
            ["x [/b] val.mp4", "broken [/b] %s :smile:.mp4", r"two\nlines\tand\rmore val.mp4", folder]),
        "explain": Case(
            [model, video, "--out", str(out / "explained [b]"), "--top", "13", "--true", "x [/b]"],
            [*classes, f"{folder}/clips/x [/b] val.mp4", "explained [b]"]),
        "lint": Case([world.path("recipe [b] :smile:.yaml")], [one_line(absent)]),
        "plugins": Case([str(out / "plugins.yaml")], [f"{EVERY_SHOWN}.py"], code=2),
        "serve": Case([absent], [one_line(absent)], code=2),
        "export": Case([absent, "-o", str(out / "model.pt2")], [one_line(absent)], code=2),
        "profile": Case(["--model", "x [/b] :smile: %s"], ["x [/b] :smile: %s"], code=2),
        **{name: Case([absent, "--videos", "v", "-o", str(out / "p.parquet")], [one_line(absent)], code=2)
           for name in every_command() if name.split()[-1] in set(IMPORTERS) - {"folder", "csv"}},
    }  # fmt: skip


SLOW = ("data show", "tune", "evaluate", "explain")
"""Commands that draw pictures."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("hostile"))
    succeed(made, ["data", "import", "csv", "clips/set.csv", "-o", made.manifest])
    made.add_models()
    made.add_sweep()
    made.add_recipes()
    options = ["--manifest", made.manifest, "--storage", made.path("runs [/b]")]
    succeed(made, *(["evaluate", made.path(f"model {number} [/b]"), *options] for number in (0, 1)))
    return made


def succeed(world: World, *commands: list[str]) -> None:
    """In this process, because what they print is not tested here."""
    with contextlib.chdir(world.root), contextlib.redirect_stdout(io.StringIO()):
        for words in commands:
            assert main(words) == 0


def faults_of(words: list[str], case: Case, encoding: str, answer: tuple[int, str, str]) -> list[str]:
    code, out, err = answer
    printed = out + err
    lines = printed.splitlines()
    faults = [f"{text!r} is not shown" for text in case.shown
              if not any(as_encoded(text, encoding) in line for line in lines)]  # fmt: skip
    if code != case.code:
        faults.append(f"exit code {code}, not {case.code}")
    if "Traceback" in printed or "Exception ignored" in printed:
        faults.append("a traceback")
    if not printed.replace("\n", "").isprintable():
        faults.append("raw control characters")
    return [f"{words}: {fault}\n{printed}" for fault in faults]


def check_all(world: World, asked: dict[str, Case], encoding: str, folder: Path) -> None:
    commands = [[*name.split(), *case.words] for name, case in asked.items()]
    answers = run_all(folder, commands, encoding, world.root)
    faults = [
        fault
        for words, case, answer in zip(commands, asked.values(), answers, strict=True)
        for fault in faults_of(words, case, encoding, answer)
    ]
    assert not faults, "\n\n".join(faults)


def test_there_is_a_case_for_each_command(world, tmp_path):
    assert sorted(cases(world, tmp_path / "out")) == sorted(every_command())


@pytest.mark.slow
def test_every_command_shows_hostile_names_whole_in_ascii(world, tmp_path):
    check_all(world, cases(world, tmp_path / "out"), "ascii", tmp_path / "answers")


def test_commands_show_hostile_names_whole(world, tmp_path):
    asked = {name: case for name, case in cases(world, tmp_path / "out").items() if name not in SLOW}
    check_all(world, asked, "utf-8", tmp_path / "answers")


def test_every_help_in_ascii(tmp_path):
    """Without the boxes that Rich draws: in ASCII they would only be escapes."""
    names = every_command()
    answers = run_all(tmp_path / "answers", [[*name.split(), "--help"] for name in names], "ascii", tmp_path)
    for name, (code, out, err) in zip(names, answers, strict=True):
        assert (code, err) == (0, "")
        assert out.startswith(f"Usage: w3ray {name} ")
        assert "\\u" not in out


@pytest.mark.slow
def test_commands_that_draw_show_hostile_names_whole(world, tmp_path):
    made = cases(world, tmp_path / "out")
    asked = {name: made[name] for name in SLOW}
    model = world.path("model 0 [/b]")
    asked["export"] = Case(
        [model, "-o", str(tmp_path / "m [b] :smile: %s.pt2")], ["m [b] :smile: %s.pt2", min(HOSTILE)]
    )
    check_all(world, asked, "utf-8", tmp_path / "answers")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_commands_that_train_show_hostile_names_whole(world, tmp_path):
    """In ASCII. A clip of the manifest cannot be read: `run` leaves it out, `data check` names it.

    The folder has no quote in its name, because MLflow puts the name into SQL.
    """
    manifest, storage = read_manifest(world.manifest), str(tmp_path / "runs [b]")
    rows = manifest.table.to_pydict()
    rows["uri"] = [manifest.resolve(uri) for uri in rows["uri"]]
    first = rows["split"].index("train")
    rows["uri"][first], broken = world.path("clips/broken [/b] %s :smile:.mp4"), rows["clip_id"][first]
    write_manifest(build_manifest(rows, manifest.classes), tmp_path / "odd.parquet")
    recipe = yaml.safe_load(Path(world.path("recipe [b] :smile:.yaml")).read_text())
    recipe["data"] |= {"manifest": str(tmp_path / "odd.parquet"), "max_failed_share": 0.5}
    recipe["storage"], recipe["tracking"] = storage, {"uri": None}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    caches = {"data.cache_dir": {"choice": [str(tmp_path / "x [b] :smile:")]}}
    space = {"name": "odd", "parameters": caches, "fixed": {"data.cache_gib": 1}, "search": {"trials": 1}}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    where = one_line(str(world.root))
    asked = [
        Case(["data", "check", str(tmp_path / "odd.parquet")], [one_line(broken)]),
        Case(["run", str(tmp_path / "tiny.yaml"), "--dry-run"], ["# stage teacher", "runs [b]"]),
        Case(["run", str(tmp_path / "tiny.yaml")], [f"{where}/clips/broken [/b] %s :smile:.mp4", "runs [b]"]),
        Case(["tune", str(tmp_path / "space.yaml"), "--pipeline", str(tmp_path / "tiny.yaml")], ["x [b] :smile:"]),
    ]
    answers = run_all(tmp_path / "answers", [case.words for case in asked], "ascii", tmp_path)
    faults = [
        fault
        for case, answer in zip(asked, answers, strict=True)
        for fault in faults_of(case.words, case, "ascii", answer)
    ]
    assert not faults, "\n\n".join(faults)


@pytest.mark.parametrize(("name", "shown"), HOSTILE.items())
def test_one_line(name, shown):
    assert one_line(name) == shown == one_line(shown)
    assert plain_lines(f"{name}\n") == plain_lines(name) + "\n"
    assert one_line("\udcff \u2028 \u00ad \ufeff") == r"\udcff \u2028 \xad \ufeff"
    assert one_line("a\u200db سلام می\u200cخواهم") == "a\u200db سلام می\u200cخواهم", "joiners are part of words"


def test_an_error_is_a_line_for_each_text_that_it_is_made_of():
    error = InputError("two\nlines: bad", "x [/b]")
    assert str(error) == "two\\nlines: bad\nx [/b]"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def terminal(kind: type[Console], **options: Any) -> Console:
    return kind(file=io.StringIO(), force_terminal=True, width=400, height=60, color_system=None, **options)


def printed(console: Console) -> list[str]:
    """The printed lines without cursor control."""
    return re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue()).splitlines()


@pytest.mark.parametrize("kind", [Console, OurConsole])
@pytest.mark.parametrize(("name", "shown"), HOSTILE.items())
def test_displays(kind, name, shown, tmp_path):
    """Also on a console that parses markup."""
    started = StageStarted(stage="teacher", state="run", why=name, total_steps=3, epochs=1)
    begun = RunStarted(recipe="tiny", stages=("teacher",), storage=name, metric="top1")
    for console in (terminal(kind), kind(file=io.StringIO(), width=400)):
        with Display(console) as display:
            for event in (begun, started, Warned(message=name)):
                display.handle(event)
        lines = printed(console)
        assert any(line.rstrip().endswith(f"warning: {shown}") for line in lines)
        assert any("tiny" in line and shown in line for line in lines)
        assert any("teacher" in line and shown in line for line in lines)
        assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("kind", [Console, OurConsole])
def test_sweep_display(kind, tmp_path):
    book = sweep_book(str(tmp_path))
    status = SweepStatus(book=book, concurrency=2, seconds=75.0, messages=tuple(HOSTILE))
    for console in (terminal(kind), kind(file=io.StringIO(), width=400)):
        with SweepDisplay(book.space, console) as display:
            display.show(status)
        console.print(ranking_table(book.points, book.space))
        text = "\n".join(printed(console))
        for shown in HOSTILE.values():
            assert f"warning: {shown}" in text
        for shown in list(HOSTILE.values())[:3]:
            assert f"cache_dir {shown}" in text
        assert text.replace("\n", "").isprintable()


def test_what_a_table_is_too_narrow_for_is_folded_not_cut():
    console = OurConsole(file=io.StringIO(), width=20)
    table = Table()
    table.add_column("[b]a[/b]")
    table.add_row("x" * 50)
    console.print(table)
    text = console.file.getvalue()
    assert text.count("x") == 50
    assert "[b]a[/b]" in text


def test_without_a_terminal_a_row_is_a_row(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    console = OurConsole(file=io.StringIO())
    table = Table(box=None)
    table.add_column("name")
    table.add_row("long " * 100)
    console.print(table)
    assert len(console.file.getvalue().splitlines()) == 2


def test_renderables_of_others_cannot_act_either():
    console = OurConsole(file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"), width=20)
    console.print(Panel(RichText("é\x1b[31m\u202e"), title="[b]"))
    console.print(Line("x" * 30, cut=True))
    console.file.seek(0)
    text = console.file.read()
    assert r"\xe9\x1b[31m" in text
    assert "x" * 19 + ".\n" in text, "Rich's ellipsis"


def test_what_libraries_print_cannot_act(capsys):
    with guarded():
        print("\x1b[31mred\x1b[0m \x1b]0;title\x07 \u202e 10%\r20%")
        logging.getLogger("a.library").warning("clip %s", "\x1b[2J")
    captured = capsys.readouterr()
    assert captured.out == "red \\x1b]0;title\\x07 \\u202e 10%\r20%\n"


def test_there_is_one_way_to_the_terminal():
    """No other module can parse markup or write unchecked text."""
    package = Path(w3ray.__file__).parent
    may_print = re.compile(
        r"(rich|click)(\.|$)|print\(\)$|sys\.(__)?std(out|err)(__)?$|typer\.(echo|secho|style|prompt|confirm|rich_utils)"
    )
    faults = []
    for path in package.rglob("*.py"):
        if path in (package / "cli" / "_console.py", package / "cli" / "_streams.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            faults += [f"{path}:{node.lineno}: {name}" for name in names_in(node) if may_print.match(name)]
    assert not faults


def names_in(node: ast.AST) -> list[str]:
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom():
            return [f"{node.module}.{alias.name}" for alias in node.names]
        case ast.Attribute(value=ast.Name()):
            return [f"{node.value.id}.{node.attr}"]
        case ast.Call(func=ast.Name()):
            return [f"{node.func.id}()"]
    return []


def test_no_picture_takes_a_name_for_a_formula():
    names = tuple(HOSTILE)
    counts = Counts(len(names))
    counts.update(torch.eye(len(names)), torch.arange(len(names)))
    figure = confusion_figure(counts, names)
    figure.savefig(io.BytesIO(), format="svg")  # XML allows no control characters
    labels = figure.axes[0].get_yticklabels() + figure.axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == [*HOSTILE.values()] * 2
    assert not any(label.get_parse_math() for label in labels)


def test_reports_of_sweeps(tmp_path):
    book = sweep_book(str(tmp_path))
    reason = f"bad **luck**, `a` ``b`` | {' '.join(HOSTILE)}"
    trial = book.next()
    assert isinstance(trial, Trial)
    book.failed(trial.id, reason)
    files = write_report(str(tmp_path), "odd")
    page, text = (Path(str(files[kind])).read_text(encoding="utf-8") for kind in ("html", "markdown"))
    cells = re.findall(r"<td>(.*?)</td>", page)
    for shown in [*list(HOSTILE.values())[:3], one_line(reason)]:
        assert html.escape(shown) in cells
        fence = "```" if "`" in shown else "`"
        code = f"{fence} {shown} {fence}".replace("|", r"\|")
        assert f"| {code} |" in text
    assert html.escape("A *search* of <b>names</b> & [x](y) :smile: `code`") in page
    assert "`` A *search* of <b>names</b> & [x](y) :smile: `code`" in text
    command = re.search(r"w3ray run quickstart(.*?)\n```", text, re.DOTALL)
    assert command is not None
    words = shlex.split(command[1].replace("\\\n", " "))
    recipe = load_recipe("quickstart", words[1::2])
    assert recipe.data.cache_dir == book.points[2].point["data.cache_dir"] == "[/]"
