"""How is the rest of a stage trained, and who receives its events?"""

from collections.abc import Callable

from w3ray.cluster.connection import Connection
from w3ray.events import Event, Moment, Restarted, StageState, StepDone, Warned
from w3ray.pipeline.ahead import Ahead, nearly_done
from w3ray.pipeline.drawing import Drawing
from w3ray.pipeline.planned import PlannedStage
from w3ray.pipeline.recorder import Clock, StageRecorder
from w3ray.pipeline.results import StageResult
from w3ray.pipeline.run_record import RunRecord
from w3ray.pipeline.stage_processes import OnEvent, RunningStage, StageStarter, follow
from w3ray.storage import Lock
from w3ray.tracking import StageRun


class StageTrainer:
    """Trains the stages of a run that are not finished, one after the other.

    Args:
        starter: starts the stages' processes.
        record: the run's record in MLflow.
        connection: to the cluster.
        drawing: draws the run's generated clips; None: nothing has to be drawn.
        clock: of the run.
        on_event: called with each event.
    """

    def __init__(
        self,
        starter: StageStarter,
        record: RunRecord,
        connection: Connection,
        drawing: Drawing | None,
        clock: Clock,
        on_event: OnEvent,
    ) -> None:
        self._starter, self._record, self._connection = starter, record, connection
        self._drawing, self._clock, self._tell = drawing, clock, on_event
        self.ahead = Ahead(starter.start)

    def train(
        self,
        item: PlannedStage,
        state: StageState,
        lock: Lock,
        *,
        started: RunningStage | None,
        teacher: StageResult | None,
    ) -> None:
        """Train what is left of a stage, then write its model, its report and, last, its result.

        Args:
            lock: of the stage; it is held.
            started: the stage's processes if they were started ahead of its turn; else None.
            teacher: the result of the stage's teacher; None: no teacher.
        """
        with self._record.stage(item, state, self._starter.plan) as run:
            outcome = follow(
                item,
                lambda planned: self._starter.start(planned, lock),
                started=started,
                on_event=self._hear(item, self._recorder(item, run)),
                watch=lambda: self._watch(lock),
                on_lost=self._processes_lost,
            )
            self._tell(Moment(what="the processes ended", stage=item.stage.name))
            from w3ray.pipeline.complete import complete_stage  # the connection imports it while the stage trains

            lock.check()
            result = complete_stage(item, self._starter.data, outcome)
            lock.check()
            item.store.finish({**result, "tracking_run": run.wait_run_id(), "logged_model": None})
            self._record.log_stage(run, item, result, teacher)
            self._tell(Moment(what="model, report and result were written", stage=item.stage.name))

    def _recorder(self, item: PlannedStage, run: StageRun) -> StageRecorder:
        multi_label = self._starter.data.heads.multi_label
        return StageRecorder(item.store, run, self._clock, self._tell, multi_label=multi_label)

    def _hear(self, item: PlannedStage, recorder: Callable[[Event], None]) -> OnEvent:
        later = list(self._starter.planned.values())[item.stage.index + 1 :][:1]
        following = [one for one in later if isinstance(one, PlannedStage)]  # a bank waits for its model

        def hear(event: Event) -> None:
            if isinstance(event, StepDone):
                self._connection.training()
                self._record.begin()
            if isinstance(event, Restarted):
                self.ahead.abandon()  # the next stage holds the resources that this stage needs for its restart
            recorder(event)
            if isinstance(event, StepDone) and not self._starter.in_process and nearly_done(event, item):
                for following_item in following:
                    self.ahead.begin(following_item)

        return hear

    def _watch(self, lock: Lock) -> None:
        lock.check()
        self.ahead.check()
        self._record.check()
        if self._drawing is not None:
            self._drawing.check()

    def _processes_lost(self, message: str) -> None:
        self.ahead.abandon()
        self._tell(Warned(message=message))
