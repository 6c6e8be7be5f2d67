"""What does every loss see, and how are losses added up so that any split of a batch gives the same sum?"""

from typing import NamedTuple, Protocol

from torch import Tensor


class LossInputs(NamedTuple):
    """One microbatch, valid clips only.  B clips, K classes (of all heads),  T frames, C channels, H x W positions.

    `features` are the model's last maps, one [B, T', C, H, W] for each path of the network. `teacher_features` is None
    where the stage has no teacher; else it has the shapes of `features` and no gradient.
    """

    logits_BK: Tensor
    features: tuple[Tensor, ...]
    labels_B: Tensor
    teacher_features: tuple[Tensor, ...] | None = None


class Loss(Protocol):
    """A loss returns a float scalar: the SUM over the clips given, frames averaged within the clip.

    The training step divides by the number of valid clips in the whole global batch, which is why no loss may
    average over clips itself: the split into microbatches and ranks would then show in the gradient.
    """

    needs_teacher: bool

    def __call__(self, inputs: LossInputs) -> Tensor: ...
