"""What does one training worker do, from the first microbatch of its stage to the last?

It follows the schedule: reads its items from the stream in order (and asserts that each one is the item due), trains,
validates, saves checkpoints, and at the end scores the best checkpoint on the test split. Which numbers come out
depends on the schedule and the seed alone, never on timing.
"""

import math
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from w3ray import ray_internals
from w3ray.attention.health import StageHealth, document
from w3ray.attention.meter import GateMeter
from w3ray.data.microbatch import ClipFailure, Microbatch
from w3ray.data.sample_log import SampleLog
from w3ray.data.schedule import Kind
from w3ray.errors import InputError, RunError
from w3ray.evaluation.head_counts import HeadCounts
from w3ray.events import AttentionHealth, ClipsFailed, StepDone, Validated, ValidationProgress, Warned
from w3ray.models import build_model
from w3ray.models._common import VideoModel
from w3ray.models.bundle import DESCRIPTION_NAME, load_model
from w3ray.recipe import Train
from w3ray.runtime.checkpoint_keeper import CheckpointKeeper, LocalCheckpointKeeper, best_first
from w3ray.runtime.event_channel import Sender
from w3ray.runtime.explained import ClipPictures
from w3ray.runtime.faults import Preempted, TeacherMissing
from w3ray.runtime.heartbeat import Heartbeat
from w3ray.runtime.stage_spec import StageSpec
from w3ray.storage import StorageFailing, StoragePath, StorageRefused, fetched
from w3ray.training.batch_norm import apply_batch_norm_mode, average_buffers
from w3ray.training.checkpoint import load_checkpoint, save_checkpoint
from w3ray.training.checkpoint_files import by_step, first_whole
from w3ray.training.lr_schedule import lr_factor
from w3ray.training.optimizer import build_optimizer, parameter_groups, scaled_lr, set_phase
from w3ray.training.randomness import microbatch_seed
from w3ray.training.step import TrainingStep

_PROGRESS_EVERY_S = 1.0
"""Least seconds between two events about the progress of a validation."""

_TEACHER_TIMEOUT_S = 60.0
_TEACHER_POLL_S = 0.2


def run_worker(stage: StageSpec, events: Sender, stream: Iterator[Microbatch]) -> dict[str, Any]:
    """What Ray Train runs on each worker; `stream` is its part of the stage's stream.

    Returns: {"outcome": ...}, or {"fault": {"kind", "message"}} for what another try would meet again (bad input, too
    many unreadable videos): raised, it would make Ray Train start the workers anew for nothing.
    """
    # Blocks of the stream are read-only shared memory, and nothing here writes to its input.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    try:
        return {"outcome": StageWorker(stage, events, stream).run()}
    except TeacherMissing as error:
        return {"fault": {"kind": "teacher", "message": str(error)}}
    except (StorageFailing, StorageRefused):
        raise  # met by one worker alone: returned, it would leave the others waiting for this one
    except (InputError, RunError) as error:
        return {"fault": {"kind": "input" if isinstance(error, InputError) else "run", "message": str(error)}}
    finally:
        events.flush()


@dataclass(slots=True)
class _StepTimes:
    """Seconds since the last reported step; the clips they went for, over all workers."""

    started: float
    clips: int = 0
    data_wait_s: float = 0.0


