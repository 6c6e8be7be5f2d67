"""How is a stage of kind bank made, and who hears of it?"""

import time

from w3ray.data.bank import videos_of
from w3ray.events import BankProgress, StageState, Warned
from w3ray.pipeline.drawing import Drawing
from w3ray.pipeline.planned import PlannedBank
from w3ray.pipeline.run_record import RunRecord
from w3ray.pipeline.stage_processes import OnEvent, StageStarter
from w3ray.plugins import shipment
from w3ray.storage import Lock

_TELL_EVERY_S = 1.0


class BankMaker:
    """Makes the banks of a run that are not finished.

    Args:
        starter: what all stages of the run have in common.
        record: the run's record in MLflow.
        drawing: draws the run's generated clips; None: nothing has to be drawn.
        on_event: called with each event.
    """

    def __init__(self, starter: StageStarter, record: RunRecord, drawing: Drawing | None, on_event: OnEvent) -> None:
        self._starter, self._record, self._drawing, self._tell = starter, record, drawing, on_event

    def make(self, item: PlannedBank, state: StageState, lock: Lock) -> None:
        """Compute the features that are left, then write the stage's result.

        Args:
            lock: of the stage; it is held.
        """
        from w3ray.scoring.make_bank import BankOrder, make_bank
        from w3ray.scoring.model_files import model_files

        recipe, data = self._starter.recipe, self._starter.data
        if self._drawing is not None:
            self._drawing.wait()
        with self._record.stage(item, state, self._starter.plan) as run:
            order = BankOrder(
                folder=item.store.directory,
                identity=item.identity,
                files=model_files(item.of.store.model),
                about=item.about(),
                videos=videos_of(data.splits.values(), data.location),
                manifest=data.fingerprint,
                roots=recipe.data.roots,
                cache=recipe.data.video_cache(),
                clip_timeout_s=recipe.resources.clip_timeout_s,
                plugins=shipment(recipe.plugins, item.sources),
                max_failed_share=recipe.data.max_failed_share,
                here=self._starter.in_process,
            )
            progress = _Progress(item.stage.name, lock, self._record, self._tell)
            bank = make_bank(order, self._starter.plan, on_progress=progress, on_failure=self._failed)
            lock.check()
            features = sum(bank.moments.values())
            item.store.finish({"features": features, "videos": len(bank.moments), "tracking_run": run.wait_run_id()})
            run.log_metrics({"bank/features": features, "bank/videos": len(bank.moments)}, 0)
            self._record.log_ledger(run, item)

    def _failed(self, video: str, reason: str) -> None:
        self._tell(Warned(message=f"{video} has no features, or not at all moments: {reason}"))


class _Progress:
    """Passes on the progress, about once a second, and stops if another run may work on the stage."""

    def __init__(self, stage: str, lock: Lock, record: RunRecord, on_event: OnEvent) -> None:
        self._stage, self._lock, self._record, self._tell = stage, lock, record, on_event
        self._told_s = 0.0

    def __call__(self, done: int, total: int) -> None:
        self._lock.check()
        self._record.check()
        if done < total and time.monotonic() - self._told_s < _TELL_EVERY_S:
            return
        self._told_s = time.monotonic()
        self._tell(BankProgress(stage=self._stage, features=done, total_features=total))
