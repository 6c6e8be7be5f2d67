"""How does a stage run without processes of its own: as a thread of this one, in Ray Train's local mode?

For trials of a sweep. Starting a stage's controller, worker, coordinator and decoders costs some ten seconds of
processor time, more than many a trial trains for; here nothing is started: the trial's process, which Ray Tune uses for
one trial after another, has torch loaded, and the decoders are tasks, whose processes Ray uses again. Numbers are the
same bits. What ends the process ends the stage: Ray Tune then starts the trial again, which goes on at its newest
checkpoint.
"""

import ctypes
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

import pyarrow as pa
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from w3ray.data.microbatch import ClipTables, Microbatch, MicrobatchDecoder
from w3ray.data.stream import DecoderPool, build_dataset, read_microbatches
from w3ray.errors import RunError
from w3ray.events import Warned
from w3ray.runtime.cluster_stage import KEEP_MEMORY, free_resources, outcome_of, relay
from w3ray.runtime.event_channel import DriverGone, LocalChannel
from w3ray.runtime.faults import StageLost, is_hopeless, last_line
from w3ray.runtime.stage_spec import StageSpec
from w3ray.runtime.watchdog import Watchdog
from w3ray.training.checkpoint_files import steps_done

_POLL_S = 0.2
_END_TIMEOUT_S = 60.0
_MALLOPT = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_TOP_PAD_": -2, "MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_ARENA_MAX": -8}


class InProcessStage:
    """`ClusterStage` for one CPU worker, in a thread of this process. One at a time in a process.

    Args:
        spec: the stage; it goes on at its newest good checkpoint.
        splits: rows of `train`, `val` and `test`; see `ClipTables`.
    """

    def __init__(self, spec: StageSpec, splits: Mapping[str, pa.Table]) -> None:
        self._spec = spec
        tables = ClipTables.of(splits)
        self._channel = LocalChannel()
        self._answer: dict[str, Any] = {}
        _keep_memory()
        trainer = TorchTrainer(
            _work,
            train_loop_config={"stage": spec, "events": self._channel, "tables": tables},
            scaling_config=ScalingConfig(num_workers=0),
            run_config=RunConfig(name=spec.name),
        )
        self._thread = threading.Thread(target=self._fit, args=(trainer,), name=f"fit-{spec.name}", daemon=True)
        self._thread.start()

    def _fit(self, trainer: TorchTrainer) -> None:
        try:
            self._answer["result"] = trainer.fit()
        except BaseException as error:  # whatever it is: it must reach the thread that waits
            self._answer["error"] = error

    def outcome(self, on_event: Callable[[Any], None], watch: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """As `ClusterStage.outcome`.

        Raises:
            StageLost: the stream broke, or nothing moves any more.
            InputError, RunError: with the cause.
        """
        spec = self._spec
        watchdog = Watchdog(
            spec.name, spec.plan, timeout_s=spec.stall_timeout_s, now=time.monotonic(), free=free_resources
        )
        try:
            while self._thread.is_alive():
                relay(self._channel.receive(_POLL_S), watchdog, on_event)
                if message := watchdog.check(time.monotonic()):
                    on_event(Warned(message=message))
                watch()
            relay(self._channel.receive(0.0), watchdog, on_event)
        finally:
            self.end()
        if failure := self._answer.get("error"):
            kind = RunError if is_hopeless(failure) else StageLost
            raise kind(f"stage {spec.name}: {last_line(failure)}") from failure
        return outcome_of(self._answer["result"])

    def end(self) -> None:
        """End the stage, and wait for it: it hears of it at its next microbatch.

        One that hangs takes this process with it, which must not be used for anything else; Ray Tune starts another.
        """
        self._channel.close()
        self._thread.join(_END_TIMEOUT_S)
        if self._thread.is_alive():
            os._exit(1)


def _work(config: dict[str, Any]) -> dict[str, Any]:
    """Ray Train's loop."""
    from w3ray.runtime.worker import run_worker

    spec, events = config["stage"], config["events"]
    with closing(_microbatches(spec, config["tables"])) as stream:
        return run_worker(spec, events, _while_driver_listens(stream, events))


def _microbatches(spec: StageSpec, tables: ClipTables) -> Generator[Microbatch, None, None]:
    """What other trials have decoded, without a stream of its own; from the first item that lacks a clip, the stream.

    So a trial that comes later than others waits for no decoder's start, and one that catches up with them goes on
    beside them.
    """
    stream = spec.stream.for_world_size(1)
    schedule = stream.schedule
    number = schedule.first_item(steps_done(spec.checkpoints))
    if stream.shared is not None:
        # What is shared needs no waiting for: clips that are not there yet were decoded by nobody.
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


def _keep_memory() -> None:
    """What `ClusterStage` sets in the environment of its workers; glibc only."""
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for name, option in _MALLOPT.items():
            mallopt(option, int(KEEP_MEMORY[name]))
