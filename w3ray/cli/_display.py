"""What does a person see while a recipe runs?

On a terminal there is one live picture: the stages, a progress bar, speed, losses, validation, time left. Elsewhere (a
file, CI) there are plain lines: one for each important event, and one now and then between events. Both end with the
same short table. Everything goes to standard error.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from w3ray._format import METRIC_LABELS, duration, percent
from w3ray.cli._console import Group, Line, Live, ProgressBar, RenderableType, RichConsole, Table, error_console
from w3ray.cli._summary import print_closing_report
from w3ray.events import (
    BankProgress,
    CheckpointSaved,
    Event,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    StageStopped,
    StepDone,
    Validated,
    ValidationProgress,
    Warned,
    WeightsTaken,
)

PLAIN_EVERY_S = 10.0
"""Minimum seconds between two plain lines about training steps, and before a line about a validation."""

_RATE_WINDOW_S = 30.0
# With this width, "step 120000/300000  epoch 40/100  12 h 30 min left" fits beside the bar in 80 columns.
_BAR_WIDTH = 24


@dataclass(slots=True)
class StageView:
    """What the display knows about one stage."""

    name: str
    state: str = "waiting"
    why: str = ""
    total_steps: int = 0
    epochs: int = 0
    step: int = 0
    epoch: int = 0
    last: StepDone | None = None
    validation: Validated | None = None
    best: float | None = None
    """The best value of the run's metric so far. If the metric is "last": the newest top-1."""
    improved: bool = False
    """Whether the newest validation is the best so far."""
    checkpoint_step: int | None = None
    progress: ValidationProgress | BankProgress | None = None
    progress_since_s: float = 0.0
    """Clock at the first progress of the current validation."""
    result: StageFinished | None = None
    marks: list[tuple[float, int]] = field(default_factory=list)
    """(clock, step) of recent steps, for the time left."""

    def time_left_s(self) -> float | None:
        """Seconds to the stage's last step, at the speed of the last half minute, including validations."""
        if len(self.marks) < 2 or self.marks[-1][1] == self.marks[0][1]:
            return None
        (first_s, first), (last_s, last) = self.marks[0], self.marks[-1]
        return (self.total_steps - last) * (last_s - first_s) / (last - first)


