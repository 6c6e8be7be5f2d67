"""What one training worker does, from the first microbatch of its stage to the last.

It follows the schedule: it reads its items from the stream in order (and asserts that each one is the item due),
trains, validates, saves checkpoints, and finally scores the best checkpoint on the test split. The results depend
only on the schedule and the seed, never on timing.
"""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import ray.train
import ray.train.torch
import torch
from torch import nn

from w3ray import ray_internals
from w3ray.attention.gating import triton_kernels
from w3ray.attention.health import document
from w3ray.attention.meter import GateMeter
from w3ray.data.microbatch import Microbatch
from w3ray.data.sample_log import SampleLog
from w3ray.errors import InputError, RunError
from w3ray.events import Moment, Warned
from w3ray.models._common import VideoModel
from w3ray.runtime.building import (
    base_lr,
    build_network,
    build_step,
    clip_pictures,
    distribute,
    lr_at,
    optimizer_of,
    patience_of,
    prepared_teacher,
)
from w3ray.runtime.callbacks import Callbacks
from w3ray.runtime.checkpoint_keeper import CheckpointKeeper, LocalCheckpointKeeper, best_first
from w3ray.runtime.event_channel import Sender
from w3ray.runtime.failed_clips import FailedClips
from w3ray.runtime.faults import CallbackFailed, Preempted, TeacherMissing
from w3ray.runtime.heartbeat import Heartbeat
from w3ray.runtime.item_reader import ItemReader
from w3ray.runtime.ranks import Ranks
from w3ray.runtime.shared_teacher import shared_teacher
from w3ray.runtime.split_evaluator import SplitEvaluator
from w3ray.runtime.stage_spec import StageSpec
from w3ray.runtime.step_reports import StepReports
from w3ray.runtime.teacher import load_teacher
from w3ray.runtime.validation import Validation
from w3ray.storage import StorageFailing, StoragePath, StorageRefused
from w3ray.training.batch_norm import average_buffers
from w3ray.training.checkpoint import load_checkpoint, save_checkpoint
from w3ray.training.checkpoint_files import by_step, first_whole
from w3ray.training.freeze import frozen_names, rest
from w3ray.training.moving_average import MovingAverage
from w3ray.training.on_gpu import compiled, tf32
from w3ray.training.optimizer import set_phase
from w3ray.training.randomness import microbatch_seed
from w3ray.training.transfer import Transfer


def run_worker(stage: StageSpec, events: Sender, stream: Iterator[Microbatch]) -> dict[str, Any]:
    """Ray Train runs this on each worker. `stream` is the worker's part of the stage's stream.

    Returns: {"outcome": ...}; {"stopped": {"epochs", "why"}} if the training stopped early; or {"fault": {"kind",
    "message"}} for a failure that would happen again (bad input, too many unreadable videos). If it were raised, Ray
    Train would restart the workers in vain.
    """
    # Blocks of the stream are read-only shared memory. Nothing here writes to its input.
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    try:
        stage.stream.plugins.load()
        # Both are settings of the whole process, and the next stage may be in the same one.
        with tf32(stage.train.tf32), triton_kernels(stage.train.triton):
            return StageWorker(stage, events, stream).run()
    except TeacherMissing as error:
        return {"fault": {"kind": "teacher", "message": str(error)}}
    except (StorageFailing, StorageRefused, CallbackFailed):
        raise  # only this rank failed, and returning would leave the others waiting
    except (InputError, RunError) as error:
        return {"fault": {"kind": "input" if isinstance(error, InputError) else "run", "message": str(error)}}
    finally:
        events.flush()


