"""What a person sees of a run: plain lines, the live picture, the closing table."""

import io
import pickle

import pytest
from rich.console import Console

from w3ray.cli._display import Display, RunView
from w3ray.cli._summary import duration, percent
from w3ray.events import (
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
    """Seconds that pass when told."""

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


STARTED = RunStarted(recipe="quickstart", stages=("teacher", "student"), storage="/data/runs")
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
    mlflow_command="mlflow ui --backend-store-uri sqlite:///" + "/a-long-folder-name" * 6 + "/mlflow.db",
    overhead=Overhead(to_first_step_s=11.5, between_stages_s={"student": 4.25}, outside_steps_s=20.0, total_s=90.0),
)
ALL: list[Event] = [
    STARTED,
    TEACHER,
    step(1),
    ValidationProgress(stage="teacher", rows=8, total=80),
    VALIDATED,
    CheckpointSaved(stage="teacher", step=10, path="/x"),
    Warned(message="clip a.mp4 [bold] can not be read"),
    FINISHED,
    RunFinished(summary=SUMMARY),
]


@pytest.fixture
def clock() -> Clock:
    return Clock()


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
            "[   5.0s] teacher: epoch 1: top-1 75.0%, loss 1.250 (best so far)",
            "[   7.0s] warning: clip a.mp4 [bold] can not be read",
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
        assert stream.getvalue().count("best so far") == 1

    @pytest.mark.parametrize(("state", "text"), [("resume", "resumes at step 12"), ("reuse", "is reused (same)")])
    def test_states(self, clock: Clock, state: str, text: str) -> None:
        display, stream = plain(clock)
        display.handle(
            StageStarted(stage="teacher", state=state, why="same", total_steps=30, epochs=3, step=12)  # type: ignore[arg-type]
        )
        assert text in stream.getvalue()

    def test_closing_table(self, clock: Clock) -> None:
        display, stream = plain(clock)
        display.handle(STARTED)
        display.handle(RunFinished(summary=SUMMARY))
        text = stream.getvalue()
        student = next(line for line in text.splitlines() if "student" in line and "trained" in line)
        assert [cell.strip() for cell in student.split("│")[3:6]] == ["96.5%", "+2.5", "100.0%"]
        assert "reused" in text
        assert f"open MLflow  {SUMMARY.mlflow_command}\n" in text
        assert "11.5 s to the first step, 4.2 s before student, 20.0 s outside training steps of 90.0 s\n" in text


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
        assert "warning: clip a.mp4 [bold] can not be read" in picture
        assert picture.rstrip().endswith("\x1b[?25h")  # the cursor is given back

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


class TestRunView:
    def test_time_left(self, clock: Clock) -> None:
        view = RunView(clock)
        view.apply(TEACHER)
        for number in range(1, 11):
            view.apply(step(number))
            clock.now_s += 2
        assert view.stage("teacher").time_left_s() == pytest.approx(40)

    def test_time_left_after_a_restart(self, clock: Clock) -> None:
        """A worker died and the stage goes back to its checkpoint: old marks would give a negative time."""
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
