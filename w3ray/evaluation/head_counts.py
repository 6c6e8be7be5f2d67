"""How many clips were right in each head, and in all of them at once (an action: its verb and its noun)?

Letters: B clips, S scores of all heads, P combinations of their classes.
"""

from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor

from w3ray.evaluation.head_scores import combined_scores
from w3ray.evaluation.metrics import Counts
from w3ray.heads import Heads

_AT_ONCE = 1 << 24
"""The maximum number of combinations' scores in memory at once."""


class HeadCounts:
    """`Counts` of each head and of the heads' combinations. With one head: only its `Counts`.

    `combinations_3P` is int64 [3, P]: clips, top-1 hits and top-k hits of each combination. There is no confusion
    matrix of combinations, because there are too many.

    Args:
        heads: the heads that the scores and labels belong to.
        top, device: as in `Counts`.
        prior_P: of the combinations, as in `combined_scores`.
    """

    def __init__(
        self, heads: Heads, *, top: int = 5, device: torch.device | str = "cpu", prior_P: Tensor | None = None
    ) -> None:
        self.heads, self.top, self._prior_P = heads, top, prior_P
        self.parts = tuple(Counts(len(head.classes), top=top, device=device) for head in heads.each())
        combinations = heads.num_labels if heads.several else 0
        self.combinations_3P = torch.zeros(3, combinations, dtype=torch.int64, device=device)

    def update(self, logits_BS: Tensor, labels_B: Tensor, valid_B: Tensor | None = None) -> None:
        """Count a batch. Rows where `valid_B` is False are padding and are not counted.

        Raises:
            ValueError: the shapes do not fit.
        """
        if logits_BS.ndim != 2 or logits_BS.shape[1] != self.heads.num_scores:
            raise ValueError(f"need scores (B, {self.heads.num_scores}), got {tuple(logits_BS.shape)}")
        valid_B = torch.ones_like(labels_B, dtype=torch.bool) if valid_B is None else valid_B.bool()
        labels_B = torch.where(valid_B, labels_B.to(torch.int64), 0)
        for head, counts in zip(self.heads.each(), self.parts, strict=True):
            counts.update(logits_BS[:, head.scores], head.label(labels_B), valid_B)
        if self.heads.several:
            device = self.combinations_3P.device
            at_once = max(1, _AT_ONCE // self.heads.num_labels)
            rows = (logits_BS.to(device, torch.float64), labels_B.to(device), valid_B.to(device))
            for logits, labels, valid in zip(*(row.split(at_once) for row in rows), strict=True):
                self._count_combinations(logits, labels, valid)

    def _count_combinations(self, logits_BS: Tensor, labels_B: Tensor, valid_B: Tensor) -> None:
        finite_B = logits_BS.isfinite().all(1)
        scores_BP = combined_scores(torch.where(finite_B[:, None], logits_BS.detach(), 0.0), self.heads, self._prior_P)
        true_B1 = scores_BP.gather(1, labels_B[:, None])
        before_BP = torch.arange(scores_BP.shape[1], device=scores_BP.device) < labels_B[:, None]
        rank_B = ((scores_BP > true_B1) | ((scores_BP == true_B1) & before_BP)).sum(1)
        rows_B = valid_B.to(torch.int64)
        for row, counted_B in zip(
            self.combinations_3P,
            (rows_B, rows_B * (finite_B & (rank_B == 0)), rows_B * (finite_B & (rank_B < self.top))),
            strict=True,
        ):
            row.scatter_add_(0, labels_B, counted_B)

    def state(self) -> Tensor:
        """All counts as one int64 vector (a copy). Sum the states of several parts to get the state of all clips."""
        return torch.cat([*(counts.state() for counts in self.parts), self.combinations_3P.view(-1)])

    def load_state(self, state: Tensor) -> Self:
        """Load a vector from `state()`, or a sum of such vectors.

        Raises:
            ValueError: the vector belongs to other heads.
        """
        sizes = [*(counts.state().numel() for counts in self.parts), self.combinations_3P.numel()]
        if state.shape != (sum(sizes),) or state.dtype != torch.int64:
            raise ValueError(f"need int64 ({sum(sizes)},), got {state.dtype} {tuple(state.shape)}")
        *parts, combinations = state.split(sizes)
        for counts, part in zip(self.parts, parts, strict=True):
            counts.load_state(part)
        self.combinations_3P.copy_(combinations.view(3, -1) if combinations.numel() else self.combinations_3P)
        return self

    def all_reduce(self) -> Self:
        """Add up the counts of all ranks, in one reduction. Outside torch.distributed this does nothing."""
        if dist.is_available() and dist.is_initialized():
            state = self.state()
            dist.all_reduce(state)
            self.load_state(state)
        return self

    @property
    def rows(self) -> int:
        """Number of counted clips."""
        return self.parts[0].rows

    @property
    def not_finite(self) -> int:
        """Number of clips with scores that are not finite, in the head that has the most of them."""
        return max(counts.not_finite for counts in self.parts)

    def result(self) -> dict[str, float | int]:
        """With one head: its `Counts.result`.

        With several heads: `top1`, `top5` and `mean_class_accuracy` are those of the combinations, `loss` is the sum
        over the heads, and the names of each head's own results begin with the head's name: `verb_top1`.

        Raises:
            ValueError: nothing was counted.
        """
        if not self.heads.several:
            return self.parts[0].result()
        by_head = {head: counts.result() for head, counts in zip(self.heads.each(), self.parts, strict=True)}
        rows_P, hits_P, top_hits_P = self.combinations_3P
        present_P = rows_P > 0
        result: dict[str, float | int] = {
            "top1": int(hits_P.sum()) / self.rows,
            f"top{self.top}": int(top_hits_P.sum()) / self.rows,
            "mean_class_accuracy": float((hits_P[present_P].double() / rows_P[present_P].double()).mean()),
            "loss": sum(one["loss"] for one in by_head.values()),
            "rows": self.rows,
        }
        for head, one in by_head.items():
            result |= {head.metric(name): value for name, value in one.items() if name != "rows"}
        return result
