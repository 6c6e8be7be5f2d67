"""What does a person see while a sweep runs? A live table of trials on a terminal, plain lines elsewhere.

At the end there is a ranking. Everything goes to standard error.
"""

import time
from collections.abc import Sequence
from typing import Any, Self

from w3ray._format import METRIC_LABELS, duration, percent
from w3ray.cli._console import Group, Line, Live, ProgressBar, RenderableType, RichConsole, Table, error_console
from w3ray.sweep.book import TrialProgress, short_names, show_value
from w3ray.sweep.records import PointResult, Trial, by_point, pareto_front, ranked
from w3ray.sweep.results import SweepResult, SweepStatus
from w3ray.sweep.space import CASE, Objective, Space

_ROWS = 14
_RANKING_ROWS = 12
_BAR_WIDTH = 24
_STATE_STYLES = {"running": "cyan", "finished": "green", "stopped": "yellow", "failed": "red"}


class SweepDisplay:
    """Shows a sweep. It is a context manager, so that a failure restores the terminal."""

    def __init__(self, space: Space, console: RichConsole | None = None) -> None:
        self._space, self._console = space, console or error_console()
        self._status: SweepStatus | None = None
        self._live: Live | None = None
        self._shown: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()

    def show(self, status: SweepStatus) -> None:
        """Show the present state of the sweep."""
        self._status = status
        if not self._console.is_terminal:
            self._show_plain(status)
            return
        if self._live is None:
            self._live = Live(console=self._console, get_renderable=self._picture, refresh_per_second=2)
            self._live.start()
        for message in status.messages:
            self._console.print(Line(f"warning: {message}", style="yellow"), soft_wrap=True)

    def close(self) -> None:
        """End the live picture. A second call does nothing."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, line: str) -> None:
        self._console.print(Line(line), soft_wrap=True)

    def print_end(self, result: SweepResult) -> None:
        """Print the ranking, and where the results are."""
        self._console.print()
        self._console.print(ranking_table(result.points, self._space))
        states = [trial.state for point in result.points for trial in point.trials]
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        self.say(f"trials       {counts}, in {duration(result.seconds)}; {result.ended}")
        steps = sum(stage.steps for point in result.points for trial in point.trials for stage in trial.stages)
        reused = sum(
            stage.state == "reuse" for point in result.points for trial in point.trials for stage in trial.stages
        )
        self.say(f"training     {steps} steps; {reused} stages were reused instead of trained again")
        if result.front:
            self.say("Pareto front " + ", ".join(f"{point.number:04d}" for point in result.front))
        model = result.model
        if model["folder"]:
            self.say(f"best model   {model['folder']}")
        if model["version"]:
            self.say(f"registered   {model['name']} version {model['version']} (alias best)")
        self.say(f"report       w3ray tune report {result.name} --storage {_storage_of(result)}")
        command = result.tracking["command"] or result.tracking["uri"]
        if command is not None:
            self.say(f"open MLflow  {command}")

    def _show_plain(self, status: SweepStatus) -> None:
        with status.book.lock:
            for trial in status.book.trials:
                doing = status.book.doing.get(trial.id)
                line = self._news(trial, doing, status.book.objective_stage)
                if line != self._shown.get(trial.id):
                    self._shown[trial.id] = line
                    self._console.print(Line(f"[{status.seconds:6.1f}s] {line}"), soft_wrap=True)
        for message in status.messages:
            self._console.print(Line(f"[{status.seconds:6.1f}s] warning: {message}"), soft_wrap=True)

    def _news(self, trial: Trial, doing: TrialProgress | None, objective_stage: str) -> str:
        """A line about a trial. It changes only at important events."""
        point = point_text(trial.point)
        if trial.state == "running" and doing is not None:
            if doing.waits_for:
                return f"trial {trial.id} ({point}): waits for a stage that another trial is training"
            if not doing.stage:
                return f"trial {trial.id} ({point}): starts"
            how = {"run": "trains", "resume": "resumes", "reuse": "reuses"}.get(doing.stage_state, "trains")
            best = f", best {value_text(self._space.objectives[0], trial.values)}" if trial.reports else ""
            # In the objective's stage, an epoch counts once its value is known, so that one line shows both.
            reported = trial.reports[-1].epoch if trial.reports else 0
            done = reported if doing.stage == objective_stage else doing.validated_epoch
            epoch = f", epoch {done}/{doing.epochs}" if done else ""
            return f"trial {trial.id} ({point}): {how} {doing.stage}{epoch}{best}"
        value = f", {value_text(self._space.objectives[0], trial.values)}" if trial.values is not None else ""
        reason = f" ({trial.reason})" if trial.reason else ""
        return f"trial {trial.id} ({point}): {trial.state}{value}{reason}"

    def _picture(self) -> RenderableType:
        assert self._status is not None
        with self._status.book.lock:
            return sweep_picture(self._status, self._space)


def _storage_of(result: SweepResult) -> str:
    return result.directory.rpartition("/sweeps/")[0]


def sweep_picture(status: SweepStatus, space: Space) -> RenderableType:
    """The live picture at this moment. None of its lines wraps."""
    book = status.book
    trials = book.trials
    ended = [trial for trial in trials if trial.ended and trial.state != "skipped"]
    total = max(book.most_trials, len(ended))
    left_s = time_left_s(ended, total, status.concurrency)
    head = Line((space.name, "bold"), "  ", (f"{duration(status.seconds)}  {book.base.name}", "dim"))
    bars = Table.grid(padding=(0, 1))
    text = f"{len(ended)}/{total} trials, {status.concurrency} at once"
    text += f", {duration(left_s)} left" if left_s is not None else ""
    bar = ProgressBar(total=max(1, total), completed=len(ended), width=_BAR_WIDTH)
    bars.add_row(" ", bar, Line(text, cut=True))
    # Expanded, so that the parameters get all the width that the other columns leave, and no more.
    table = Table(box=None, padding=(0, 1), pad_edge=False, expand=True)
    objective = space.objectives[0]
    for column in ("trial", "state", "stage", "epoch", METRIC_LABELS.get(objective.metric, objective.metric), "time"):
        table.add_column(column, no_wrap=True, justify="right" if column in ("epoch", "time") else "left")
    table.add_column("parameters", no_wrap=True, overflow="ellipsis", ratio=1)
    best = _best(trials, space)
    for trial in _shown_trials(trials, best):
        doing = book.doing.get(trial.id, TrialProgress())
        lasted_s = trial.seconds + (max(0.0, time.time() - trial.started_s) if trial.started_s is not None else 0.0)
        stage = "waits for a teacher" if doing.waits_for else doing.stage
        epoch = f"{doing.validated_epoch}/{doing.epochs}" if doing.stage else _epochs(trial)
        table.add_row(
            Line(trial.id, style="bold" if trial.number == best else ""),
            Line(trial.state, style=_STATE_STYLES.get(trial.state, "dim")),
            stage,
            epoch,
            Line(value_text(objective, trial.values), style="bold" if trial.number == best else ""),
            duration(lasted_s) if lasted_s else "",
            point_text(trial.point) + (f"  {trial.reason}" if trial.state == "failed" else ""),
        )
    hidden = len(trials) - table.row_count
    parts: list[RenderableType] = [head, bars, table]
    if hidden > 0:
        parts.append(Line(f"  and {hidden} more", style="dim"))
    if not trials:
        parts.append(Line("  starting: data, Ray, tracking ...", style="dim"))
    return Group(*parts)


def _epochs(trial: Trial) -> str:
    return str(trial.reports[-1].epoch) if trial.reports else ""


def _best(trials: Sequence[Trial], space: Space) -> int | None:
    order = ranked(by_point(trials), space.objectives)
    return order[0].number if order else None


def _shown_trials(trials: Sequence[Trial], best: int | None) -> list[Trial]:
    """The running trials, the best one, then the newest ones."""
    at_work = [trial for trial in trials if trial.state == "running"]
    first = [trial for trial in trials if trial.number == best and trial not in at_work]
    rest = sorted(
        (trial for trial in trials if trial not in at_work and trial not in first), key=lambda trial: -trial.order
    )
    return [*at_work, *first, *rest][:_ROWS]


def time_left_s(ended: Sequence[Trial], total: int, concurrency: int) -> float | None:
    """Seconds left, if the other trials take as long as the ended ones. None: no trial has ended."""
    if not ended:
        return None
    mean_s = sum(trial.seconds for trial in ended) / len(ended)
    return (total - len(ended)) * mean_s / concurrency


def ranking_table(points: Sequence[PointResult], space: Space) -> Table:
    """The best points, one row each, ranked by the first objective."""
    table = Table(title=f"{space.name}: ranking", title_justify="left", title_style="bold")
    table.add_column("rank", justify="right")
    table.add_column("trial", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for objective in space.objectives:
        table.add_column(METRIC_LABELS.get(objective.metric, objective.metric), justify="right", no_wrap=True)
    names = ([CASE] if space.cases else []) + list(space.parameters)
    short = short_names(names)
    for name in names:
        table.add_column(short[name], justify="right")
    front = {point.number for point in pareto_front(points, space.objectives)} if len(space.objectives) > 1 else set()
    for rank, point in enumerate(points[:_RANKING_ROWS], start=1):
        mark = " *" if point.number in front else ""
        shown = [
            value_text(objective, point.values, place, point.deviations)
            for place, objective in enumerate(space.objectives)
        ]
        table.add_row(
            str(rank) if point.values is not None else "-",
            f"{point.number:04d}{mark}",
            point.state,
            *shown,
            *(show_value(point.point[name]) if name in point.point else "" for name in names),
        )
    if len(points) > _RANKING_ROWS:
        table.caption = f"and {len(points) - _RANKING_ROWS} more"
    return table


def value_text(
    objective: Objective,
    values: Sequence[float] | None,
    place: int = 0,
    deviations: Sequence[float] | None = None,
) -> str:
    """An objective's value, with its deviation over repeats if there is one."""
    if values is None or place >= len(values) or values[place] != values[place]:
        return "-"
    if objective.metric in METRIC_LABELS:
        text = percent(values[place])
        return text if deviations is None else f"{text} ± {100 * deviations[place]:.1f}"
    text = f"{values[place]:.4g}"
    return text if deviations is None else f"{text} ± {deviations[place]:.2g}"


def point_text(point: dict[str, Any]) -> str:
    """Text such as "reduction 8, mfr 0.3"."""
    short = short_names(list(point))
    return ", ".join(f"{short[name]} {show_value(value)}" for name, value in point.items())
