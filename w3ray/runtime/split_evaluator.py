"""Scores a network on a whole split with all workers of a stage, every row once."""

import time
from typing import Literal

import torch
from torch import Tensor

from w3ray.attention.health import StageHealth
from w3ray.attention.meter import GateMeter
from w3ray.data.microbatch import ClipFailure
from w3ray.data.schedule import Schedule
from w3ray.errors import RunError
from w3ray.evaluation.counting import SplitCounts, counts_for
from w3ray.events import ValidationProgress
from w3ray.models._common import VideoModel
from w3ray.models.side_inputs import chosen
from w3ray.runtime.event_channel import Sender
from w3ray.runtime.failed_clips import FailedClips
from w3ray.runtime.item_reader import ItemReader
from w3ray.runtime.ranks import Ranks
from w3ray.runtime.stage_spec import StageSpec
from w3ray.training.step import TrainingStep
from w3ray.training.transfer import Transfer

_PROGRESS_EVERY_S = 1.0
"""Minimum seconds between two events about the progress of a validation."""


class SplitEvaluator:
    """Reads a split from the stream and scores it. All ranks must call `evaluate` together.

    Args:
        stage, schedule: the stage, and the number of items that each rank reads.
        step: prepares clips and computes in the precision of training.
        reader: delivers the items of this rank.
        ranks, failed, events: share the counts, record the clips that failed, and receive the progress.
        device: the device of the network.
        transfer: sends clips there.
    """

    def __init__(
        self,
        stage: StageSpec,
        schedule: Schedule,
        *,
        step: TrainingStep,
        reader: ItemReader,
        ranks: Ranks,
        failed: FailedClips,
        events: Sender,
        device: torch.device,
        transfer: Transfer,
    ) -> None:
        self._stage, self._schedule, self._step, self._reader = stage, schedule, step, reader
        self._ranks, self._failed, self._events, self._device = ranks, failed, events, device
        self._transfer = transfer

    @torch.no_grad()
    def evaluate(
        self, model: VideoModel, kind: Literal["val", "test"], grad_norms: dict[int, float]
    ) -> tuple[SplitCounts, tuple[StageHealth, ...]]:
        """Exact counts over all workers, every valid row of the split once; and the health of the gates.

        Args:
            model: put into eval mode, and left in it.
            kind: the split.
            grad_norms: of the attention in each stage of the network, for the report on the gates.

        Raises:
            RunError: no clip of the split can be read, or too many clips of the stage cannot.
        """
        model.eval()
        counts, meter = counts_for(self._stage.heads, self._device), GateMeter(model)
        failures: list[ClipFailure] = []
        told_s = time.monotonic()
        for rounds_done in range(1, self._schedule.rounds(kind) + 1):
            microbatch = self._reader.read(kind)
            failures.extend(microbatch.failures)
            valid = torch.as_tensor(microbatch.valid)
            clips, *sent = self._transfer(
                [torch.as_tensor(one) for one in (microbatch.clips, *microbatch.extras.values())]
            )
            extras = dict(zip(microbatch.extras, sent, strict=True))
            with self._step.autocast(), meter.watching(valid):
                x_BTCHW = self._step.prepare(clips)
                logits_BK: Tensor = model(x_BTCHW, **chosen(model, extras, self._device)).logits_BK
            counts.update(logits_BK.float(), torch.as_tensor(microbatch.labels), valid)
            if self._ranks.rank == 0 and time.monotonic() - told_s >= _PROGRESS_EVERY_S:
                told_s = time.monotonic()
                self._tell_progress(kind, rounds_done)
        counts.all_reduce()
        self._failed.share(failures, leaving=False)
        if counts.rows == 0:
            raise RunError(f"stage {self._stage.name}: no clip of the {kind} split can be read")
        sums = meter.sums()
        self._ranks.all_reduce(sums)
        return counts, meter.stages(sums, grad_norms)

    def _tell_progress(self, kind: Literal["val", "test"], rounds_done: int) -> None:
        schedule = self._schedule
        total_clips = schedule.num_val if kind == "val" else schedule.num_test
        # By rounds, because reading the counts would wait for the device.
        clips = min(total_clips, rounds_done * schedule.microbatch_size * self._ranks.world_size)
        self._events.send(ValidationProgress(stage=self._stage.name, split=kind, clips=clips, total_clips=total_clips))
