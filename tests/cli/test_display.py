"""What a user sees of a run: plain lines, the live display, the final table."""

import io
import pickle
from dataclasses import replace
from typing import Literal

import pytest
from rich.console import Console

from w3ray._format import duration, percent
from w3ray.attention.health import GateHealth, StageHealth
from w3ray.cli._display import Display, RunView, picture
from w3ray.events import (
    BankProgress,
    CheckpointSaved,
    Event,
    Overhead,
    RunFinished,
    RunStarted,
    RunSummary,
    StageFinished,
    StageStarted,
    StageSummary,
    StepDone,
    Validated,
    ValidationProgress,
    Warned,
)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def step(number: int, stage: str = "teacher") -> StepDone:
    return StepDone(
        stage=stage,
        step=number,
        epoch=(number - 1) // 10,
        losses={"cross_entropy": 1.5, "mfr": 0.25},
        lr=0.02,
        clips_per_s=81.3,
        data_wait_s=0.02,
        step_s=0.2,
        valid_clips=16,
    )


STARTED = RunStarted(recipe="quickstart", stages=("teacher", "student"), storage="/data/runs", metric="top1")
TEACHER = StageStarted(stage="teacher", state="run", why="no result yet", total_steps=30, epochs=3)
VALIDATED = Validated(stage="teacher", step=10, epoch=0, metrics={"top1": 0.75, "loss": 1.25})
FINISHED = StageFinished(stage="teacher", metrics={"top1": 0.9}, checkpoint="/x", seconds=67.2)
SUMMARY = RunSummary(
    recipe="quickstart",
    stages=(
        StageSummary(name="teacher", state="reuse", metrics={"top1": 0.94, "top5": 1.0}, seconds=0.1),
        StageSummary(name="student", state="run", metrics={"top1": 0.965, "top5": 1.0}, seconds=67.2),
    ),
    metric="top1",
    model="quickstart version 2",
    folder="/data/runs/stages/student-0/model",
    mlflow_command="mlflow ui --backend-store-uri sqlite:///" + "/a-long-folder-name" * 6 + "/mlflow.db",
    overhead=Overhead(to_first_step_s=11.5, between_stages_s={"student": 4.25}, outside_steps_s=20.0, total_s=90.0),
)
BANK = StageStarted(stage="bank", state="run", why="new", total_steps=0, epochs=0)
ALL: list[Event] = [
    STARTED,
    TEACHER,
    step(1),
    ValidationProgress(stage="teacher", split="val", clips=8, total_clips=80),
    VALIDATED,
    CheckpointSaved(stage="teacher", step=10, path="/x"),
    Warned(message="clip a.mp4 [bold] cannot be read"),
    FINISHED,
    RunFinished(summary=SUMMARY),
]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def started(metric: str) -> RunStarted:
    return RunStarted(recipe="quickstart", stages=("teacher",), storage="/data/runs", metric=metric)


def validated(epoch: int, **metrics: float) -> Validated:
    return Validated(stage="teacher", step=10 * (epoch + 1), epoch=epoch, metrics=metrics)


# Each metric is best in a different epoch, and none is best in the last one.
VALIDATIONS = [
    validated(0, top1=0.5, top5=0.9, mean_class_accuracy=0.3),
    validated(1, top1=0.7, top5=0.8, mean_class_accuracy=0.4),
    validated(2, top1=0.6, top5=0.7, mean_class_accuracy=0.45),
    validated(3, top1=0.55, top5=0.6, mean_class_accuracy=0.35),
]


def progress(clips: int, split: Literal["val", "test"] = "val") -> ValidationProgress:
    return ValidationProgress(stage="teacher", split=split, clips=clips, total_clips=800)


def drawn(events: list[Event], width: int = 80) -> list[str]:
    """The lines of the live display after these events."""
    view = RunView(lambda: 0.0)
    for event in events:
        view.apply(event)
    console = Console(file=io.StringIO(), width=width)
    with console.capture() as capture:
        console.print(picture(view))
    return capture.get().splitlines()


def plain(clock: Clock) -> tuple[Display, io.StringIO]:
    stream = io.StringIO()
    return Display(Console(file=stream, width=80), clock), stream


