"""How far are the student's last feature maps from its teacher's? Mature-feature regularisation (W3 paper, Eq. 9)."""

import torch
from torch import Tensor

from w3ray.training.losses._common import LossInputs


class MatureFeatures:
    """L_fm = || y_i^Q - y_i^P ||_2 for frame i, mean over the frames of a clip, summed over clips.

    y are the last feature maps after the refinement of Eq. 8, Q the student, P the frozen teacher. The norm runs over
    C x H x W and is not squared, as in Eq. 9; its gradient has length 1 whatever the distance, and is taken as 0 at
    zero difference, where it is undefined.
    """

    needs_teacher = True

    def __call__(self, inputs: LossInputs) -> Tensor:
        student_BTCHW, teacher_BTCHW = inputs.features_BTCHW, inputs.teacher_features_BTCHW
        if teacher_BTCHW is None:
            raise ValueError("the mfr loss needs the teacher's features: give the training step a teacher")
        if teacher_BTCHW.shape != student_BTCHW.shape:
            raise ValueError(
                f"the mfr loss compares equal architectures (Eq. 9): the student's features are "
                f"{tuple(student_BTCHW.shape)}, the teacher's {tuple(teacher_BTCHW.shape)}"
            )
        dtype = torch.promote_types(student_BTCHW.dtype, torch.float32)
        difference_BTX = (student_BTCHW.to(dtype) - teacher_BTCHW.detach().to(dtype)).flatten(2)
        # vector_norm's derivative is masked to 0 where the norm is 0; sqrt of a sum of squares would give nan there.
        return torch.linalg.vector_norm(difference_BTX, dim=2).mean(dim=1).sum()
