"""What do the scores of a model with several heads mean? With one head, every function here is the plain one.

Letters: B clips, S scores of all heads, K classes of one head, P combinations of the heads' classes.
"""

import torch
from torch import Tensor

from w3ray.heads import Heads


def scores_of_logits(logits_BS: Tensor, heads: Heads) -> Tensor:
    """Softmax of each head's part of the scores; of multi-label models, the sigmoid of each score.

    Any shape; the last axis holds the scores.
    """
    if heads.multi_label:
        # As with softmax, an infinite logit gives nan: the sigmoid alone would give a score that looks certain.
        return logits_BS.sigmoid() + 0 * logits_BS
    if not heads.several:
        return logits_BS.softmax(-1)
    return torch.cat([logits_BS[..., head.scores].softmax(-1) for head in heads.each()], -1)


def combined_scores(logits_BS: Tensor, heads: Heads, prior_P: Tensor | None = None) -> Tensor:
    """Logarithms of the scores of the combinations, [B, P] in the order of labels: sums of the heads' log-softmax.

    The score of a combination is the product of the scores of its classes, as in the EPIC-Kitchens challenge.

    Args:
        logits_BS: scores before softmax.
        heads: the heads.
        prior_P: is added: logarithms of how frequent the combinations are. None: all are.
    """
    combined_BP = logits_BS.new_zeros(len(logits_BS), 1)
    for head in heads.each():
        logarithms_BK = logits_BS[:, head.scores].log_softmax(1)
        combined_BP = (combined_BP[:, :, None] + logarithms_BK[:, None, :]).flatten(1)
    return combined_BP if prior_P is None else combined_BP + prior_P


def right_in_all_heads(logits_BS: Tensor, labels_B: Tensor, heads: Heads | None) -> Tensor:
    """bool [B]: whether the best class of every head is the label's class. `heads` None means one head.

    Not for multi-label clips: see `w3ray.evaluation.label_sets.best_is_a_class`.
    """
    if heads is None or not heads.several:
        return logits_BS.argmax(1) == labels_B
    right_HB = [logits_BS[:, head.scores].argmax(1) == head.label(labels_B) for head in heads.each()]
    return torch.stack(right_HB).all(0)
