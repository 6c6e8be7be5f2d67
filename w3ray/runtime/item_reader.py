"""Reads a worker's items from the stream, and checks that each one is the item that is due."""

import time
from collections.abc import Iterator

from w3ray.data.microbatch import Microbatch
from w3ray.data.sample_log import SampleLog
from w3ray.data.schedule import Kind
from w3ray.runtime.heartbeat import Heartbeat
from w3ray.runtime.ranks import Ranks


class ItemReader:
    """Reads every `world_size`th item, from `start_at` on.

    Args:
        stream: the items of this rank, in order.
        ranks: the ranks of the stage.
        heartbeat: reports which item this rank waits for.
        samples: gets a row for each item; None: no rows are written.
    """

    def __init__(
        self, stream: Iterator[Microbatch], *, ranks: Ranks, heartbeat: Heartbeat, samples: SampleLog | None
    ) -> None:
        self._stream, self._ranks, self._heartbeat, self._samples = stream, ranks, heartbeat, samples
        self._next_number = ranks.rank
        self.train_wait_s = 0.0
        """Total seconds of waiting for microbatches of the training split."""

    def start_at(self, first_item: int) -> None:
        """Set the first item of the stream, which is the first rank's."""
        self._next_number = first_item + self._ranks.rank

    def read(self, kind: Kind) -> Microbatch:
        """The next item, which must be of this kind.

        Raises:
            RuntimeError: the stream delivers another item than the one that is due.
        """
        started, number = time.perf_counter(), self._next_number
        self._heartbeat.doing(f"waits for item {number} of the stream")
        microbatch = next(self._stream, None)
        self._heartbeat.doing(f"computes item {number} ({kind})")
        self._heartbeat.item_read()
        if microbatch is None or (microbatch.number, microbatch.kind) != (number, kind):
            found = "its end" if microbatch is None else f"item {microbatch.number} ({microbatch.kind})"
            raise RuntimeError(f"stream: item {number} ({kind}) is due for rank {self._ranks.rank}, found {found}")
        self._next_number += self._ranks.world_size
        if kind == "train":
            self.train_wait_s += time.perf_counter() - started
        if self._samples is not None:
            self._samples.add(_row(microbatch))
        return microbatch

    def flush_samples(self) -> None:
        """Write the rows of all items that were read."""
        if self._samples is not None:
            self._samples.flush()


def _row(microbatch: Microbatch) -> dict[str, object]:
    """Steps that are repeated after a restart are written again. `w3ray.data.sample_log` decides which rows count."""
    return {
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