class RunView:
    """The state of a run, built from its events. It does not depend on a screen.

    `lock` is held while an event is applied, because another thread draws the live picture.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.lock = threading.Lock()
        self.started_s = clock()
        self.recipe = ""
        self.storage = ""
        self.metric = self.shown = "top1"
        self.stages: dict[str, StageView] = {}
        self.current: str | None = None

    def stage(self, name: str) -> StageView:
        return self.stages.setdefault(name, StageView(name))

    def apply(self, event: Event) -> None:
        """Apply one event. An event that no screen shows changes nothing."""
        with self.lock:
            self._apply(event)

    def _apply(self, event: Event) -> None:
        match event:
            case RunStarted():
                self.recipe, self.storage, self.metric = event.recipe, event.storage, event.metric
                self.stages = {name: StageView(name) for name in event.stages}
            case StageStarted():
                stage = self.stage(event.stage)
                stage.state, stage.why, stage.step = event.state, event.why, event.step
                stage.total_steps, stage.epochs = event.total_steps, event.epochs
                self.current = event.stage
            case StepDone():
                self._apply_step(self.stage(event.stage), event)
            case ValidationProgress() | BankProgress():
                stage = self.stage(event.stage)
                if stage.progress is None:
                    stage.progress_since_s = self.clock()
                stage.progress = event
            case Validated():
                stage = self.stage(event.stage)
                stage.progress = None
                if event.split == "val":
                    self._apply_validation(stage, event)
            case CheckpointSaved():
                self.stage(event.stage).checkpoint_step = event.step
            case StageFinished():
                self.stage(event.stage).result = event
                self.current = None

    def _apply_validation(self, stage: StageView, event: Validated) -> None:
        stage.validation, stage.improved = event, False
        accuracy = "map" if "map" in event.metrics else "top1"  # the one of multi-label clips
        self.shown = accuracy if self.metric in ("top1", "last") else self.metric
        value = event.metrics.get(self.shown)
        if self.metric == "last":
            stage.best = value
            return
        if value is not None and (stage.best is None or value > stage.best):
            stage.best, stage.improved = value, True

    def best_text(self, stage: StageView) -> str:
        """Text such as "best top-1 73.5%", or "last top-1 72.0%" if the metric is "last". Empty before a validation."""
        if stage.best is None:
            return ""
        word = "last" if self.metric == "last" else "best"
        return f"{word} {METRIC_LABELS[self.shown]} {percent(stage.best)}"

    def _apply_step(self, stage: StageView, event: StepDone) -> None:
        now_s = self.clock()
        if event.step <= stage.step:  # a worker died, and the stage resumed from its last checkpoint
            stage.marks.clear()
        stage.last, stage.step, stage.epoch, stage.progress = event, event.step, event.epoch, None
        stage.marks.append((now_s, event.step))
        while len(stage.marks) > 2 and now_s - stage.marks[1][0] > _RATE_WINDOW_S:
            stage.marks.pop(0)


class Display:
    """Shows the events of a run. It is a context manager, so that a failure restores the terminal.

    Args:
        console: where to show the events. None: standard error.
        clock: seconds, never decreasing.
    """

    def __init__(self, console: RichConsole | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console or error_console()
        self._view = RunView(clock)
        self._screen: _Live | _Plain = (_Live if self._console.is_terminal else _Plain)(self._console, self._view)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def handle(self, event: Event) -> None:
        """Show one event."""
        self._view.apply(event)
        self._screen.show(event)
        if isinstance(event, RunFinished):
            self._screen.close()
            print_closing_report(self._console, event.summary)

    def close(self) -> None:
        """End the live picture. A second call does nothing."""
        self._screen.close()


class _Plain:
    """Plain lines that begin with the seconds since the start. No line is wrapped or coloured."""

    def __init__(self, console: RichConsole, view: RunView) -> None:
        self._console, self._view = console, view
        self._steps_shown_s = view.started_s - PLAIN_EVERY_S
        self._shown_progress_since_s: float | None = None

    def show(self, event: Event) -> None:
        match event:
            case StepDone():
                line = self._step_line(event)
            case ValidationProgress():
                line = self._progress_line(event)
            case BankProgress():
                line = self._bank_line(event)
            case _:
                line = turning_point(event, self._view)
        if line:
            self._print(line)

    def close(self) -> None:
        pass

    def _step_line(self, event: StepDone) -> str:
        stage = self._view.stage(event.stage)
        now_s = self._view.clock()
        first = len(stage.marks) == 1
        if not first and now_s - self._steps_shown_s < PLAIN_EVERY_S:
            return ""
        self._steps_shown_s = now_s
        left_s = stage.time_left_s()
        left = f", {duration(left_s)} left" if left_s is not None else ""
        return (
            f"{event.stage}: epoch {event.epoch + 1}/{stage.epochs}, step {event.step}/{stage.total_steps}, "
            f"{losses_text(event)}, lr {event.lr:.3g}, {speed_text(event)}{left}"
        )

    def _bank_line(self, event: BankProgress) -> str:
        """A line now and then: a bank may take hours."""
        now_s = self._view.clock()
        if now_s - self._steps_shown_s < PLAIN_EVERY_S:
            return ""
        self._steps_shown_s = now_s
        return f"{event.stage}: {progress_text(event)}"

    def _progress_line(self, event: ValidationProgress) -> str:
        """One line for a long validation, so that it does not look like a hang."""
        since_s = self._view.stage(event.stage).progress_since_s
        if since_s == self._shown_progress_since_s or self._view.clock() - since_s < PLAIN_EVERY_S:
            return ""
        self._shown_progress_since_s = since_s
        return f"{event.stage}: {progress_text(event)}"

    def _print(self, line: str) -> None:
        seconds = self._view.clock() - self._view.started_s
        self._console.print(Line(f"[{seconds:6.1f}s] {line}"), soft_wrap=True)


class _Live:
    """One picture that is redrawn in place. Warnings are printed above it and stay."""

    def __init__(self, console: RichConsole, view: RunView) -> None:
        self._console, self._view = console, view
        self._live: Live | None = None

    def show(self, event: Event) -> None:
        if isinstance(event, RunFinished):
            return
        if self._live is None:
            self._live = Live(
                console=self._console, get_renderable=self._picture, refresh_per_second=4, transient=False
            )
            self._live.start()
        if isinstance(event, Warned | WeightsTaken | StageStopped):
            # Not folded here: a path with a line break in it cannot be copied.
            style = "yellow" if isinstance(event, Warned) else "dim"
            self._console.print(Line(turning_point(event, self._view), style=style), soft_wrap=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _picture(self) -> RenderableType:
        with self._view.lock:
            return picture(self._view)


def picture(view: RunView) -> RenderableType:
    """The live picture at this moment. None of its lines wraps."""
    elapsed = duration(view.clock() - view.started_s)
    title = Line((view.recipe, "bold"), "  ", (f"{elapsed}  {view.storage}", "dim"), cut=True)
    stages = Table.grid(padding=(0, 2))
    stages.add_column(no_wrap=True)
    stages.add_column(no_wrap=True, min_width=len("waiting"))
    # Only this column may be narrowed by Rich. Its texts do not wrap; they end in an ellipsis.
    stages.add_column()
    for stage in view.stages.values():
        stages.add_row(Line(f"  {stage.name}", style="bold"), _state_text(stage, view.current), _news(stage, view))
    parts: list[RenderableType] = [title, stages]
    current = view.stages.get(view.current or "")
    if current is not None and current.state != "reuse":
        parts += [_bars(current), *_numbers(current)]
    elif view.current is None and all(stage.result is None for stage in view.stages.values()):
        parts.append(Line("  starting: data, Ray, tracking ...", style="dim"))
    return Group(*parts)


def _state_text(stage: StageView, current: str | None) -> Line:
    if stage.result is not None:
        return Line("reused" if stage.state == "reuse" else "done", style="green")
    if stage.name == current:
        return Line("resumed" if stage.state == "resume" else "running", style="cyan")
    return Line("waiting", style="dim")


def _news(stage: StageView, view: RunView) -> Line:
    if stage.result is not None:
        why = f"  {stage.why}" if stage.state == "reuse" else f"  in {duration(stage.result.seconds)}"
        return Line(metrics_text(stage.result.metrics), (why, "dim"), cut=True)
    if stage.validation is not None:
        newest = f"epoch {stage.validation.epoch + 1}: {metrics_text(stage.validation.metrics)}"
        # The best value comes first, because a narrow terminal cuts off the end.
        return Line("  ".join(filter(None, (view.best_text(stage), newest))), cut=True)
    return Line(stage.why, style="dim", cut=True)


def _bars(stage: StageView) -> RenderableType:
    """The bar of the steps; below it, the bar of the current validation or evaluation."""
    bars = Table.grid(padding=(0, 1))
    bars.add_column(no_wrap=True)
    bars.add_column(no_wrap=True)
    bars.add_column()
    text = f"step {stage.step}/{stage.total_steps}  epoch {min(stage.epoch + 1, stage.epochs)}/{stage.epochs}"
    left_s = stage.time_left_s()
    if left_s:
        text += f"  {duration(left_s)} left"
    rows = [(stage.step, stage.total_steps, text)] if stage.total_steps else []
    match stage.progress:
        case ValidationProgress(clips=done, total_clips=total) | BankProgress(features=done, total_features=total):
            rows.append((done, total, progress_text(stage.progress)))
    for done, total, text in rows:
        bar = ProgressBar(total=max(1, total), completed=done, width=_BAR_WIDTH)
        bars.add_row(" ", bar, Line(text, cut=True))
    return bars


def _numbers(stage: StageView) -> list[Line]:
    """Losses and speed, on two lines. The bar of a validation replaces the losses, so the height stays the same."""
    if stage.last is None:
        return [] if stage.progress is not None else [Line("  starting workers and data ...", style="dim")]
    saved = f"  checkpoint at step {stage.checkpoint_step}" if stage.checkpoint_step is not None else ""
    lines = [f"  {speed_text(stage.last)}{saved}"]
    if stage.progress is None:
        lines.insert(0, f"  {losses_text(stage.last)}  lr {stage.last.lr:.3g}")
    return [Line(line, cut=True) for line in lines]


def turning_point(event: Event, view: RunView) -> str:
    """The plain line of an important event. Empty for other events."""
    match event:
        case RunStarted():
            return f"{event.recipe}: {' -> '.join(event.stages)}; storage {event.storage}"
        case StageStarted():
            resumes = f"resumes at step {event.step}" if event.total_steps else "resumes"
            words = {"run": "starts", "resume": resumes, "reuse": "is reused"}[event.state]
            size = f"; {event.total_steps} steps, {event.epochs} epochs"
            if event.state == "reuse" or not event.total_steps:
                size = ""
            return f"{event.stage}: {words} ({event.why}){size}"
        case WeightsTaken():
            return f"{event.stage}: {event.describe()}"
        case StageStopped():
            return f"{event.stage}: {event.why}"
        case Validated():
            if event.split == "test":
                return f"{event.stage}: evaluation: {metrics_text(event.metrics)}"
            best = f" (best {METRIC_LABELS[view.shown]} so far)" if view.stage(event.stage).improved else ""
            return f"{event.stage}: epoch {event.epoch + 1}: {metrics_text(event.metrics)}{best}"
        case Warned():
            return f"warning: {event.message}"
        case StageFinished():
            parts = ("done", metrics_text(event.metrics), duration(event.seconds))
            return f"{event.stage}: {', '.join(filter(None, parts))}"
        case _:
            return ""


def metrics_text(metrics: dict[str, float]) -> str:
    """Accuracies in percent and the loss, in a fixed order. Values that a stage did not measure are left out."""
    shown = [f"{label} {percent(metrics[key])}" for key, label in METRIC_LABELS.items() if key in metrics]
    if "loss" in metrics:
        shown.append(f"loss {metrics['loss']:.3f}")
    return ", ".join(shown)


def progress_text(event: ValidationProgress | BankProgress) -> str:
    """Text such as "validation 120/800 clips"."""
    if isinstance(event, BankProgress):
        return f"{event.features}/{event.total_features} features"
    what = "validation" if event.split == "val" else "evaluation"
    return f"{what} {event.clips}/{event.total_clips} clips"


def losses_text(event: StepDone) -> str:
    """The parts of the loss, by name."""
    return ", ".join(f"{name} {value:.3f}" for name, value in event.losses.items())


def speed_text(event: StepDone) -> str:
    """Clips per second, and the share of time spent waiting for data."""
    wait = event.data_wait_s / event.step_s if event.step_s > 0 else 0.0
    return f"{event.clips_per_s:.1f} clips/s, data wait {wait:.0%}"
