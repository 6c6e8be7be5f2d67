"""How often is a clip of each class in an epoch, if not once?

An epoch has as many places as there are training clips. Each class gets a fixed number of them, its quota. The clips of
a class take its places in turn, through all epochs: each is there as often as the others, give or take one. Which clip
is in which place is a pure function of the seed, the epoch and the place, as in an ordinary epoch. So a stage is
resumed where it stopped and gives the same bits. But an epoch no longer has every clip once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

Sampling = Literal["balanced", "sqrt"]
_EXPONENT = {"balanced": 0.0, "sqrt": 0.5}


@dataclass(frozen=True, slots=True)
class Balance:
    """The quotas of classes, and which rows the classes have. Made by `of`."""

    quotas: tuple[int, ...]
    """Places of each class in an epoch; only classes with clips are here."""
    counts: tuple[int, ...]
    """Clips of each class."""
    rows: bytes
    """Rows of the training table, int32, class after class. Bytes, so that schedules can be compared."""

    @classmethod
    def of(cls, labels: np.ndarray, sampling: Sampling) -> Self:
        """The balance of a training table.

        Args:
            labels: int [N], the label of each row.
            sampling: "balanced": all classes get the same quota. "sqrt": a quota in proportion to the square root of
                their clips. Each class gets a place at least, if there are places for all.
        """
        _, counts = np.unique(labels, return_counts=True)
        rows = np.argsort(labels, kind="stable").astype(np.int32)
        quotas = _shares(counts.astype(np.float64) ** _EXPONENT[sampling], len(labels))
        return cls(tuple(quotas.tolist()), tuple(counts.tolist()), rows.tobytes())

    def samples(
        self, places: np.ndarray, epoch: int, order: Callable[[np.ndarray, int, int, int], np.ndarray]
    ) -> np.ndarray:
        """The rows at shuffled places of an epoch.

        Args:
            places: int64 [N], each in [0, number of rows), all different.
            epoch: counted from 0.
            order: (positions, size, class, turn) -> positions in the shuffled order of a class in a turn.
        """
        rows = np.frombuffer(self.rows, dtype=np.int32)
        quota_ends, count_ends = np.cumsum(self.quotas), np.cumsum(self.counts)
        classes = np.searchsorted(quota_ends, places, side="right")
        out = np.empty(len(places), dtype=np.int64)
        for one in np.unique(classes):
            mine = classes == one
            quota, count = self.quotas[one], self.counts[one]
            running = epoch * quota + places[mine] - (quota_ends[one] - quota)
            turns, positions = np.divmod(running, count)
            chosen = np.empty(len(running), dtype=np.int64)
            for turn in np.unique(turns):
                now = turns == turn
                chosen[now] = order(positions[now], count, int(one), int(turn))
            out[mine] = rows[count_ends[one] - count + chosen]
        return out


def _shares(weights: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers in proportion to `weights` that add up to `total`, by largest remainders; none is 0 if possible."""
    exact = weights / weights.sum() * total
    shares = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(shares - exact, kind="stable")
    shares[by_remainder[: total - shares.sum()]] += 1
    for empty in np.flatnonzero(shares == 0):
        if shares.max() > 1:
            shares[np.argmax(shares)] -= 1
            shares[empty] = 1
    return shares
