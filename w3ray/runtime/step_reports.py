"""Tells what training steps did: the driver now and then, and callbacks after each step."""

import math
import time
from dataclasses import dataclass

import torch

from w3ray.data.schedule import Schedule
from w3ray.errors import RunError
from w3ray.events import StepDone
from w3ray.models._common import VideoModel
from w3ray.runtime.callbacks import Callbacks
from w3ray.runtime.event_channel import Sender
from w3ray.runtime.item_reader import ItemReader
from w3ray.runtime.ranks import Ranks
from w3ray.runtime.stage_spec import StageSpec
from w3ray.training.callbacks import AfterStep
from w3ray.training.step import StepResult


@dataclass(slots=True)
class _Since:
    """The state at the last reported step, and the number of clips that all workers have trained on since."""

    started_s: float
    train_wait_s: float
    clips: int = 0


class StepReports:
    """The reports of one rank on its steps. All ranks must call `report` together.

    Args:
        stage, schedule: the stage, and its steps.
        ranks: share the sums of the losses.
        reader: knows how long this rank waited for its clips.
        events: gets the reports of the first rank.
        callbacks: of the stage.
    """

    def __init__(
        self,
        stage: StageSpec,
        schedule: Schedule,
        *,
        ranks: Ranks,
        reader: ItemReader,
        events: Sender,
        callbacks: Callbacks,
    ) -> None:
        self._stage, self._schedule, self._ranks, self._reader = stage, schedule, ranks, reader
        self._events, self._callbacks = events, callbacks
        self.restart_clock()

    def restart_clock(self) -> None:
        """What the worker did until now is no part of a step."""
        self._since = _Since(time.perf_counter(), self._reader.train_wait_s)

    def report(self, step: int, result: StepResult, *, lr: float, clips: float, saves: bool, model: VideoModel) -> None:
        """Report step `step`, counted from 0, if a report is due or a callback wants each step.

        Args:
            result: of this rank.
            lr: the step's learning rate.
            clips: valid clips of all ranks.
            saves: whether a checkpoint follows. Then a report is due, because a step that diverged must not reach it.
            model: the network.

        Raises:
            RunError: a loss is not finite.
            CallbackFailed: see `Callbacks.after_step`.
        """
        self._since.clips += int(clips)
        done, train = step + 1, self._stage.train
        due = saves or done % train.log_every_steps == 0 or done % self._schedule.steps_per_epoch == 0
        if not due and not self._callbacks.watch_steps:
            return
        losses, accuracy = self._means(step, result, clips)
        if due:
            before = self._since
            self.restart_clock()
            if self._ranks.rank == 0:
                self._tell(step, before, losses, accuracy, result, lr)
        if self._callbacks.watch_steps and self._ranks.rank == 0:
            self._callbacks.after_step(
                AfterStep(
                    stage=self._stage.name,
                    step=done,
                    total_steps=self._schedule.total_steps,
                    epoch=step // self._schedule.steps_per_epoch,
                    losses=losses,
                    lr=lr,
                    accuracy=accuracy,
                    grad_norm=float(result.grad_norm),
                    clips=int(clips),
                    world_size=self._ranks.world_size,
                    model=model,
                )
            )

    def _means(self, step: int, result: StepResult, clips: float) -> tuple[dict[str, float], float]:
        """The losses and the accuracy of a step, means over the valid clips of all ranks."""
        names = list(result.loss_sums)
        totals = torch.stack([*(result.loss_sums[name].double() for name in names), result.correct.double()])
        self._ranks.all_reduce(totals)
        means = (totals / max(clips, 1.0)).tolist()
        losses = dict(zip(names, means[:-1], strict=True))
        if not all(math.isfinite(value) for value in losses.values()):
            raise RunError(
                f"stage {self._stage.name}: the loss is not finite at step {step + 1} ({losses}); "
                "lower train.lr or set train.precision=fp32"
            )
        return losses, means[-1]

    def _tell(
        self, step: int, before: _Since, losses: dict[str, float], accuracy: float, result: StepResult, lr: float
    ) -> None:
        seconds = self._since.started_s - before.started_s
        self._events.send(
            StepDone(
                stage=self._stage.name,
                step=step + 1,
                epoch=step // self._schedule.steps_per_epoch,
                losses=dict(losses),
                lr=lr,
                clips_per_s=before.clips / seconds,
                data_wait_s=self._since.train_wait_s - before.train_wait_s,
                step_s=seconds,
                valid_clips=before.clips,
                accuracy=accuracy,
                grad_norm=float(result.grad_norm),
                time_s=time.time(),
            )
        )