class StageWorker:
    """One rank of one stage. See the module's docstring."""

    def __init__(self, stage: StageSpec, events: Sender, stream: Iterator[Microbatch]) -> None:
        self.stage, self.events = stage, events
        self.ranks = ranks = Ranks.of_this_worker()
        torch.set_num_threads(stage.plan.trainer_threads)
        self.heartbeat = Heartbeat(events.twin(), stage=stage.name, rank=ranks.rank, world_size=ranks.world_size)
        # In local mode, Ray Train takes any GPU that it sees.
        self.device = torch.device("cpu") if ranks.is_local else ray.train.torch.get_device()
        self.schedule = stage.stream.schedule.for_world_size(ranks.world_size)
        self.model = build_network(stage, self.device)
        self.phase_lr = base_lr(stage.train)
        self.optimizer = optimizer_of(self.model, stage.train)
        self.trainable = frozenset(name for name, one in self.model.named_parameters() if one.requires_grad)
        self.frozen: frozenset[str] = frozenset()
        self.patience = patience_of(stage.train)
        decay = stage.train.ema_decay
        self.average = None if decay is None else MovingAverage(self.model, decay)
        teacher = None if stage.teacher is None else self._load_teacher(stage.teacher)
        self.transfer = Transfer(self.device)
        self.step = build_step(
            stage, self._wrapped(), pixels=self.model.pixels, optimizer=self.optimizer, teacher=teacher
        )
        keeper = LocalCheckpointKeeper if ranks.is_local else CheckpointKeeper
        self.keeper = keeper(stage, ranks.rank, events.twin(), self.heartbeat)
        self.failed = FailedClips(stage, ranks, events)
        self.steps_done = self._resume()
        samples = SampleLog(stage.directory, ranks.rank) if stage.train.log_samples else None
        self.reader = ItemReader(stream, ranks=ranks, heartbeat=self.heartbeat, samples=samples)
        evaluator = SplitEvaluator(
            stage, self.schedule, step=self.step, reader=self.reader, ranks=ranks, failed=self.failed, events=events,
            device=self.device, transfer=self.transfer,
        )  # fmt: skip
        self.validation = Validation(stage.name, evaluator, ranks=ranks, events=events)
        self.callbacks = Callbacks(stage.train.callbacks, stage=stage.name, ranks=ranks, heartbeat=self.heartbeat)
        self.reports = StepReports(
            stage, self.schedule, ranks=ranks, reader=self.reader, events=events, callbacks=self.callbacks
        )
        self.pictures = clip_pictures(stage, events) if ranks.rank == 0 and stage.explained else None

    # Building.

    def _begin_phase(self, epoch: int) -> None:
        train = self.stage.train.at_epoch(epoch)
        self.phase_lr = base_lr(train)
        set_phase(self.optimizer, weight_decay=train.weight_decay, momentum=train.momentum)
        frozen = frozen_names(self.model, train.freeze)
        if frozen != self.frozen:
            self.frozen = frozen
            rest(self.model, frozen, self.trainable)
            # DDP knows the parameters that were trained when it wrapped the network. The old one goes first: both have
            # hooks on the same parameters.
            self.step.model = self.model
            self.step.model = self._wrapped()

    def _wrapped(self) -> nn.Module:
        return distribute(compiled(self.model) if self.stage.train.compile else self.model, self.ranks, self.device)

    def _load_teacher(self, folder: StoragePath) -> nn.Module:
        teacher = load_teacher(
            folder, stage=self.stage.name, ranks=self.ranks, events=self.events, heartbeat=self.heartbeat
        )
        teacher = prepared_teacher(teacher, self.stage.train, self.device)
        # Not from a GPU: pixels and features would travel to the processor in each step.
        if self.stage.stream.shared is None or self.device.type != "cpu":
            return teacher
        return shared_teacher(teacher, folder.parent.name, self.stage.stream)

    def _resume(self) -> int:
        """Load the newest good checkpoint; report and skip damaged ones. Returns the step to resume from."""
        with first_whole(by_step(self.stage.checkpoints), self._warn_damaged) as newest:
            if newest is None:
                return 0
            meta = load_checkpoint(
                newest[1], model=self.model, average=self.average, optimizer=self.optimizer, step_state=self.step
            )
        self.failed.remember(meta["failed"])
        if self.patience is not None:
            self.patience.load_state_dict(meta["patience"])
        return int(meta["step"])

    def _warn_damaged(self, path: StoragePath, reason: str) -> None:
        if self.ranks.rank == 0:
            message = f"{path.name} is damaged, resuming from the checkpoint before it: {reason}"
            self.events.send(Warned(message=message))

    # The stage.

    def run(self) -> dict[str, Any]:
        """Do everything that is left of the stage. Returns what `run_worker` does.

        Raises:
            Preempted: a worker's node is about to be taken away, and a checkpoint was saved.
        """
        self._tell_moment("the first worker built its network")
        self.reader.start_at(self.schedule.first_item(self.steps_done))
        for step in range(self.steps_done, self.schedule.total_steps):
            if self.patience is not None and self.patience.spent:
                # The stream goes on with the next epoch. The driver starts the stage again with one that ends here.
                self.keeper.wait()
                return {"stopped": self.patience.stopped(step // self.schedule.steps_per_epoch, self.schedule.epochs)}
            if step == self.steps_done or step % self.schedule.steps_per_epoch == 0:
                self._begin_phase(step // self.schedule.steps_per_epoch)
            leaving = self._train_step(step)
            if step == self.steps_done:
                self._tell_moment("the first step was done")
            epoch, in_epoch = divmod(step + 1, self.schedule.steps_per_epoch)
            if in_epoch == 0:
                self._finish_epoch(epoch - 1, save=leaving)
            elif leaving or self._checkpoint_due(step + 1):
                self._save(step + 1, metrics=None)
            if leaving:
                self.keeper.wait()
                raise Preempted(f"rank {self.ranks.rank}: the state after step {step + 1} is saved")
        return {"outcome": self._finish()}

    def _tell_moment(self, what: str) -> None:
        if self.ranks.rank == 0:
            self.events.send(Moment(what=what, stage=self.stage.name))

    def _checkpoint_due(self, steps_done: int) -> bool:
        every = self.stage.train.checkpoint_every_steps
        return every is not None and steps_done % every == 0

    def _train_step(self, step: int) -> bool:
        """One optimiser step. Returns whether the workers have to leave after it (the same on all ranks)."""
        normalizer = float(self.schedule.valid_clips(step))
        rounds = self.schedule.rounds_per_step
        microbatches = [self.reader.read("train") for _ in range(rounds)]
        failures = [failure for microbatch in microbatches for failure in microbatch.failures]
        must_leave = not self.ranks.is_local and ray_internals.is_preempted()
        masked, leaving = self.failed.share(failures, leaving=must_leave)
        normalizer -= masked
        for i, microbatch in enumerate(microbatches):
            if microbatch.step != step:
                raise RuntimeError(f"stream: step {step} is due, found a microbatch of step {microbatch.step}")
            clips, labels, *extras = self.transfer(
                [torch.as_tensor(one) for one in (microbatch.clips, microbatch.labels, *microbatch.extras.values())]
            )
            self.step.accumulate(
                clips,
                labels,
                torch.as_tensor(microbatch.valid),
                normalizer=normalizer,
                world_size=self.ranks.world_size,
                seed=microbatch_seed(self.stage.seed, "dropout", step, microbatch.slot),
                last=i == rounds - 1,
                extras=dict(zip(microbatch.extras, extras, strict=True)),
            )
        lr = lr_at(step, phase_lr=self.phase_lr, train=self.stage.train, schedule=self.schedule)
        epoch, in_epoch = divmod(step + 1, self.schedule.steps_per_epoch)
        measured = in_epoch == 0 and self.schedule.validates_after(epoch - 1)
        result = self.step.update(lr, GateMeter(self.model).parameters() if measured else None)
        if measured:
            self.validation.grad_norms = {stage: float(norm) for stage, norm in result.grad_norms.items()}
        average_buffers(self.model)
        if self.average is not None and result.updated:
            self.average.update(self.model)
        saves = self._checkpoint_due(step + 1)
        self.reports.report(step, result, lr=lr, clips=normalizer, saves=saves, model=self.model)
        return leaving

    def _finish_epoch(self, epoch: int, *, save: bool) -> None:
        """Validate if a validation is due. Then save the epoch's checkpoint, if one is due or `save` asks for it."""
        steps_done = (epoch + 1) * self.schedule.steps_per_epoch
        every = self.stage.train.checkpoint_every_epochs
        last = epoch == self.schedule.epochs - 1
        scored = None
        if self.schedule.validates_after(epoch):
            scored = self.validation.score(self.best_model, "val", step=steps_done, epoch=epoch)
            if self.patience is not None:
                self.patience.see(scored.metrics)
        if save or scored is not None or last or (epoch + 1) % every == 0 or self._checkpoint_due(steps_done):
            self._save(steps_done, None if scored is None else scored.metrics)
        # Callbacks and pictures are not results: they come after the checkpoint.
        if scored is not None:
            self.callbacks.after_validation(self.best_model, "val", scored, step=steps_done, epoch=epoch)
        # Not when the node is about to be taken away.
        if self.pictures is not None and not save and self._pictures_due(epoch, validated=scored is not None):
            self.heartbeat.doing("draws pictures of the clips of tracking.explain_clips")
            self.pictures.draw(self.best_model, steps_done)
        self.reports.restart_clock()

    def _pictures_due(self, epoch: int, *, validated: bool) -> bool:
        every = self.stage.explain_every_epochs
        return validated if every is None else (epoch + 1) % every == 0 or epoch == self.schedule.epochs - 1

    @property
    def best_model(self) -> VideoModel:
        """The network to use as it is now: the moving average, if there is one."""
        return self.model if self.average is None else self.average.model

    def _finish(self) -> dict[str, Any]:
        """Score the best checkpoint on the test split. The result is the stage's outcome."""
        self.keeper.wait()
        with first_whole(best_first(self.stage.checkpoints, self.stage.train.best_metric)) as best:
            if best is None:
                raise RunError(f"{self.stage.checkpoints}: no whole checkpoint with a validation result is left")
            load_checkpoint(best[1], model=self.model)
        self._tell_moment("the last step was done")
        step, epoch = self.schedule.total_steps, self.schedule.epochs - 1
        scored = self.validation.score(self.model, "test", step=step, epoch=epoch)
        self.callbacks.after_validation(self.model, "test", scored, step=step, epoch=epoch)
        self.reader.flush_samples()
        return {
            "best_checkpoint": best[0].name,
            "test": dict(scored.metrics),
            "counts": scored.counts.state().tolist(),
            "attention": document(scored.attention),
        }

    # Checkpoints and failures.

    def _save(self, steps_done: int, metrics: Mapping[str, float] | None) -> None:
        """All ranks must call this: Ray Train's report is a barrier."""
        self.reader.flush_samples()
        meta = {
            "stage": self.stage.name,
            "step": steps_done,
            "epoch": steps_done / self.schedule.steps_per_epoch,
            "metrics": metrics and dict(metrics),
            "seed": self.stage.seed,
            "model": dict(self.stage.model),
            "world_size": self.ranks.world_size,
            "failed": self.failed.known(),
        }
        if self.patience is not None:
            meta["patience"] = self.patience.state_dict()
        self.keeper.save(
            steps_done,
            metrics,
            lambda folder: save_checkpoint(
                folder,
                model=self.model,
                average=self.average,
                optimizer=self.optimizer,
                step_state=self.step,
                meta=meta,
            ),
        )
