"""`w3ray tune`: bad input is refused in one line before anything starts; the plan; the display of a sweep."""

import io
import json

import pytest
from rich.console import Console

from w3ray.cli import main
from w3ray.cli._sweep_display import SweepDisplay, ranking_table, sweep_picture
from w3ray.events import StageStarted, StepDone, Validated
from w3ray.recipe import load_recipe
from w3ray.sweep.book import TrialBook
from w3ray.sweep.records import Report, SweepFolder, ranked
from w3ray.sweep.results import SweepStatus
from w3ray.sweep.space import Space

MFR = "stages.student.loss_weights.mfr"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["smoke"], "--pipeline: give the recipe of the trials"),
        (["smok", "--pipeline", "quickstart"], "unknown space 'smok'; did you mean 'smoke'"),
        (["smoke", "--pipeline", "quickstrat"], "unknown recipe 'quickstrat'; did you mean 'quickstart'"),
        (["smoke", "quickstart"], "unexpected argument 'quickstart'; give the recipe by --pipeline"),
        (["report"], "which sweep?"),
        (["report", "absent", "--storage", "nowhere"], "no sweep 'absent'"),
        (["smoke", "--pipeline", "quickstart", "--name", "a/b"], "name: must start with a letter or digit"),
        (["smoke", "--pipeline", "quickstart", "--write-best", "no/such/best.yaml"], "no such folder no/such"),
        (["mfr_only", "--pipeline", "quickstart", "--set", "stages=[{name: teacher}]"], "nothing is named 'student'"),
        (["smoke", "--pipeline", "quickstart", "--set", "model.attention={kind: senet}"], "unknown kind 'senet'"),
    ],
)
def test_bad_input_is_one_line(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["tune", *words, "--json"]) == 2
    captured = capsys.readouterr()
    error = json.loads(captured.out)["error"]["message"]
    assert message in error
    assert "Traceback" not in captured.err
    assert list(tmp_path.iterdir()) == [], "nothing is written"


@pytest.fixture
def book(tmp_path):
    """Three trials: one finished, one stopped, one running."""
    base = load_recipe("quickstart")
    space = Space.model_validate(
        {
            "name": "rates",
            "parameters": {MFR: {"choice": [0.03, 0.3, 1.0, 2.0]}},
            "search": {"searcher": "grid"},
            "scheduling": {"scheduler": "asha"},
        }
    )
    folder = SweepFolder(str(tmp_path), "rates")
    with folder.open(space, base):
        book = TrialBook(space, base, folder)
    whole, stopped, working = book.next(), book.next(), book.next()
    for trial, values in ((whole, (0.5, 0.75)), (stopped, (0.25,)), (working, (0.625,))):
        for epoch, value in enumerate(values, start=1):
            book.reported(trial.id, Report(epoch=epoch, metrics={"top1": value}, best=value, time_s=float(epoch)))
    stage = {"state": "run", "identity": "s", "seconds": 2.0, "validation": {"top1": 0.75}, "metrics": {"top1": 0.7},
             "tracking_run": None, "model": "m", "logged_model": None}  # fmt: skip
    book.finished(whole.id, {"stages": [{"name": "teacher", **stage}, {"name": "student", **stage}],
                             "tracking": {"run": None}})  # fmt: skip
    book.left(stopped.id)
    book.heard(working.id, StageStarted(stage="student", state="run", why="", total_steps=30, epochs=9))
    book.heard(working.id, Validated(stage="student", step=10, epoch=0, metrics={"top1": 0.625}))
    return book


def shown(renderable, width=100):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


def status(book, **more):
    return SweepStatus(book=book, concurrency=2, seconds=75.0, **more)


@pytest.mark.parametrize("width", [60, 80, 140])
def test_the_live_table(book, width):
    picture = shown(sweep_picture(status(book), book.space), width)
    rows = picture.splitlines()
    assert all(len(row) <= width for row in rows)
    assert "2/4 trials, 2 at once" in picture
    working = next(row for row in rows if "0002" in row)
    assert "running" in working
    assert "student" in working
    assert "1/9" in working
    assert "62.5%" in working
    assert any("0001" in row and "stopped" in row and "25.0%" in row for row in rows)
    if width > 80:
        assert "mfr 1" in working


def test_long_parameters_take_nothing_from_the_other_columns(book, monkeypatch):
    """The parameters of a population's member get longer with each phase."""
    monkeypatch.setattr("w3ray.cli._sweep_display.point_text", lambda point: "lr 0.0078, phases from epoch 1 " * 20)
    rows = shown(sweep_picture(status(book), book.space), 100).splitlines()
    assert all(len(row) <= 100 for row in rows)
    assert any("0001" in row and "stopped" in row and "25.0%" in row and "lr 0.0078" in row for row in rows)


def test_plain_lines_come_once_for_each_turn(book):
    console = Console(file=io.StringIO(), width=100)
    with SweepDisplay(book.space, console) as display:
        for _ in range(3):
            display.show(status(book))
        display.show(status(book, messages=("the disk is nearly full",)))
        step = StepDone(stage="student", step=12, epoch=1, losses={}, lr=0.1, clips_per_s=9.0, data_wait_s=0.0,
                        step_s=0.1, valid_clips=8)  # fmt: skip
        book.heard("0002", step)
        display.show(status(book))
    lines = console.file.getvalue().splitlines()
    assert lines == [
        "[  75.0s] trial 0000 (mfr 0.03): finished, 75.0%",
        "[  75.0s] trial 0001 (mfr 0.3): stopped, 25.0% (stopped by asha after 1 epochs)",
        "[  75.0s] trial 0002 (mfr 1): trains student, epoch 1/9, best 62.5%",
        "[  75.0s] warning: the disk is nearly full",
    ]


def test_the_ranking_puts_whole_trials_first(book):
    table = shown(ranking_table(ranked(book.points, book.space.objectives), book.space))
    order = [row.split()[3] for row in table.splitlines() if "000" in row]
    assert order == ["0000", "0002", "0001"]


RATES = """
parameters: {train.lr: {choice: [0.001, 0.003]}}
fixed: {train.epochs: 2, %s}
"""


def test_the_plan_is_that_of_what_all_trials_have(capsys, tmp_path, monkeypatch, motion_manifest):
    """The clips and epochs of the base do not matter if the space sets others. They need not even be there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rates.yaml").write_text(RATES % "data.synthetic: {clips: 32, val_clips: 16, test_clips: 16, size: 56}")
    assert main(["tune", "rates.yaml", "--pipeline", "quickstart", "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["stages"] == [{"name": "teacher", "steps": 8}, {"name": "student", "steps": 8}]
    (tmp_path / "rates.yaml").write_text(RATES % f"data.manifest: {json.dumps(str(motion_manifest))}")
    assert main(["tune", "rates.yaml", "--pipeline", "my-clips", "--dry-run", "--json"]) == 0