class StageWorker:
    """One rank of one stage. See the module's text."""

    def __init__(self, stage: StageSpec, events: Sender, stream: Iterator[Microbatch]) -> None:
        utils = ray_internals.get_train_fn_utils()
        self.is_local, context = not utils.is_distributed(), utils.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        torch.set_num_threads(stage.plan.trainer_threads)
        self.stage, self.events, self.stream = stage, events, stream
        self.heartbeat = Heartbeat(events.twin(), stage=stage.name, rank=self.rank, world_size=self.world_size)
        # In local mode Ray Train takes any GPU it sees.
        self.device = torch.device("cpu") if self.is_local else ray.train.torch.get_device()
        self.schedule = stage.stream.schedule.for_world_size(self.world_size)
        self.model = self._build_model()
        self.base_lr = self._base_lr(stage.train)
        self.optimizer = self._build_optimizer()
        teacher = None if stage.teacher is None else self._load_teacher(stage.teacher)
        self.step = TrainingStep(
            self._distribute(self.model),
            optimizer=self.optimizer,
            loss_weights=stage.loss_weights,
            teacher=teacher,
            precision=stage.train.precision,
            clip_grad_norm=stage.train.clip_grad_norm,
            label_smoothing=stage.train.label_smoothing,
            heads=stage.heads,
            mean=self.model.pixels.mean,
            std=self.model.pixels.std,
        )
        keeper = LocalCheckpointKeeper if self.is_local else CheckpointKeeper
        self.keeper = keeper(stage, self.rank, events.twin(), self.heartbeat)
        self.metrics: dict[str, float] = {}
        self.attention_norms: dict[int, float] = {}
        self.failed: set[tuple[str, str]] = set()
        self.steps_done = self._resume()
        self.times = _StepTimes(time.perf_counter())
        self.next_number = 0
        self.samples = SampleLog(stage.directory, self.rank)
        self.pictures = self._pictures() if self.rank == 0 and stage.explained else None

    # Building.

    def _build_model(self) -> VideoModel:
        torch.manual_seed(microbatch_seed(self.stage.seed, "init"))
        model = build_model(**self.stage.model).to(self.device)
        apply_batch_norm_mode(model, self.stage.train.batch_norm)
        return model

    def _base_lr(self, train: Train) -> float:
        return scaled_lr(train.lr, batch_size=train.batch_size, lr_batch_size=train.lr_batch_size)

    def _begin_phase(self, epoch: int) -> None:
        train = self.stage.train.at_epoch(epoch)
        self.base_lr = self._base_lr(train)
        set_phase(self.optimizer, weight_decay=train.weight_decay, momentum=train.momentum)

    def _build_optimizer(self) -> torch.optim.Optimizer:
        train = self.stage.train
        groups = parameter_groups(
            self.model,
            lr=self.base_lr,
            weight_decay=train.weight_decay,
            classifier_weight_multiplier=train.classifier_weight_multiplier,
            classifier_bias_multiplier=train.classifier_bias_multiplier,
            bias_multiplier=train.bias_multiplier,
            attention_multiplier=train.attention_lr_multiplier,
        )
        return build_optimizer(train.optimizer, groups, momentum=train.momentum)

    def _distribute(self, model: nn.Module) -> nn.Module:
        if self.world_size == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        # Buffers are averaged after each step instead: rank 0's running statistics alone forget the other ranks' clips.
        return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True)

    def _pictures(self) -> ClipPictures:
        stage = self.stage
        return ClipPictures(
            stage.explained,
            spec=stage.stream.clip,
            stage=stage.name,
            heads=stage.heads,
            roots=stage.stream.roots,
            decode_timeout_s=stage.stream.clip_timeout_s,
            events=self.events,
        )

    def _load_teacher(self, folder: StoragePath) -> nn.Module:
        """The teacher's model; it may still be on its way, where this stage was started ahead of its turn.

        Not for long: the teacher may have lost its workers, and be waiting for the very resources that these hold.
        All ranks go on or give up together.

        Raises:
            TeacherMissing: it did not come in time, or nobody wants this stage any more.
        """
        self.heartbeat.doing("waits for its teacher's model")
        given_up_at = time.monotonic() + _TEACHER_TIMEOUT_S
        whole = folder / DESCRIPTION_NAME  # on object storage it is what is written last
        while (
            self.rank == 0 and not whole.is_file() and time.monotonic() < given_up_at and self.events.driver_listens()
        ):
            time.sleep(_TEACHER_POLL_S)
        there = torch.tensor([whole.is_file()], dtype=torch.int64)
        if self.world_size > 1:
            dist.broadcast(there, src=0)
        if not int(there):
            raise TeacherMissing(
                f"stage {self.stage.name}: its teacher's model {folder} was not there within {_TEACHER_TIMEOUT_S:g} s"
            )
        with fetched(folder) as local:
            return load_model(local)[0].to(self.device)

    def _resume(self) -> int:
        """Take up the newest good checkpoint; a damaged one is named and passed over."""
        with first_whole(by_step(self.stage.checkpoints), self._warn_damaged) as newest:
            if newest is None:
                return 0
            meta = load_checkpoint(newest[1], model=self.model, optimizer=self.optimizer, step_state=self.step)
        self.metrics = dict(meta["metrics"] or {})
        self.failed = {(split, clip_id) for split, clip_id in meta["failed"]}
        return int(meta["step"])

    def _warn_damaged(self, path: StoragePath, reason: str) -> None:
        if self.rank == 0:
            message = f"{path.name} is damaged, going on from the checkpoint before it: {reason}"
            self.events.send(Warned(message=message))

    # The stage.

    def run(self) -> dict[str, Any]:
        """Everything that is left of the stage; returns its outcome.

        Raises:
            Preempted: a worker's node is about to be taken away; a checkpoint was saved.
        """
        self.next_number = self.rank + self.schedule.first_item(self.steps_done)
        for step in range(self.steps_done, self.schedule.total_steps):
            if step == self.steps_done or step % self.schedule.steps_per_epoch == 0:
                self._begin_phase(step // self.schedule.steps_per_epoch)
            leaving = self._train_step(step)
            epoch, in_epoch = divmod(step + 1, self.schedule.steps_per_epoch)
            if in_epoch == 0:
                self._finish_epoch(epoch - 1, save=leaving)
            elif leaving or self._checkpoint_due(step + 1):
                self._save(step + 1, metrics=None)
            if leaving:
                self.keeper.wait()
                raise Preempted(f"rank {self.rank}: the state after step {step + 1} is saved")
        return self._finish()

    def _checkpoint_due(self, steps_done: int) -> bool:
        every = self.stage.train.checkpoint_every_steps
        return every is not None and steps_done % every == 0

    def _read(self, kind: Kind) -> Microbatch:
        started = time.perf_counter()
        self.heartbeat.doing(f"waits for item {self.next_number} of the stream")
        microbatch = next(self.stream, None)
        self.heartbeat.doing(f"computes item {self.next_number} ({kind})")
        self.heartbeat.item_read()
        if microbatch is None or (microbatch.number, microbatch.kind) != (self.next_number, kind):
            found = "its end" if microbatch is None else f"item {microbatch.number} ({microbatch.kind})"
            raise RuntimeError(f"stream: item {self.next_number} ({kind}) is due for rank {self.rank}, found {found}")
        self.next_number += self.world_size
        if kind == "train":
            self.times.data_wait_s += time.perf_counter() - started
        if self.stage.train.log_samples:
            self._log_samples(microbatch)
        return microbatch

    def _log_samples(self, microbatch: Microbatch) -> None:
        """Steps that are done again after a restart are written again: `w3ray.data.sample_log` tells which count."""
        row = {
            "item": microbatch.number,
            "kind": microbatch.kind,
            "epoch": microbatch.epoch,
            "step": microbatch.step,
            "slot": microbatch.slot,
            "positions": microbatch.positions.tolist(),
            "samples": microbatch.samples.tolist(),
            "clips": microbatch.clip_ids,
            "draws": microbatch.draws.tolist(),
            "valid": microbatch.valid.tolist(),
            "time_s": time.time(),
        }
        self.samples.add(row)

    def _train_step(self, step: int) -> bool:
        """One optimiser step. Returns whether the workers have to leave after it (the same on all ranks)."""
        normalizer = float(self.schedule.valid_clips(step))
        rounds = self.schedule.rounds_per_step
        microbatches = [self._read("train") for _ in range(rounds)]
        failures = [failure for microbatch in microbatches for failure in microbatch.failures]
        masked, leaving = self._share_failures(failures)
        normalizer -= masked
        for i, microbatch in enumerate(microbatches):
            if microbatch.step != step:
                raise RuntimeError(f"stream: step {step} is due, found a microbatch of step {microbatch.step}")
            self.step.accumulate(
                _tensor(microbatch.clips),
                _tensor(microbatch.labels),
                _tensor(microbatch.valid),
                normalizer=normalizer,
                world_size=self.world_size,
                seed=microbatch_seed(self.stage.seed, "dropout", step, microbatch.slot),
                last=i == rounds - 1,
            )
        lr = self._lr(step)
        epoch, in_epoch = divmod(step + 1, self.schedule.steps_per_epoch)
        measured = in_epoch == 0 and self.schedule.validates_after(epoch - 1)
        result = self.step.update(lr, self._meter().parameters() if measured else None)
        if measured:
            self.attention_norms = {stage: float(norm) for stage, norm in result.grad_norms.items()}
        average_buffers(self.model)
        self.times.clips += int(normalizer)
        due = (step + 1) % self.stage.train.log_every_steps == 0 or (step + 1) % self.schedule.steps_per_epoch == 0
        if due or self._checkpoint_due(step + 1):  # a step that diverged must not reach a checkpoint
            self._report_step(step, lr, result.loss_sums, result.correct, result.grad_norm, normalizer)
        return leaving

    def _lr(self, step: int) -> float:
        per_epoch, schedule = self.schedule.steps_per_epoch, self.stage.train.schedule
        return self.base_lr * lr_factor(
            step,
            total_steps=self.schedule.total_steps,
            warmup_steps=min(round(schedule.warmup_epochs * per_epoch), self.schedule.total_steps),
            kind=schedule.kind,
            milestones=[round(epoch * per_epoch) for epoch in schedule.milestones],
            gamma=schedule.gamma,
        )

    def _report_step(
        self, step: int, lr: float, loss_sums: Mapping[str, Tensor], correct: Tensor, grad_norm: Tensor, clips: float
    ) -> None:
        names = list(loss_sums)
        totals = torch.stack([*(loss_sums[name].double() for name in names), correct.double()])
        self._all_reduce(totals)
        now, times = time.perf_counter(), self.times
        self.times = _StepTimes(now)
        means = (totals / max(clips, 1.0)).tolist()
        losses = dict(zip(names, means[:-1], strict=True))
        if not all(math.isfinite(value) for value in losses.values()):
            raise RunError(
                f"stage {self.stage.name}: the loss is not finite at step {step + 1} ({losses}); "
                "lower train.lr or set train.precision=fp32"
            )
        if self.rank != 0:
            return
        seconds = now - times.started
        self.events.send(
            StepDone(
                stage=self.stage.name,
                step=step + 1,
                epoch=step // self.schedule.steps_per_epoch,
                losses=losses,
                lr=lr,
                clips_per_s=times.clips / seconds,
                data_wait_s=times.data_wait_s,
                step_s=seconds,
                valid_clips=times.clips,
                accuracy=means[-1],
                grad_norm=float(grad_norm),
                time_s=time.time(),
            )
        )

    def _finish_epoch(self, epoch: int, *, save: bool) -> None:
        """Validation where one is due, then the epoch's checkpoint, where one is due or `save` wants it."""
        steps_done = (epoch + 1) * self.schedule.steps_per_epoch
        every = self.stage.train.checkpoint_every_epochs
        last = epoch == self.schedule.epochs - 1
        metrics = None
        if self.schedule.validates_after(epoch):
            counts, attention = self._evaluate("val")
            metrics = self.metrics = counts.result()
            if self.rank == 0:
                if attention:
                    self.events.send(AttentionHealth(stage=self.stage.name, step=steps_done, stages=attention))
                self._tell_validated("val", steps_done, epoch, metrics)
        if save or metrics is not None or last or (epoch + 1) % every == 0 or self._checkpoint_due(steps_done):
            self._save(steps_done, metrics)
        # Behind the checkpoint, and not while the node is about to be taken away: they are no result.
        if self.pictures is not None and not save and self._pictures_due(epoch, validated=metrics is not None):
            self.heartbeat.doing("draws pictures of the clips of tracking.explain_clips")
            self.pictures.draw(self.model, steps_done)
        self.times = _StepTimes(time.perf_counter())

    def _pictures_due(self, epoch: int, *, validated: bool) -> bool:
        every = self.stage.explain_every_epochs
        return validated if every is None else (epoch + 1) % every == 0 or epoch == self.schedule.epochs - 1

    @torch.no_grad()
    def _evaluate(self, kind: Literal["val", "test"]) -> tuple[HeadCounts, tuple[StageHealth, ...]]:
        """Exact counts over all workers, every valid row of the split once; and what the gates did meanwhile."""
        self.model.eval()
        counts = HeadCounts(self.stage.heads, device=self.device)
        meter = self._meter()
        failures: list[ClipFailure] = []
        total_clips = self.schedule.num_val if kind == "val" else self.schedule.num_test
        told_s = time.monotonic()
        for rounds_done in range(1, self.schedule.rounds(kind) + 1):
            microbatch = self._read(kind)
            failures.extend(microbatch.failures)
            with self.step.autocast(), meter.watching(_tensor(microbatch.valid)):
                logits_BK = self.model(self.step.prepare(_tensor(microbatch.clips))).logits_BK
            counts.update(logits_BK.float(), _tensor(microbatch.labels), _tensor(microbatch.valid))
            if self.rank == 0 and time.monotonic() - told_s >= _PROGRESS_EVERY_S:
                told_s = time.monotonic()
                # By the rounds, not by the counts: reading those would wait for the device.
                clips = min(total_clips, rounds_done * self.schedule.microbatch_size * self.world_size)
                self.events.send(
                    ValidationProgress(stage=self.stage.name, split=kind, clips=clips, total_clips=total_clips)
                )
        counts.all_reduce()
        self._share_failures(failures)
        if counts.rows == 0:
            raise RunError(f"stage {self.stage.name}: not one clip of the {kind} split can be read")
        sums = meter.sums()
        self._all_reduce(sums)
        return counts, meter.stages(sums, self.attention_norms)

    def _meter(self) -> GateMeter:
        assert isinstance(self.model, VideoModel)
        return GateMeter(self.model)

    def _finish(self) -> dict[str, Any]:
        """Score the best checkpoint on the test split; that is the stage's outcome."""
        self.keeper.wait()
        with first_whole(best_first(self.stage.checkpoints, self.stage.train.best_metric)) as best:
            if best is None:
                raise RunError(f"{self.stage.checkpoints}: no whole checkpoint with a validation result is left")
            load_checkpoint(best[1], model=self.model)
        counts, attention = self._evaluate("test")
        if self.rank == 0:
            self._tell_validated("test", self.schedule.total_steps, self.schedule.epochs - 1, counts.result())
        self.samples.flush()
        return {
            "best_checkpoint": best[0].name,
            "test": counts.result(),
            "counts": counts.state().tolist(),
            "attention": document(attention),
        }

    def _tell_validated(
        self, split: Literal["val", "test"], step: int, epoch: int, metrics: Mapping[str, float]
    ) -> None:
        self.events.send(
            Validated(
                stage=self.stage.name, step=step, epoch=epoch, metrics=dict(metrics), split=split, time_s=time.time()
            )
        )
        self.events.flush()

    # Checkpoints and failures.

    def _save(self, steps_done: int, metrics: Mapping[str, float] | None) -> None:
        """All ranks must call this: Ray Train's report is a barrier."""
        self.samples.flush()
        meta = {
            "stage": self.stage.name,
            "step": steps_done,
            "epoch": steps_done / self.schedule.steps_per_epoch,
            "metrics": metrics and dict(metrics),
            "seed": self.stage.seed,
            "model": dict(self.stage.model),
            "world_size": self.world_size,
            "failed": sorted(self.failed),
        }
        self.keeper.save(
            steps_done,
            metrics,
            lambda folder: save_checkpoint(
                folder, model=self.model, optimizer=self.optimizer, step_state=self.step, meta=meta
            ),
        )

    def _share_failures(self, mine: list[ClipFailure]) -> tuple[int, bool]:
        """Tell all ranks of newly masked clips, and whether a node of theirs is about to be taken away.

        Returns: how many rows were masked over all ranks, and whether to leave.

        Raises:
            RunError: more than the allowed share of the data set's clips cannot be read.
        """
        sums = torch.tensor([len(mine), int(not self.is_local and ray_internals.is_preempted())])
        self._all_reduce(sums)
        count, leaving = int(sums[0]), bool(sums[1])
        if not count:
            return 0, leaving
        gathered: list[list[ClipFailure]] = [mine]
        if self.world_size > 1:
            gathered = [[] for _ in range(self.world_size)]
            dist.all_gather_object(gathered, mine)
        everyone = [ClipFailure(*failure) for failures in gathered for failure in failures]
        new = [failure for failure in everyone if (failure.split, failure.clip_id) not in self.failed]
        self.failed |= {(failure.split, failure.clip_id) for failure in everyone}
        if self.rank == 0 and new:
            self.events.send(ClipsFailed(stage=self.stage.name, failures=tuple(failure._asdict() for failure in new)))
        limit = self.stage.max_failed_share * self.stage.num_clips
        if len(self.failed) > limit:
            examples = "; ".join(f"{failure.uri}: {failure.reason}" for failure in new[:2])
            raise RunError(
                f"{len(self.failed)} of {self.stage.num_clips} clips cannot be read, more than "
                f"data.max_failed_share={self.stage.max_failed_share:g} allows ({examples}); "
                f"see {self.stage.directory / 'failures.jsonl'}, or run `w3ray data check`"
            )
        return count, leaving

    def _all_reduce(self, tensor: Tensor) -> None:
        """Sum over ranks, in place. Counts stay on the CPU (gloo also in GPU runs): no step waits for the device."""
        if self.world_size > 1:
            dist.all_reduce(tensor)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.as_tensor(array)