class TestEvents:
    @pytest.mark.parametrize("event", ALL, ids=lambda event: type(event).__name__)
    def test_pickle(self, event: Event) -> None:
        assert pickle.loads(pickle.dumps(event)) == event


class TestPlain:
    def test_lines(self, clock: Clock) -> None:
        display, stream = plain(clock)
        for event in ALL[:-1]:
            clock.now_s += 1
            display.handle(event)
        assert stream.getvalue().splitlines() == [
            "[   1.0s] quickstart: teacher -> student; storage /data/runs",
            "[   2.0s] teacher: starts (no result yet); 30 steps, 3 epochs",
            "[   3.0s] teacher: epoch 1/3, step 1/30, cross_entropy 1.500, mfr 0.250, lr 0.02, "
            "81.3 clips/s, data wait 10%",
            "[   5.0s] teacher: epoch 1: top-1 75.0%, loss 1.250 (best top-1 so far)",
            "[   7.0s] warning: clip a.mp4 [bold] cannot be read",
            "[   8.0s] teacher: done, top-1 90.0%, 1 min 07 s",
        ]

    def test_steps_are_throttled(self, clock: Clock) -> None:
        display, stream = plain(clock)
        display.handle(STARTED)
        display.handle(TEACHER)
        for number in range(1, 31):
            clock.now_s += 1
            display.handle(step(number))
        lines = [line for line in stream.getvalue().splitlines() if "step" in line and "epochs" not in line]
        assert [line.split("step ")[1].split(",")[0] for line in lines] == ["1/30", "11/30", "21/30"]
        assert lines[1].endswith("19 s left")

    def test_best_is_said_once(self, clock: Clock) -> None:
        display, stream = plain(clock)
        for event in (STARTED, TEACHER, VALIDATED, VALIDATED):
            display.handle(event)
        assert stream.getvalue().count("best top-1 so far") == 1

    @pytest.mark.parametrize(
        ("metric", "lines"),
        [
            ("top1", ["epoch 1 (best top-1 so far)", "epoch 2 (best top-1 so far)"]),
            ("top5", ["epoch 1 (best top-5 so far)"]),
            ("mean_class_accuracy", [f"epoch {epoch} (best class mean so far)" for epoch in (1, 2, 3)]),
            ("last", []),
        ],
    )
    def test_best_is_by_the_metric(self, clock: Clock, metric: str, lines: list[str]) -> None:
        display, stream = plain(clock)
        for event in (started(metric), TEACHER, *VALIDATIONS):
            display.handle(event)
        best = [line.split(": ") for line in stream.getvalue().splitlines() if "so far" in line]
        assert [f"{words[1]} {words[2][words[2].index('(') :]}" for words in best] == lines

    def test_only_a_long_validation_has_a_line(self, clock: Clock) -> None:
        display, stream = plain(clock)
        for event in (STARTED, TEACHER, step(1)):
            display.handle(event)
        for seconds in (5, 25, 15):  # the validations of three epochs
            for clips in range(10, 10 * seconds, 10):
                clock.now_s += 1
                display.handle(progress(clips))
            display.handle(VALIDATED)
        lines = [
            line.split("] ")[1] for line in stream.getvalue().splitlines() if "clips" in line and "step" not in line
        ]
        assert lines == ["teacher: validation 110/800 clips"] * 2

    @pytest.mark.parametrize(("state", "text"), [("resume", "resumes at step 12"), ("reuse", "is reused (same)")])
    def test_states(self, clock: Clock, state: str, text: str) -> None:
        display, stream = plain(clock)
        display.handle(
            StageStarted(stage="teacher", state=state, why="same", total_steps=30, epochs=3, step=12)  # type: ignore[arg-type]
        )
        assert text in stream.getvalue()

    def test_a_bank(self, clock: Clock) -> None:
        display, stream = plain(clock)
        display.handle(BANK)
        for features in range(0, 300, 10):
            clock.now_s += 1
            display.handle(BankProgress(stage="bank", features=features, total_features=300))
        display.handle(replace(BANK, state="resume"))
        display.handle(StageFinished(stage="bank", metrics={}, checkpoint="", seconds=30.0))
        assert [line.split("] ")[1] for line in stream.getvalue().splitlines()] == [
            "bank: starts (new)",
            "bank: 0/300 features",
            "bank: 100/300 features",
            "bank: 200/300 features",
            "bank: resumes (new)",
            "bank: done, 30 s",
        ]

    def test_a_bank_has_no_gain_and_the_stage_behind_it_has(self, clock: Clock) -> None:
        display, stream = plain(clock)
        display.handle(STARTED)
        teacher, student = SUMMARY.stages
        bank = StageSummary(name="bank", state="run", metrics={}, seconds=3.0)
        display.handle(RunFinished(summary=replace(SUMMARY, stages=(teacher, bank, student))))
        rows = {line.split("│")[1].strip(): line.split("│") for line in stream.getvalue().splitlines() if "│" in line}
        assert [rows[name][4].strip() for name in ("teacher", "bank", "student")] == ["", "", "+2.5"]

    def test_closing_table(self, clock: Clock) -> None:
        display, stream = plain(clock)
        display.handle(STARTED)
        display.handle(RunFinished(summary=SUMMARY))
        text = stream.getvalue()
        student = next(line for line in text.splitlines() if "student" in line and "trained" in line)
        assert [cell.strip() for cell in student.split("│")[3:6]] == ["96.5%", "+2.5", "100.0%"]
        assert "reused" in text
        assert f"open MLflow  {SUMMARY.mlflow_command}\n" in text
        assert f"model        {SUMMARY.folder}\nregistered   {SUMMARY.model}\n" in text
        assert "11.5 s to the first step, 4.2 s before student, 20.0 s outside training steps of 90.0 s\n" in text

    def test_closing_report_says_what_the_gates_did(self, clock: Clock) -> None:
        """For each stage the deviation of its gates, and faults. Nothing if there is nothing to say."""
        living, dead = (
            GateHealth(mean=1.0, std=std, std_time=0.0, near_zero=0.0, saturated=0.0, greatest=2.0, start=1.0)
            for std in (0.12, 0.001)
        )
        attention = (StageHealth(stage=1, channel=living, spatial=dead), StageHealth(stage=2, channel=living))
        teacher, student = SUMMARY.stages
        summary = replace(SUMMARY, stages=(teacher, replace(student, attention=attention)))
        texts = []
        for one in (SUMMARY, summary):
            stream = io.StringIO()
            with Display(Console(file=stream, force_terminal=False, width=60), clock) as display:
                display.handle(RunFinished(summary=one))
            texts.append(stream.getvalue())
        plain, said = texts
        assert "gates" not in plain
        assert "attention    of student: gates deviate by 0.120 0.120 (channel), 0.001 (spatial)\n" in said
        assert "warning: student: the spatial gates of stage 1 have not moved from their start at 1 (" in said
        assert said.count("warning: ") == 1

    def test_closing_report_on_a_terminal(self, clock: Clock) -> None:
        """Text is wrapped between words. The command is not wrapped."""
        stream = io.StringIO()
        with Display(Console(file=stream, force_terminal=True, width=60, color_system=None), clock) as display:
            display.handle(RunFinished(summary=SUMMARY))
        text = stream.getvalue()
        assert f"open MLflow  {SUMMARY.mlflow_command}\n" in text
        overhead = text[text.index("overhead ") :].splitlines()
        assert len(overhead) > 1
        assert all(len(line) <= 60 for line in overhead)


