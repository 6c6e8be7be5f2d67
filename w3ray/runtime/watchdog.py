"""Decides whether a stage makes progress, and if not, which process waits for what.

The driver gets steps, validations and each worker's heartbeat as events. If there is no progress for long, it reports
who waits for what. If that lasts, it ends the stage's processes. The decision depends only on events and times: nothing
is started here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from w3ray.cluster.plan import ResourcePlan, show_resources
from w3ray.errors import RunError
from w3ray.events import CheckpointSaved, StepDone, Validated, ValidationProgress, WorkerAlive
from w3ray.runtime.faults import StageLost
from w3ray.runtime.heartbeat import BEAT_S

_TELL_AFTER_S = 60.0
"""Seconds without progress after which the user is told what the stage waits for."""
_UNHEARD_S = 4 * BEAT_S
"""Seconds without a heartbeat after which a worker is assumed to hang."""

_PROGRESS = (StepDone, Validated, ValidationProgress, CheckpointSaved)


@dataclass(slots=True)
class _Worker:
    heard_at: float
    alive: WorkerAlive


class Watchdog:
    """Watches one start of a stage's processes.

    Args:
        stage: its name.
        plan: what its processes request from the cluster.
        timeout_s: seconds without progress after which the stage is given up.
        now: the time by a monotonic clock, like all times here.
        free: the free resources of the cluster, by Ray's names.
    """

    def __init__(
        self, stage: str, plan: ResourcePlan, *, timeout_s: float, now: float, free: Callable[[], Mapping[str, float]]
    ) -> None:
        self._stage, self._plan, self._timeout_s, self._free = stage, plan, timeout_s, free
        self._moved_at = self._told_at = now
        self._workers: dict[int, _Worker] = {}

    def hear(self, event: Any, now: float) -> None:
        """Record an event of the stage."""
        if isinstance(event, WorkerAlive):
            before = self._workers.get(event.rank)
            self._workers = {rank: one for rank, one in self._workers.items() if rank < event.world_size}
            self._workers[event.rank] = _Worker(now, event)
            if before is None or event.items != before.alive.items:
                self._moved_at = now
        elif isinstance(event, _PROGRESS):
            self._moved_at = now

    def check(self, now: float) -> str | None:
        """The message for the user now, if there is one.

        Raises:
            StageLost: no progress for too long, and a restart of the stage's processes may help.
            RunError: the workers did not start, because the cluster lacks the resources.
        """
        still_s = now - self._moved_at
        if still_s >= self._timeout_s:
            message = (
                f"stage {self._stage}: no progress for {still_s:.0f} s (resources.stall_timeout_s): {self._why(now)}"
            )
            raise StageLost(message) if self._workers else RunError(message)
        if still_s >= _TELL_AFTER_S and now - self._told_at >= _TELL_AFTER_S:
            self._told_at = now
            return f"stage {self._stage}: no progress for {still_s:.0f} s: {self._why(now)}"
        return None

    def _why(self, now: float) -> str:
        if not self._workers:
            bundle = show_resources(self._plan.worker_bundle())
            return (
                f"its workers wait for {self._plan.least_workers} x ({bundle}), and the cluster "
                f"has {self._free_text()} free; add nodes, or lower resources.workers"
            )
        unheard = [
            f"worker {rank} has sent no heartbeat for {now - one.heard_at:.0f} s (it {one.alive.doing})"
            for rank, one in sorted(self._workers.items())
            if now - one.heard_at >= _UNHEARD_S
        ]
        if unheard:
            return "; ".join(unheard) + ": it hangs, or its node is gone"
        doing = "; ".join(
            f"worker {rank} {one.alive.doing} (for {one.alive.doing_s + now - one.heard_at:.0f} s)"
            for rank, one in sorted(self._workers.items())
        )
        return (
            f"{doing}; decoders need {self._plan.decoders} x ({show_resources(self._plan.decoder_bundle())}), and the "
            f"cluster has {self._free_text()} free"
        )

    def _free_text(self) -> str:
        return show_resources(self._free()) or "nothing"
