"""What does a run return?"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from w3ray.attention.health import StageHealth, faults, read_health
from w3ray.events import Overhead, RunSummary, StageState, StageSummary
from w3ray.pipeline.planned import PlannedBank, PlannedStage


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """A stage's result. `metrics` are of the evaluation split, `validation` are metrics of the best checkpoint.

    A stage of kind bank has no metrics, and "" as checkpoint and model; `bank` is its folder.

    `attention` holds measurements of the model's gates in that evaluation. It is empty without attention, and for
    stages that finished before gates were measured. `attention_faults` says what is wrong with the gates.
    """

    name: str
    state: StageState
    why: str
    identity: str
    metrics: Mapping[str, float]
    validation: Mapping[str, float]
    checkpoint: str
    model: str
    tracking_run: str | None
    logged_model: str | None
    seconds: float
    attention: tuple[StageHealth, ...] = ()
    attention_faults: tuple[str, ...] = ()
    bank: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What `run` returns; `document()` is the same as JSON values."""

    recipe: str
    stages: tuple[StageResult, ...]
    model: Mapping[str, Any]
    tracking: Mapping[str, Any]
    overhead: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        return asdict(self)

    def summary(self, metric: str) -> RunSummary:
        """What the table at the end of a run shows.

        Args:
            metric: the metric that stages are compared by.
        """
        stages = tuple(
            StageSummary(
                name=stage.name,
                state=stage.state,
                metrics=dict(stage.metrics),
                seconds=stage.seconds,
                attention=stage.attention,
            )
            for stage in self.stages
        )
        model = self.model
        return RunSummary(
            recipe=self.recipe,
            stages=stages,
            metric=metric,
            model=f"{model['name']} version {model['version']}" if model["version"] else None,
            folder=str(model["folder"]),
            mlflow_command=self.tracking["command"] or self.tracking["uri"],
            overhead=Overhead(**self.overhead) if self.overhead else None,
        )


def finished_stage(item: PlannedStage, state: StageState, why: str, seconds: float) -> StageResult:
    """The result of a stage that was run or reused, read from its folder."""
    stored = item.store.result()
    assert stored is not None, "a stage that was run or reused has a result"
    attention = read_health(item.store.model)
    return StageResult(
        name=item.stage.name,
        state=state,
        why=why,
        identity=item.identity,
        metrics=stored["metrics"],
        validation=stored["validation"],
        checkpoint=stored["checkpoint"],
        model=str(item.store.model),
        tracking_run=stored["tracking_run"],
        logged_model=stored["logged_model"],
        seconds=seconds,
        attention=attention,
        attention_faults=tuple(faults(attention)),
    )


def finished_bank(item: PlannedBank, state: StageState, why: str, seconds: float) -> StageResult:
    """The result of a stage of kind bank that was made or reused, read from its folder."""
    stored = item.store.result()
    assert stored is not None, "a stage that was run or reused has a result"
    return StageResult(
        name=item.stage.name, state=state, why=why, identity=item.identity, metrics={}, validation={}, checkpoint="",
        model="", tracking_run=stored["tracking_run"], logged_model=None, seconds=seconds,
        bank=str(item.store.directory),
    )  # fmt: skip
