"""How do a stage's processes start, and who waits for them until the stage ends?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from w3ray.cluster.plan import ResourcePlan
from w3ray.data.bank import Bank, read_bank, video_name
from w3ray.events import Event, StageStopped
from w3ray.pipeline.planned import Planned, PlannedStage, PreparedData
from w3ray.pipeline.sweep_part import SweepPart
from w3ray.plugins import shipment
from w3ray.recipe import Recipe
from w3ray.runtime.explained import ExplainedClip
from w3ray.storage import Lease, Lock

if TYPE_CHECKING:
    from w3ray.runtime.stage_spec import StageSpec

OnEvent = Callable[[Event], None]


class RunningStage(Protocol):
    """A stage whose processes were started. `w3ray.runtime` has one kind for a cluster, and one for this process."""

    def outcome(self, on_event: OnEvent, watch: Callable[[], None] = ...) -> dict[str, Any]:
        """Wait until the stage ends, and pass on its events. `watch` is called about twice a second."""

    def end(self) -> None:
        """End the stage's processes, and wait until they are gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarter:
    """Starts the stages of a run. Holds what all stages have in common."""

    recipe: Recipe
    data: PreparedData
    planned: Mapping[str, Planned]
    """All stages by name, in their order."""
    plan: ResourcePlan
    part: SweepPart | None
    own_cluster: bool
    """Whether the cluster was started for this run and ends with it."""

    def start(self, item: PlannedStage, lock: Lock) -> RunningStage:
        """Start a stage whose lock is held."""
        bank = None if item.bank is None else read_bank(str(item.bank.store.directory))
        spec, splits = self._spec(item, lock, bank), self._splits(bank)
        if self.in_process:
            from w3ray.runtime.in_process_stage import InProcessStage

            return InProcessStage(spec, splits)
        from w3ray.runtime.cluster_stage import ClusterStage

        return ClusterStage(spec, splits, own_cluster=self.own_cluster)

    @property
    def in_process(self) -> bool:
        """Whether stages train in this process, one at a time."""
        return self.part is not None and self.part.in_process

    def _splits(self, bank: Bank | None) -> Mapping[str, pa.Table]:
        """The rows of the splits, with the files of the bank."""
        data = self.data
        if bank is None:
            return data.splits
        where = data.location
        return {
            kind: bank.joined(rows, where, location=where, fingerprint=data.fingerprint)
            for kind, rows in data.splits.items()
        }

    def _explained(self, bank: Bank | None) -> tuple[ExplainedClip, ...]:
        if bank is None:
            return self.data.explained
        return tuple(
            replace(clip, bank=bank.file_of(video_name(clip.uri, self.data.location))) for clip in self.data.explained
        )

    def _spec(self, item: PlannedStage, lock: Lock, bank: Bank | None) -> "StageSpec":
        from w3ray.data.stream_spec import StreamSpec
        from w3ray.runtime.stage_spec import StageSpec

        recipe, data, stage = self.recipe, self.data, item.stage
        return StageSpec(
            name=stage.name,
            directory=item.store.directory,
            seed=item.seed,
            model=item.model_arguments(data),
            teacher=None if item.teacher is None else self.planned[item.teacher].store.model,
            loss_weights=dict(stage.loss_weights),
            train=stage.train,
            stream=StreamSpec(
                schedule=item.schedule,
                clip=item.clip(data),
                flip_map=data.flip_map,
                roots=recipe.data.roots,
                clips_ready=None if data.to_generate is None else data.to_generate / "manifest.parquet",
                cache=recipe.data.video_cache(),
                shared=None if self.part is None else self.part.shared,
                clip_timeout_s=recipe.resources.clip_timeout_s,
                plugins=shipment(recipe.plugins, item.sources),
            ),
            heads=data.heads,
            class_counts=data.class_counts(),
            plan=self.plan,
            num_clips=data.num_clips,
            max_failed_share=recipe.data.max_failed_share,
            lease=lock.intent if isinstance(lock, Lease) else None,
            stall_timeout_s=recipe.resources.stall_timeout_s,
            resize_every_s=recipe.resources.resize_every_s,
            explained=self._explained(bank),
            explain_every_epochs=recipe.tracking.explain_every_epochs,
        )


def follow(
    item: PlannedStage,
    start: Callable[[PlannedStage], RunningStage],
    *,
    started: RunningStage | None,
    on_event: OnEvent,
    watch: Callable[[], None],
    on_lost: Callable[[str], None],
) -> dict[str, Any]:
    """Wait until a stage ends, and restart its processes if they are lost.

    Args:
        start: starts the processes of the stage, or of the stage with fewer epochs if its training stopped early.
        started: processes that were started ahead of the stage's turn; None: there are none. If they waited too long
            for the teacher, they are started again.
        on_lost: called with a line before lost processes are started again.

    Raises:
        StageLost: the processes are lost again and again, without a new checkpoint.
        InputError, RunError: the stage failed; the message says why.
    """
    from w3ray.runtime.faults import RestartBudget, StageLost, StoppedEarly, TeacherMissing

    budget = RestartBudget(item.status.step)
    while True:
        running = started or start(item)
        try:
            return running.outcome(on_event, watch)
        except StoppedEarly as stopped:
            on_event(StageStopped(stage=item.stage.name, epochs=stopped.epochs, why=str(stopped)))
            item = replace(item, schedule=replace(item.schedule, epochs=stopped.epochs))
        except TeacherMissing:
            if started is None:
                raise
        except StageLost as error:
            step = item.store.status(item.determinants).step
            if not budget.spend(step):
                raise
            on_lost(f"{error}; restarting its processes from step {step}")
        started = None
