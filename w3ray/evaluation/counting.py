"""What counts the scored clips of a split? That depends on whether a clip has one class of each head, or any number."""

from collections.abc import Sequence

import torch

from w3ray.evaluation.head_counts import HeadCounts
from w3ray.evaluation.multi_label import MultiLabelCounts
from w3ray.heads import Heads

SplitCounts = HeadCounts | MultiLabelCounts


def counts_for(heads: Heads, device: torch.device | str = "cpu") -> SplitCounts:
    """Counts of no clips yet."""
    return MultiLabelCounts(heads, device=device) if heads.multi_label else HeadCounts(heads, device=device)


def loaded_counts(heads: Heads, state: Sequence[float]) -> SplitCounts:
    """The counts of which `state` is the list of `counts.state()`."""
    counts = counts_for(heads)
    return counts.load_state(torch.tensor(state, dtype=counts.state().dtype))