class TestLive:
    def test_picture(self, clock: Clock) -> None:
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=True, width=110, height=30, color_system=None)
        with Display(console, clock) as display:
            for event in ALL[:-2]:
                clock.now_s += 1
                display.handle(event)
        picture = stream.getvalue()
        for text in ("quickstart", "running", "waiting", "step 1/30", "81.3 clips/s", "data wait 10%", "mfr 0.250"):
            assert text in picture
        assert "warning: clip a.mp4 [bold] cannot be read" in picture
        assert picture.rstrip().endswith("\x1b[?25h")  # the cursor is visible again

    def test_a_failure_gives_the_terminal_back(self) -> None:
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=True, width=110)

        def fail() -> None:
            with Display(console) as display:
                display.handle(STARTED)
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fail()
        assert "\x1b[?25h" in stream.getvalue()


class TestPicture:
    RUNNING: tuple[Event, ...] = (STARTED, TEACHER, step(10), CheckpointSaved(stage="teacher", step=10, path="/x"))

    @pytest.mark.parametrize(
        ("metric", "text"),
        [
            ("top1", "best top-1 70.0%"),
            ("top5", "best top-5 90.0%"),
            ("mean_class_accuracy", "best class mean 45.0%"),
            ("last", "last top-1 55.0%"),
        ],
    )
    def test_best_is_by_the_metric(self, metric: str, text: str) -> None:
        lines = drawn([started(metric), TEACHER, *VALIDATIONS])
        assert f"{text}  epoch 4: top-1 55.0%" in lines[1]

    def test_a_metric_that_was_not_measured(self) -> None:
        assert "running  epoch 1: top-1 75.0%" in drawn([started("top5"), TEACHER, VALIDATED])[1]

    def test_progress_takes_the_place_of_the_losses(self) -> None:
        training = drawn([*self.RUNNING])
        assert any("cross_entropy 1.500, mfr 0.250  lr 0.02" in line for line in training)
        for split, text in (("val", "validation 120/800 clips"), ("test", "evaluation 120/800 clips")):
            under_way = drawn([*self.RUNNING, progress(120, split)])
            assert len(under_way) == len(training)
            assert sum(text in line for line in under_way) == 1
        assert drawn([*self.RUNNING, progress(120), validated(0)])[3:] == training[3:]

    def test_progress_before_any_step(self) -> None:
        """A stage that resumes after its last step has only its evaluation left."""
        text = "\n".join(drawn([STARTED, TEACHER, progress(120, "test")]))
        assert "evaluation 120/800 clips" in text
        assert "starting workers" not in text

    def test_a_bank_has_one_bar(self) -> None:
        lines = drawn([STARTED, BANK, BankProgress(stage="bank", features=30, total_features=300)])
        assert sum("30/300 features" in line for line in lines) == 1
        assert not any("step" in line or "starting" in line for line in lines)

    def test_a_narrow_terminal_keeps_names_states_and_numbers(self) -> None:
        long = "finished by another run with the very same recipe and the very same data, so there is nothing to do"
        reused = StageStarted(stage="student", state="reuse", why=long, total_steps=30, epochs=3)
        lines = drawn([*self.RUNNING, *VALIDATIONS, reused, TEACHER, progress(120)])
        assert all(len(line) <= 80 for line in lines)
        assert [line.split()[:2] for line in lines[1:3]] == [["teacher", "running"], ["student", "waiting"]]
        assert "checkpoint at step 10" in "".join(lines)
        assert "120/800 clips" in "".join(lines)


class TestRunView:
    def test_time_left(self, clock: Clock) -> None:
        view = RunView(clock)
        view.apply(TEACHER)
        for number in range(1, 11):
            view.apply(step(number))
            clock.now_s += 2
        assert view.stage("teacher").time_left_s() == pytest.approx(40)

    def test_time_left_after_a_restart(self, clock: Clock) -> None:
        """A worker died and the stage returned to its checkpoint. Old marks would give a negative time."""
        view = RunView(clock)
        view.apply(TEACHER)
        for number in (18, 19, 20, 11, 12):
            view.apply(step(number))
            clock.now_s += 1
        assert view.stage("teacher").time_left_s() == pytest.approx(18)


class TestWords:
    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (0, "0.0 s"),
            (9.94, "9.9 s"),
            (9.96, "10 s"),
            (59.6, "1 min 00 s"),
            (187, "3 min 07 s"),
            (7500, "2 h 05 min"),
        ],
    )
    def test_duration(self, seconds: float, text: str) -> None:
        assert duration(seconds) == text

    def test_percent(self) -> None:
        assert percent(0.9625) == "96.2%"
        assert percent(None) == "-"
