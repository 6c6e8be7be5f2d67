"""Records the clips of a stage that no worker could read, and ends the stage if there are too many."""

from collections.abc import Iterable, Sequence

import torch

from w3ray.data.microbatch import ClipFailure
from w3ray.errors import RunError
from w3ray.events import ClipsFailed
from w3ray.runtime.event_channel import Sender
from w3ray.runtime.ranks import Ranks
from w3ray.runtime.stage_spec import StageSpec


class FailedClips:
    """The clips that failed so far, the same on all ranks. The first rank reports new ones to the driver.

    Args:
        stage: has the allowed share of failed clips.
        ranks: share their failures.
        events: receives new failures.
    """

    def __init__(self, stage: StageSpec, ranks: Ranks, events: Sender) -> None:
        self._stage, self._ranks, self._events = stage, ranks, events
        self._known: set[tuple[str, str]] = set()

    def known(self) -> list[tuple[str, str]]:
        """(split, clip id) of each, sorted, for a checkpoint."""
        return sorted(self._known)

    def remember(self, known: Iterable[Sequence[str]]) -> None:
        """Restore the clips from a checkpoint."""
        self._known = {(split, clip_id) for split, clip_id in known}

    def share(self, mine: list[ClipFailure], *, leaving: bool) -> tuple[int, bool]:
        """Tell all ranks about newly masked clips, and whether this rank has to leave. All ranks must call this.

        Both are sent in one sum, because this happens in every step.

        Returns: how many rows were masked over all ranks, and whether any rank has to leave.

        Raises:
            RunError: more than the allowed share of the stage's clips cannot be read.
        """
        sums = torch.tensor([len(mine), int(leaving)])
        self._ranks.all_reduce(sums)
        count, any_leaves = int(sums[0]), bool(sums[1])
        if count:
            self._add([ClipFailure(*failure) for failure in self._ranks.gather(mine)])
        return count, any_leaves

    def _add(self, failures: list[ClipFailure]) -> None:
        new = [failure for failure in failures if (failure.split, failure.clip_id) not in self._known]
        self._known |= {(failure.split, failure.clip_id) for failure in failures}
        if self._ranks.rank == 0 and new:
            told = tuple(failure._asdict() for failure in new)
            self._events.send(ClipsFailed(stage=self._stage.name, failures=told))
        stage = self._stage
        if len(self._known) > stage.max_failed_share * stage.num_clips:
            examples = "; ".join(f"{failure.uri}: {failure.reason}" for failure in new[:2])
            raise RunError(
                f"{len(self._known)} of {stage.num_clips} clips cannot be read, more than "
                f"data.max_failed_share={stage.max_failed_share:g} allows ({examples}); "
                f"see {stage.directory / 'failures.jsonl'}, or run `w3ray data check`"
            )
