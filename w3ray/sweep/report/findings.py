"""What is known about a sweep when its report is written?"""

import json
import shlex
from collections.abc import Sequence
from typing import Any

from w3ray._format import duration
from w3ray._text import one_line
from w3ray.errors import InputError
from w3ray.recipe import Recipe
from w3ray.recipe.load import apply_override, known_recipes
from w3ray.sweep.analysis import importances, savings
from w3ray.sweep.book import short_names
from w3ray.sweep.records import PointResult, ranked
from w3ray.sweep.report.section import label_of, value_text
from w3ray.sweep.space import CASE, Objective, Space


class Findings:
    """A sweep's points and the results that follow from them."""

    def __init__(self, space: Space, base: Recipe, points: Sequence[PointResult]) -> None:
        self.space, self.base, self.points = space, base, points
        self.order = ranked(points, space.objectives)
        self.names = ([CASE] if space.cases else []) + list(space.parameters)
        self.short = short_names(self.names)
        self.trials = [trial for point in points for trial in point.trials]
        self.saved = savings(self.trials)
        self.importances = importances(space, points)

    @property
    def objective(self) -> Objective:
        return self.space.objectives[0]

    @property
    def label(self) -> str:
        return label_of(self.objective)

    def facts(self) -> list[tuple[str, str]]:
        """The key numbers at the top of the page."""
        states = [trial.state for trial in self.trials]
        best = self.order[0] if self.order else None
        value = "-" if best is None else value_text(self.objective, best.values, 0)
        seconds = sum(trial.seconds for trial in self.trials)
        saved = 1 - self.saved.trained / self.saved.naive if self.saved.naive else 0.0
        return [
            (value, f"best {self.label}" + ("" if best is None else f", trial {best.number:04d}")),
            (str(len(states)), "trials: " + ", ".join(f"{states.count(one)} {one}" for one in dict.fromkeys(states))),
            (duration(seconds), "running time of all trials together"),
            (f"{saved:.0%}", "of the steps saved, compared with separate trials"),
        ]

    def lead(self) -> str:
        about = f"{self.space.description} " if self.space.description else ""
        return (
            f"{about}Recipe {self.base.name}, searcher {self.space.search.searcher}, scheduler "
            f"{self.space.scheduling.scheduler}, seed {self.space.search.seed}."
        )

    def command(self) -> str:
        """The command that runs the best point as a plain recipe."""
        if not self.order:
            return ""
        settings = {**self.space.fixed, **self.space.cases.get(self.order[0].point.get(CASE, ""), {})}
        settings |= {name: value for name, value in self.order[0].point.items() if name != CASE}
        options = [f"--set {shlex.quote(f'{name}={_yaml(value)}')}" for name, value in settings.items()]
        recipe = self.base.name if self.base.name in known_recipes() else "RECIPE.yaml"
        return " \\\n  ".join([f"w3ray run {recipe}", *options])


def _yaml(value: Any) -> str:
    """A value on one line of YAML; a text has no quotes if YAML reads it as the same text."""
    if not isinstance(value, str):
        return json.dumps(value)
    read: dict[str, Any] = {}
    try:
        apply_override(read, f"value={value}")
    except InputError:
        return json.dumps(value)
    return value if read["value"] == value and one_line(value) == value else json.dumps(value)
