"""What does a sweep search? The types that a page of YAML in `tune_spaces/` becomes.

    parameters:
      model.attention.reduction: {choice: [4, 8, 16, 32]}
      model.attention.temporal_kernel: {choice: [3, 5], when: {model.attention.temporal: true}}
      stages.student.loss_weights.mfr: {loguniform: [0.01, 1.0]}

A parameter is any field of a recipe by its dotted name; stages are named. A point gives a value to each parameter whose
conditions hold; `recipe_at` makes a recipe of it. `load_space` reads a space, `check_space` holds it against a recipe.
"""

import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from w3ray._nearest import did_you_mean
from w3ray.attention import attention_config
from w3ray.errors import InputError
from w3ray.recipe import NAME_PATTERN, Recipe, ResolvedStage, Section
from w3ray.recipe.faults import fault_lines
from w3ray.recipe.load import put_value, read_yaml

TUNE_SPACES = Path(__file__).resolve().parent.parent / "_tune_spaces"
"""The shipped spaces: in a checkout a link to `tune_spaces/`, in a wheel its copy."""

Point = dict[str, Any]
"""Dotted name of a recipe's field -> value; of the parameters whose conditions hold."""

CASE = "case"
"""The name under which a point says which of the space's cases it is."""

_KINDS = ("choice", "grid", "uniform", "loguniform", "integer")
_OWN_FIELDS = ("name", "storage", "tracking")


