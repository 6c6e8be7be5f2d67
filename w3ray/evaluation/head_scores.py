"""What do the scores of a model with several heads say? With one head, all of this is what it is without heads.

Letters: B clips, S scores of all heads, K classes of one, P combinations of the heads' classes.
"""

import torch
from torch import Tensor

from w3ray.heads import Heads


def softmax_by_head(logits_BS: Tensor, heads: Heads) -> Tensor:
    """Scores whose part of each head adds up to 1; any shape, the scores last."""
    if not heads.several:
        return logits_BS.softmax(-1)
    return torch.cat([logits_BS[..., head.scores].softmax(-1) for head in heads.each()], -1)


def combined_scores(logits_BS: Tensor, heads: Heads) -> Tensor:
    """Logarithms of the combinations' scores, [B, P] in the order of labels: sums of the heads' log-softmax.

    A combination's score is the product of its classes' scores, as the EPIC-Kitchens challenge ranks actions.
    """
    combined_BP = logits_BS.new_zeros(len(logits_BS), 1)
    for head in heads.each():
        logarithms_BK = logits_BS[:, head.scores].log_softmax(1)
        combined_BP = (combined_BP[:, :, None] + logarithms_BK[:, None, :]).flatten(1)
    return combined_BP


def right_in_all_heads(logits_BS: Tensor, labels_B: Tensor, heads: Heads | None) -> Tensor:
    """bool [B]: whether the best class of every head is the label's; None: there is one head."""
    if heads is None or not heads.several:
        return logits_BS.argmax(1) == labels_B
    right_HB = [logits_BS[:, head.scores].argmax(1) == head.label(labels_B) for head in heads.each()]
    return torch.stack(right_HB).all(0)
