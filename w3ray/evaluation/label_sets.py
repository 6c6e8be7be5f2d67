"""Which classes does a multi-label clip have? Its label is the number of a set of classes (`w3ray.heads`).

Letters: B clips, K classes, L sets of classes.
"""

import torch
from torch import Tensor

from w3ray.heads import Heads


def classes_of_sets(heads: Heads, device: torch.device | str = "cpu") -> Tensor:
    """bool [L, K]: which classes each label stands for. Of clips with one label each: the identity matrix.

    Raises:
        ValueError: the clips have several heads.
    """
    if heads.several:
        raise ValueError(f"the heads {', '.join(heads.names)} have one class each, not sets of classes")
    if heads.label_sets is None:
        return torch.eye(heads.num_scores, dtype=torch.bool, device=device)
    rows = [row for row, labels in enumerate(heads.label_sets) for _ in labels]
    columns = [label for labels in heads.label_sets for label in labels]
    table_LK = torch.zeros(heads.num_labels, heads.num_scores, dtype=torch.bool)
    table_LK[rows, columns] = True
    return table_LK.to(device)


def best_is_a_class(logits_BK: Tensor, labels_B: Tensor, classes_LK: Tensor) -> Tensor:
    """bool [B]: whether the class with the best score is one of the clip's classes (Hit@1; Abu-El-Haija et al.,
    "YouTube-8M", arXiv:1609.08675, Sec. 4.3). A clip without a class is never a hit."""
    return classes_LK[labels_B].gather(1, logits_BK.argmax(1, keepdim=True)).squeeze(1)