class Parameter(Section):
    """One dimension: exactly one of `choice`, `grid`, `uniform`, `loguniform`, `integer`."""

    choice: tuple[Any, ...] | None = Field(default=None, min_length=1, description="one of these values")
    grid: tuple[Any, ...] | None = Field(
        default=None, min_length=1, description="each of these values, also where the others are drawn at random"
    )
    uniform: tuple[float, float] | None = Field(default=None, description="a number from [least, most]")
    loguniform: tuple[float, float] | None = Field(
        default=None, description="a number from [least, most], its logarithm evenly"
    )
    integer: tuple[int, int] | None = Field(default=None, description="a whole number from [least, most], both in")
    step: float | None = Field(default=None, gt=0, description="least + a multiple of this alone (quantised)")
    when: dict[str, Any] = Field(
        default={}, description="the parameter is there only where each of these fields has this value, or one of them"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [name for name in _KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(_KINDS)}; got {', '.join(given) or 'none'}")
        if self.choice is None and self.grid is None:
            least, most = self.bounds
            if not least < most:
                raise ValueError(f"{self.kind} [{least:g}, {most:g}]: the least comes first, and is less")
            if self.loguniform is not None and least <= 0:
                raise ValueError(f"loguniform [{least:g}, {most:g}]: must lie above 0")
            if self.step is not None and self.loguniform is not None:
                raise ValueError("step is for uniform and integer")
            if self.step is not None and self.step > most - least:
                raise ValueError(f"step {self.step:g} is larger than the range {most - least:g}")
            if self.integer is not None and self.step is not None and self.step != int(self.step):
                raise ValueError(f"step {self.step:g} of integer must be a whole number")
        elif self.step is not None:
            raise ValueError("step is for uniform and integer")
        return self

    @property
    def kind(self) -> str:
        return next(name for name in _KINDS if getattr(self, name) is not None)

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and most of a numeric one."""
        found = self.uniform or self.loguniform or self.integer
        assert found is not None
        return found

    @property
    def values(self) -> tuple[Any, ...] | None:
        """All values where there are finitely many, in order; None where they are a continuum."""
        if (listed := self.choice or self.grid) is not None:
            return listed
        least, most = self.bounds
        step = self.step or (1 if self.integer is not None else None)
        if step is None:
            return None
        count = math.floor((most - least) / step + 1e-9) + 1
        return tuple(self._number(least + i * step) for i in range(count))

    def at(self, share: float) -> Any:
        """The value at a share in [0, 1) of the parameter's range: what makes a draw out of a random number."""
        if (values := self.values) is not None:
            return values[int(share * len(values))]
        least, most = self.bounds
        if self.loguniform is not None:
            return math.exp(math.log(least) + share * (math.log(most) - math.log(least)))
        return least + share * (most - least)

    def extremes(self) -> tuple[Any, ...]:
        """Values that show whether all of them can be used."""
        return self.bounds if self.values is None else self.values

    def _number(self, value: float) -> Any:
        return round(value) if self.integer is not None else round(value, 12)


class Objective(Section):
    """What trials are compared by: a validation metric of a stage's best epoch, or what its model costs."""

    metric: str = Field(
        default="top1", description="a validation metric, gmac (multiply-adds of a clip) or clips_per_s"
    )
    goal: Literal["max", "min"] | None = Field(
        default=None, description="whether more or less of it is better; null: less of loss and gmac, more of others"
    )
    stage: str | None = Field(default=None, description="stage that reports it; null: the recipe's last")

    @property
    def lower_is_better(self) -> bool:
        return self.goal == "min" if self.goal is not None else self.metric in ("loss", "gmac")


VALIDATION_METRICS = ("top1", "top5", "mean_class_accuracy", "loss")
COST_METRICS = ("gmac", "clips_per_s")


class Search(Section):
    """Which points are tried."""

    searcher: str = Field(default="random", description="how points are proposed")
    trials: int | None = Field(default=None, ge=1, description="points to try; null: all of the grid, or 16")
    seed: int = Field(default=0, ge=0, description="seed of the draws")
    repeats: int = Field(default=1, ge=1, description="runs of each point with other recipe seeds; ranked by the mean")
    warm_start: tuple[str, ...] = Field(
        default=(), description="names of earlier sweeps in the same storage whose results the searcher is told first"
    )


class Scheduling(Section):
    """Which trials are stopped early. Time is counted in epochs of the stage that reports the objective."""

    scheduler: str = Field(default="none", description="who decides")
    grace_epochs: int = Field(default=1, ge=1, description="no trial is stopped before this many epochs")
    reduction_factor: float = Field(default=3, gt=1, description="asha: one of so many trials goes on at each rung")
    interval_epochs: int = Field(default=1, ge=1, description="pbt: epochs of a generation")
    quantile: float = Field(
        default=0.25, gt=0, le=0.5, description="pbt: share that goes on from the weights of as many that are ahead"
    )
    resample: float = Field(
        default=0.25, ge=0, le=1, description="pbt: how often a value is drawn anew instead of changed by a fifth"
    )


class Budget(Section):
    """When no more trials are started and those at work are stopped. null: no limit."""

    hours: float | None = Field(default=None, gt=0, description="wall-clock hours")
    gpu_hours: float | None = Field(default=None, gt=0, description="hours of GPUs held by trials, added up")
    max_failed_share: float = Field(
        default=0.5, gt=0, le=1, description="give up when more than this share of at least three ended trials failed"
    )


class Space(Section):
    """A whole search."""

    name: str = Field(pattern=NAME_PATTERN, description="name of the sweep, its folder and its MLflow run")
    description: str = Field(default="", description="what it is to find out")
    parameters: dict[str, Parameter] = Field(default={}, description="dotted field of the recipe -> its values")
    cases: dict[Annotated[str, Field(pattern=NAME_PATTERN)], dict[str, Any]] = Field(
        default={}, description="named groups of settings, each of which is tried (a grid of one dimension)"
    )
    fixed: dict[str, Any] = Field(default={}, description="dotted field -> value, in all trials")
    objective: Objective | tuple[Objective, ...] = Field(
        default=Objective(), description="what is compared; several: a Pareto front"
    )
    search: Search = Search()
    scheduling: Scheduling = Scheduling()
    budget: Budget = Budget()
    concurrency: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="trials at once; auto: as many as the cluster has room for"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.parameters and not self.cases:
            raise ValueError("parameters: nothing is searched; name at least one field of the recipe")
        seen: list[str] = []
        for name, parameter in self.parameters.items():
            for other in parameter.when:
                if other in self.parameters and other not in seen:
                    raise ValueError(f"parameters.{name}.when: {other} must stand before it")
            seen.append(name)
        if isinstance(self.objective, tuple) and not self.objective:
            raise ValueError("objective: name at least one")
        return self

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return self.objective if isinstance(self.objective, tuple) else (self.objective,)

    def to_dict(self) -> dict[str, Any]:
        """Plain values as JSON knows them; `Space.model_validate` takes them back."""
        document: dict[str, Any] = json.loads(self.model_dump_json(exclude_defaults=True))
        return {"name": self.name, **document}

    def renamed(self, name: str) -> Self:
        """The same space under another name. Raises: InputError where it is no name."""
        if re.fullmatch(NAME_PATTERN, name) is None:
            raise InputError(
                f"name: must start with a letter or digit and hold only letters, digits and . _ -, got {name!r}"
            )
        return self.model_copy(update={"name": name})

    def grid_dimensions(self) -> dict[str, tuple[Any, ...]]:
        """What is tried value by value whoever proposes: the cases and the `grid` parameters."""
        cases = {CASE: tuple(self.cases)} if self.cases else {}
        return cases | {name: one.grid for name, one in self.parameters.items() if one.grid is not None}

    def resolve(self, base: Recipe, value_of: Callable[[str], Any]) -> Point:
        """The point whose values are `value_of(name)`, without the parameters whose conditions do not hold.

        Args:
            base: tells the values of fields that are no parameters.
            value_of: asked for `CASE` first where there are cases, then for the parameters in the space's order.
        """
        point: Point = {}
        values = base.to_dict()
        for name, value in self.fixed.items():
            _put(values, name, value)
        if self.cases:
            point[CASE] = value_of(CASE)
            for name, value in self.cases[point[CASE]].items():
                _put(values, name, value)
        for name, parameter in self.parameters.items():
            if all(_holds(_get(values, field), wanted) for field, wanted in parameter.when.items()):
                point[name] = value_of(name)
                _put(values, name, point[name])
        return point

    def grid_points(self, base: Recipe) -> Iterator[Point]:
        """Each combination once, in order; a parameter whose conditions do not hold makes no difference.

        Raises:
            InputError: a parameter has no list of values.
        """
        dimensions: dict[str, tuple[Any, ...]] = {CASE: tuple(self.cases)} if self.cases else {}
        for name, parameter in self.parameters.items():
            if (values := parameter.values) is None:
                raise InputError(
                    f"parameters.{name}: a grid needs a list of values, and {parameter.kind} has none; give it a step, "
                    "or use choice, or search.searcher random"
                )
            dimensions[name] = values
        seen = set()
        for combination in itertools.product(*dimensions.values()):
            point = self.resolve(base, dict(zip(dimensions, combination, strict=True)).__getitem__)
            if (key := point_key(point)) not in seen:
                seen.add(key)
                yield point


def point_key(point: Mapping[str, Any]) -> str:
    """A text that is equal for equal points."""
    return json.dumps(point, sort_keys=True)


def recipe_at(space: Space, base: Recipe, point: Mapping[str, Any], *, seed_offset: int = 0) -> Recipe:
    """The recipe of a point.

    Args:
        seed_offset: added to the recipe's seed, for repeats.

    Raises:
        InputError: the combination is no recipe; a line for each fault.
    """
    values = deepcopy(base.to_dict())
    for name, value in space.fixed.items():
        _put(values, name, value)
    for name, value in space.cases.get(point.get(CASE, ""), {}).items():
        _put(values, name, value)
    for name, value in point.items():
        if name != CASE:
            _put(values, name, value)
    values["seed"] += seed_offset
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise InputError(*fault_lines(error, Recipe, (), stage_names=_stage_names(values))) from None


def objective_stage(space: Space, recipe: Recipe) -> ResolvedStage:
    """The stage of a point's recipe that reports the first objective.

    Raises:
        InputError: the recipe has no such stage.
    """
    stages, name = recipe.resolved_stages(), space.objectives[0].stage
    if name is None:
        return stages[-1]
    for stage in stages:
        if stage.name == name:
            return stage
    raise InputError(f"objective.stage: no stage {name!r}; known: {', '.join(stage.name for stage in stages)}")


def usual_stage(space: Space, base: Recipe) -> ResolvedStage:
    """The stage that reports the first objective, with what the space fixes; else in the first case that has one.

    Raises:
        InputError: neither makes a recipe with such a stage.
    """
    faults = []
    for point in ({}, *({CASE: case} for case in space.cases)):
        try:
            return objective_stage(space, recipe_at(space, base, point))
        except InputError as error:
            faults.append(error)
    raise faults[0]


def known_spaces() -> dict[str, Path]:
    """The shipped spaces, name -> file."""
    return {path.stem: path for path in sorted(TUNE_SPACES.glob("*.yaml"))}


def load_space(name_or_path: str | Path) -> Space:
    """The space of a YAML file, or of a shipped one by name.

    Raises:
        InputError: the space is absent or wrong; one line for each fault, all at once.
    """
    path = _find(name_or_path)
    values = {"name": path.stem, **read_yaml(path)}
    try:
        return Space.model_validate(values)
    except ValidationError as error:
        raise InputError(*(f"{path.name}: {line}" for line in fault_lines(error, Space, ()))) from None


def _find(name_or_path: str | Path) -> Path:
    text, known = str(name_or_path), known_spaces()
    if isinstance(name_or_path, Path) or text.endswith((".yaml", ".yml")) or "/" in text:
        path = Path(text).expanduser()
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "no such file"
            raise InputError(f"{path}: {what}; give a file of a space, or the name of one: {', '.join(known)}")
        return path
    if text not in known:
        raise InputError(f"unknown space {text!r}; {did_you_mean(text, known)}known: {', '.join(known) or 'none'}")
    return known[text]


def check_space(space: Space, base: Recipe) -> None:
    """Hold a space against the recipe that it searches.

    Raises:
        InputError: a field that no recipe has, a value of the wrong type, an objective that no stage reports; a line
            for each fault, all at once.
    """
    faults = [*_field_faults(space), *_value_faults(space, base), *_objective_faults(space, base)]
    if faults:
        raise InputError(*(f"{space.name}: {fault}" for fault in dict.fromkeys(faults)))


def _settings(space: Space) -> Iterator[tuple[str, str, tuple[Any, ...], Mapping[str, Any]]]:
    """(where, field, values, conditions) of all that the space sets."""
    for name, value in space.fixed.items():
        yield "fixed", name, (value,), {}
    for case, settings in space.cases.items():
        for name, value in settings.items():
            yield f"cases.{case}", name, (value,), {}
    for name, parameter in space.parameters.items():
        yield "parameters", name, parameter.extremes(), parameter.when


def _field_faults(space: Space) -> Iterator[str]:
    for where, name, _, _ in _settings(space):
        if name.partition(".")[0] in _OWN_FIELDS:
            yield f"{where}.{name}: trials cannot differ in this; set it in the recipe"
    for name in space.parameters:
        if name in space.fixed:
            yield f"fixed.{name}: is a parameter, too; remove one"


def _value_faults(space: Space, base: Recipe) -> Iterator[str]:
    """What is wrong with single values; combinations are looked at when they are proposed."""
    for where, name, values, when in _settings(space):
        if name.partition(".")[0] in _OWN_FIELDS:
            continue
        said: set[str] = set()
        for value in values:
            plain = base.to_dict()
            try:
                for other, wanted in _before(space, where, name):
                    _put(plain, other, wanted)
                for field, wanted in when.items():
                    _put(plain, field, wanted[0] if isinstance(wanted, list | tuple) else wanted)
                _put(plain, name, value)
                Recipe.model_validate(plain)
            except InputError as error:
                yield f"{where}.{name}: {error}"
            except ValidationError as error:
                lines = fault_lines(error, Recipe, (), stage_names=_stage_names(plain))
                # What else is wrong with this recipe is another setting's fault, or that of their combination.
                own = [line for line in lines if _about(line.partition(": ")[0], name)]
                for message in (line.partition(": ")[2] for line in own):
                    if message not in said:
                        said.add(message)
                        given = "" if message.startswith("unknown key") else f"{json.dumps(value)}: "
                        yield f"{where}.{name}: {given}{message}"


def _before(space: Space, where: str, name: str) -> Iterator[tuple[str, Any]]:
    """What was put into a recipe before a setting is: what is fixed, then the settings of its case; up to itself."""
    case = space.cases.get(where.removeprefix("cases."), {}) if where.startswith("cases.") else {}
    for kind, settings in (("fixed", space.fixed), (where, case)):
        for other, value in settings.items():
            if (kind, other) == (where, name):
                return
            yield other, value


def _stage_names(values: Mapping[str, Any]) -> list[str]:
    """Of the plain values of a recipe, which may be wrong."""
    stages = values.get("stages")
    return [str(_get(stage, "name")) for stage in stages] if isinstance(stages, list) else []


def _known_stages(space: Space, base: Recipe) -> list[str]:
    """The stages that a point's recipe can have: stages may be fixed, and differ from case to case."""
    brought = [values for _, name, values, _ in _settings(space) if name == "stages"]
    names = [name for values in brought for stages in values for name in _stage_names({"stages": stages})]
    own = [] if "stages" in space.fixed else [stage.name for stage in base.stages]
    return list(dict.fromkeys([*own, *names]))


def _about(place: str, name: str) -> bool:
    return place == name or place.startswith(f"{name}.") or name.startswith(f"{place}.")


def _objective_faults(space: Space, base: Recipe) -> Iterator[str]:
    stages = _known_stages(space, base)
    known = (*VALIDATION_METRICS, *COST_METRICS)
    for objective in space.objectives:
        if objective.metric not in known:
            yield (
                f"objective.metric: no stage reports {objective.metric!r}; {did_you_mean(objective.metric, known)}"
                f"known: {', '.join(known)}"
            )
        if objective.stage is not None and objective.stage not in stages:
            yield (
                f"objective.stage: no stage {objective.stage!r}; {did_you_mean(objective.stage, stages)}"
                f"known: {', '.join(stages)}"
            )
    first = space.objectives[0]
    if first.metric in COST_METRICS:
        yield f"objective.metric: {first.metric} alone says nothing of what is learnt; put a validation metric first"


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    if name.endswith(".attention.kind"):
        # Of the options of the kind before, the ones that say something stay; they may be wrong for this one.
        above = name.removesuffix(".kind")
        if (old := _get(values, above)) and old.get("kind", value) != value:
            defaults = attention_config({"kind": old["kind"]}).written_out()
            kept = {option: given for option, given in old.items() if given != defaults.get(option)}
            put_value(values, above.split("."), kept, name)
    put_value(values, name.split("."), deepcopy(value), name)


def _get(values: Any, name: str) -> Any:
    """The value of a dotted field; None where a part of it is absent."""
    for part in name.split("."):
        if isinstance(values, list):
            values = next((item for item in values if isinstance(item, dict) and item.get("name") == part), None)
        elif isinstance(values, dict):
            values = values.get(part)
        else:
            return None
    return values


def _holds(value: Any, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, list | tuple) else bool(value == wanted)
