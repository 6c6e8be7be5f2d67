"""Runs a stage without processes of its own: in a thread of this process, with Ray Train's local mode.

For trials of a sweep. To start a stage's controller, worker, coordinator and decoders costs about ten seconds of
processor time, more than the training of many trials. Here nothing is started. Ray Tune uses the trial's process for
one trial after another, and the process has already loaded torch. The decoders are tasks, whose processes Ray reuses.
The results are the same bits. If the process ends, so does the stage. Ray Tune then restarts the trial, and it resumes
from its newest checkpoint.
"""

import os
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import pyarrow as pa
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from w3ray.data.microbatch import ClipTables, Microbatch, MicrobatchDecoder
from w3ray.data.stream import DecoderPool, build_dataset, read_microbatches
from w3ray.errors import RunError
from w3ray.runtime.allocator import keep_memory
from w3ray.runtime.event_channel import DriverGone, LocalChannel
from w3ray.runtime.faults import StageLost, is_hopeless, last_line
from w3ray.runtime.stage import Stage
from w3ray.runtime.stage_spec import StageSpec
from w3ray.training.checkpoint_files import steps_done


class InProcessStage(Stage):
    """A stage with one CPU worker, in a thread of this process. Only one at a time in a process.

    Args:
        spec: the stage; it resumes from its newest good checkpoint.
        splits: rows of `train`, `val` and `test`; see `ClipTables`.
    """

    poll_s = 0.2
    end_timeout_s = 60.0

    def __init__(self, spec: StageSpec, splits: Mapping[str, pa.Table]) -> None:
        channel = LocalChannel()
        super().__init__(spec, channel)
        keep_memory()
        config = {"stage": spec, "events": channel, "tables": ClipTables.of(splits)}
        self._start(lambda: _trainer(spec, config))

    def _explained(self, failure: BaseException) -> RunError:
        kind = RunError if is_hopeless(failure) else StageLost
        return kind(f"stage {self._spec.name}: {last_line(failure)}")

    def _kill(self) -> None:
        # Its next microbatch should have told it to end. Nothing else may use this process now, so it ends with
        # the stage. Ray Tune starts another one.
        os._exit(1)


def _trainer(spec: StageSpec, config: dict[str, Any]) -> TorchTrainer:
    return TorchTrainer(
        _work,
        train_loop_config=config,
        scaling_config=ScalingConfig(num_workers=0),
        run_config=RunConfig(name=spec.name),
    )


def _work(config: dict[str, Any]) -> dict[str, Any]:
    """The training loop for Ray Train."""
    from w3ray.runtime.worker import run_worker

    spec, events = config["stage"], config["events"]
    with closing(_microbatches(spec, config["tables"])) as stream:
        return run_worker(spec, events, _while_driver_listens(stream, events))


def _microbatches(spec: StageSpec, tables: ClipTables) -> Generator[Microbatch, None, None]:
    """First the items whose clips other trials have decoded. From the first item that lacks a clip on, a stream.

    So a trial that follows others does not wait for decoders to start. A trial that catches up with them decodes its
    own clips.
    """
    stream = spec.stream.for_world_size(1)
    schedule = stream.schedule
    number = schedule.first_item(steps_done(spec.checkpoints))
    if stream.shared is not None:
        # Does not wait for the data set: clips that are still being generated cannot be decoded yet.
        found = MicrobatchDecoder(replace(stream, clips_ready=None), tables)
        while number < schedule.total_items and (microbatch := found.shared(number)) is not None:
            yield microbatch
            number += 1
    if number == schedule.total_items:
        return
    plan = spec.plan
    yield from read_microbatches(
        build_dataset(
            stream,
            tables,
            DecoderPool(size=plan.decoders, cpus=plan.decoder_cpus, resources=plan.decoder_resources, as_tasks=True),
            first_item=number,
        )
    )


def _while_driver_listens(stream: Iterator[Microbatch], events: LocalChannel) -> Iterator[Microbatch]:
    for microbatch in stream:
        if not events.driver_listens():
            raise DriverGone
        yield microbatch
