"""How far are the student's last feature maps from the teacher's? Mature-feature regularisation (W3 paper, Eq. 9)."""

import torch
from torch import Tensor

from w3ray.training.losses._common import LossInputs


class MatureFeatures:
    """L_fm = || y_i^Q - y_i^P ||_2 for frame i, mean over the frames of a clip, summed over clips.

    y are the last feature maps after the refinement of Eq. 8, Q is the student, P the frozen teacher. The norm is over
    C x H x W and is not squared, as in Eq. 9. Its gradient has length 1 at any distance; at zero difference it is
    undefined, and 0 is used. For the sum over the T frames instead of the mean, multiply the weight by T. For a network
    with several last maps, the loss is the mean of their norms. This is our decision: the paper has no such network.
    """

    needs_teacher = True
    reads_labels = False

    def __call__(self, inputs: LossInputs) -> Tensor:
        if inputs.teacher_features is None:
            raise ValueError("the mfr losses need the teacher's features: pass a teacher to the training step")
        ours, theirs = ([tuple(one.shape) for one in maps] for maps in (inputs.features, inputs.teacher_features))
        if ours != theirs:
            raise ValueError(
                f"the mfr losses need equal architectures (Eq. 9), but the student's features are {_listed(ours)} and "
                f"the teacher's are {_listed(theirs)}"
            )
        pairs = zip(inputs.features, inputs.teacher_features, strict=True)
        return torch.stack([self._between(*pair) for pair in pairs]).mean()

    def _between(self, student_BTCHW: Tensor, teacher_BTCHW: Tensor) -> Tensor:
        dtype = torch.promote_types(student_BTCHW.dtype, torch.float32)
        difference_BTCHW = student_BTCHW.to(dtype) - teacher_BTCHW.detach().to(dtype)
        return self._distance(difference_BTCHW).mean(dim=1).sum()

    def _distance(self, difference_BTCHW: Tensor) -> Tensor:
        """Distance between the maps of each frame, [B, T]."""
        # The derivative of vector_norm is 0 where the norm is 0. A sqrt of a sum of squares would give nan there.
        return torch.linalg.vector_norm(difference_BTCHW.flatten(2), dim=2)


def _listed(shapes: list[tuple[int, ...]]) -> str:
    return " and ".join(map(str, shapes))


class SquaredMatureFeatures(MatureFeatures):
    """Eq. 9 with the squared norm: the gradient shrinks as the student gets closer. Not in the paper."""

    def _distance(self, difference_BTCHW: Tensor) -> Tensor:
        return difference_BTCHW.flatten(2).square().sum(dim=2)


class PooledMatureFeatures(MatureFeatures):
    """Eq. 9 for the maps' means over H x W, which are the classifier's input. Not in the paper."""

    def _distance(self, difference_BTCHW: Tensor) -> Tensor:
        return torch.linalg.vector_norm(difference_BTCHW.mean(dim=(3, 4)), dim=2)
