"""What does a run print at its end? The stages, their gain, the model's place and the platform's overhead."""

from collections.abc import Mapping
from typing import Any

from w3ray._format import METRIC_LABELS, duration, percent
from w3ray.attention.health import deviations, faults
from w3ray.cli._console import Line, RichConsole, Table
from w3ray.events import Overhead, RunSummary


def print_closing_report(console: RichConsole, summary: RunSummary) -> None:
    """Print the closing table and the lines under it."""
    console.print()
    console.print(_stage_table(summary))
    for line, style in _attention_lines(summary):
        console.print(Line(line, style=style), soft_wrap=not console.is_terminal)
    lines = {"model": summary.folder, "registered": summary.model, "open MLflow": summary.mlflow_command}
    for label, text in lines.items():
        if text is not None:
            # Never folded here: a command with a line break in it cannot be copied.
            console.print(Line(f"{label:<13}{text}"), soft_wrap=True)
    if summary.overhead is not None:
        text = f"{'overhead':<13}{overhead_text(summary.overhead)}"
        # One line if there is no terminal, so that grep works.
        console.print(Line(text), soft_wrap=not console.is_terminal)


def _attention_lines(summary: RunSummary) -> list[tuple[str, str]]:
    """The deviation of the gates of each stage, one number for each stage of its network; and warnings."""
    lines = []
    for stage in summary.stages:
        if text := deviations(stage.attention):
            lines.append((f"{'attention':<13}of {stage.name}: gates deviate by {text}", ""))
        lines += [(f"warning: {stage.name}: {fault}", "yellow") for fault in faults(stage.attention)]
    return lines


def tracking_lines(tracking: Mapping[str, Any]) -> list[str]:
    """Where a planned run is recorded, and why."""
    if tracking["uri"] is None:
        return [f"tracking: none ({tracking['uri_from']})"]
    return [f"{name}: {tracking[key]} ({tracking[f'{key}_from']})" for name, key in _TRACKING_LINES]


_TRACKING_LINES = (("tracking", "uri"), ("experiment", "experiment"))


def _stage_table(summary: RunSummary) -> Table:
    metrics = [name for name in METRIC_LABELS if any(name in stage.metrics for stage in summary.stages)]
    # The metric that compares the stages comes first, next to its gain.
    metrics.sort(key=lambda name: name != summary.metric)
    table = Table(title=summary.recipe, title_justify="left", title_style="bold")
    table.add_column("stage", no_wrap=True)
    table.add_column("state")
    for position, name in enumerate(metrics):
        table.add_column(METRIC_LABELS[name], justify="right")
        if position == 0 and len(summary.stages) > 1:
            table.add_column("gain", justify="right")
    table.add_column("time", justify="right")
    before: float | None = None
    for stage in summary.stages:
        row = [stage.name, {"run": "trained", "resume": "resumed", "reuse": "reused"}[stage.state]]
        for position, name in enumerate(metrics):
            value = stage.metrics.get(name)
            row.append(percent(value))
            if position == 0 and len(summary.stages) > 1:
                row.append("" if before is None or value is None else f"{100 * (value - before):+.1f}")
                before = before if value is None else value  # a bank has no metrics
        table.add_row(*row, duration(stage.seconds))
    return table


def overhead_text(overhead: Overhead) -> str:
    """Seconds that the platform took besides training steps."""
    parts = []
    if overhead.to_first_step_s is not None:
        parts.append(f"{overhead.to_first_step_s:.1f} s to the first step")
    parts += [f"{seconds:.1f} s before {stage}" for stage, seconds in overhead.between_stages_s.items()]
    parts.append(f"{overhead.outside_steps_s:.1f} s outside training steps of {overhead.total_s:.1f} s")
    return ", ".join(parts)
