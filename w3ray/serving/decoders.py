"""Who reads the videos of requests? Processes beside the replica: a bad video can hang or crash its decoder.

Each decoder is a Ray actor on the replica's node and reads one video at a time. If its time is up, or its process
ends, another one takes its place.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError, RayError, TaskCancelledError

from w3ray.data.clip import ClipSpec
from w3ray.data.views import Protocol
from w3ray.plugins import Shipment
from w3ray.serving.requests import AskedVideo

ATTEMPTS = 2
"""Something else than its video may have ended a decoder, so it is read once more."""
CRASHED = f"its decoder's process ended {ATTEMPTS} times while reading it (a crash, or out of memory)"


@dataclass(frozen=True, slots=True)
class DecodedVideo:
    """What a decoder made of a video: its views, or why it cannot be read."""

    pixels_VTSSC: np.ndarray | None
    """uint8 [V, T, S, S, C]."""
    reason: str | None
    seconds: float


class DecoderActor:
    """A process that reads videos."""

    def __init__(self, spec: ClipSpec, protocol: Protocol, plugins: Shipment) -> None:
        import w3ray.data.views  # noqa: F401  so that the first request need not wait for it

        plugins.load()
        self._spec, self._protocol = spec, protocol

    def ready(self) -> None:
        """Returns when the process has started."""

    def read(self, asked: AskedVideo) -> DecodedVideo:
        from w3ray.data.decoders import DecodeError
        from w3ray.data.views import load_views

        started = time.monotonic()
        pixels, reason = None, None
        try:
            pixels = load_views(
                asked.uri, spec=self._spec, protocol=self._protocol, start_s=asked.start_s, end_s=asked.end_s,
                roots=asked.roots,
            )  # fmt: skip
        except DecodeError as error:
            reason = error.reason
        return DecodedVideo(pixels, reason, time.monotonic() - started)


class Decoders:
    """The decoders of a replica. Use it in one event loop.

    Args:
        count: of decoders.
        make: starts one.
    """

    def __init__(self, count: int, make: Callable[[], Any]) -> None:
        self._count, self._make = count, make
        self._free: asyncio.Queue[Any] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Returns when all decoders are ready."""
        await asyncio.gather(*(self._add() for _ in range(self._count)))

    async def read(self, asked: AskedVideo, deadline: float) -> DecodedVideo:
        """Read a video as soon as a decoder is free.

        Args:
            asked: the video.
            deadline: in the time of the event loop. If the caller is cancelled, the decoder is ended at this time,
                unless it is done before.
        """
        waited = 0.0
        for _ in range(ATTEMPTS):
            decoder = await self._free.get()
            started = time.monotonic()
            try:
                answer: DecodedVideo = await decoder.read.remote(asked)
            except RayActorError:
                waited += time.monotonic() - started
                self._in_background(self._replace())
            except (asyncio.CancelledError, TaskCancelledError):  # Ray cancels what a cancelled request called, too
                self._in_background(self._abandon(decoder, deadline))
                raise
            except BaseException:
                self._free.put_nowait(decoder)
                raise
            else:
                self._free.put_nowait(decoder)
                return answer
        return DecodedVideo(None, CRASHED, waited)

    async def _abandon(self, decoder: Any, deadline: float) -> None:
        """Get a decoder back whose answer nobody waits for: a new process takes seconds to start."""
        try:
            async with asyncio.timeout_at(deadline):
                await decoder.ready.remote()  # it answers when it has read the video
        except (TimeoutError, RayError):
            ray.kill(decoder)  # one that hangs cannot be asked to stop
            await self._replace()
        else:
            self._free.put_nowait(decoder)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)  # the loop itself keeps only a weak reference
        task.add_done_callback(self._tasks.discard)

    async def _replace(self) -> None:
        while True:
            try:
                return await self._add()
            except RayError:  # it ended while it started, such as without memory
                await asyncio.sleep(1.0)

    async def _add(self) -> None:
        decoder = self._make()
        await decoder.ready.remote()
        self._free.put_nowait(decoder)


def decoders_here(count: int, spec: ClipSpec, protocol: Protocol, plugins: Shipment) -> Decoders:
    """Decoders on the node of this process: uploads are files on its disk.

    They hold no processor of Ray's, because the replica holds enough for them.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, scheduling_strategy=here)(DecoderActor)
    return Decoders(count, lambda: actor.remote(spec, protocol, plugins))
