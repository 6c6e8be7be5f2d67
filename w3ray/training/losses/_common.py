"""What is the input of every loss, and how are losses added so that any split of a batch gives the same sum?"""

from typing import NamedTuple, Protocol

from torch import Tensor


class LossInputs(NamedTuple):
    """One microbatch, valid clips only. B clips, K classes (of all heads), T frames, C channels, H x W positions.

    `classes_BK`, bool, tells which classes multi-label clips have; then `labels_B` only numbers these sets of classes.
    It is None if each clip has one class.

    `features` are the model's last maps, one [B, T', C, H, W] for each path of the network. `teacher_features` has the
    shapes of `features` and no gradient. It is None if the stage has no teacher.
    """

    logits_BK: Tensor
    features: tuple[Tensor, ...]
    labels_B: Tensor
    teacher_features: tuple[Tensor, ...] | None = None
    classes_BK: Tensor | None = None


class Loss(Protocol):
    """A loss returns a float scalar: the SUM over the given clips, with frames averaged within each clip.

    A loss must not average over clips: the gradient would then depend on the split into microbatches and ranks. The
    training step divides by the number of valid clips in the whole global batch.

    With mixup or CutMix it is called twice, once for each of the two labels. A loss that reads no labels may set
    `reads_labels = False`; it is then called once.
    """

    needs_teacher: bool

    def __call__(self, inputs: LossInputs) -> Tensor: ...
