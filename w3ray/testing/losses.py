"""The contract of losses."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from w3ray.testing._common import SEED, close, require

if TYPE_CHECKING:
    from torch import Tensor

    from w3ray.training.losses import LossInputs


def check_loss(name: str) -> None:
    """Check a loss of `w3ray.training.losses.LOSSES`: parts of a batch add up, and only the student gets gradients."""
    import torch

    from w3ray.training.losses import LOSSES

    kind = LOSSES[name]
    loss = kind()
    needs = getattr(loss, "needs_teacher", None)
    require(
        needs == kind.needs_teacher, f"needs_teacher is {needs} in the loss and {kind.needs_teacher} in its LossKind"
    )
    whole = _loss_inputs(5, torch.float64, teacher=kind.needs_teacher)
    value = loss(whole)
    require(value.shape == (), f"it must return one number, not a tensor of shape {tuple(value.shape)}")
    parts = torch.stack([loss(_rows(whole, rows)) for rows in ([0], [3, 1], [2, 4])]).sum()
    message = "the sum over parts of a batch is not the sum over the batch: add up clips, do not average them"
    tolerance = 1e-9 if value.dtype == torch.float64 else 1e-4  # it may compute in float32
    close(parts, value, message, rtol=tolerance, atol=tolerance)
    value.backward()
    learns = [one.grad for one in (whole.logits_BK, *whole.features) if one.grad is not None]
    require(learns, "neither scores nor features get a gradient")
    require(all(grad.isfinite().all() for grad in learns), "its gradient is not finite")
    if kind.needs_teacher:
        _check_teacher(loss)
    low = _loss_inputs(64, torch.bfloat16, teacher=kind.needs_teacher)
    high = _on_each(low, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    summed = loss(low)
    require(summed.dtype == torch.float32, f"the sum of bfloat16 inputs is {summed.dtype}: sum them in float32")
    close(summed, loss(high), "the sum of bfloat16 inputs has lost digits", rtol=1e-4, atol=1e-3)
    if value.dtype != torch.float64:
        return
    few = _loss_inputs(2, torch.float64, teacher=kind.needs_teacher)

    def of(logits_BK: "Tensor", *features: "Tensor") -> "Tensor":
        return loss(few._replace(logits_BK=logits_BK, features=features))

    right = torch.autograd.gradcheck(of, (few.logits_BK, *few.features), raise_exception=False)
    require(right, "its gradient is not the derivative of its value (torch.autograd.gradcheck)")


def _check_teacher(loss: Any) -> None:
    import torch

    whole = _loss_inputs(3, torch.float64, teacher=True)
    assert whole.teacher_features is not None
    teacher = tuple(one.clone().requires_grad_() for one in whole.teacher_features)
    loss(whole._replace(teacher_features=teacher)).backward()
    require(all(one.grad is None for one in teacher), "the teacher's features get a gradient")
    same = tuple(one.detach().clone().requires_grad_() for one in whole.teacher_features)
    value = loss(whole._replace(features=same))
    require(value.isfinite(), "it is not finite where student and teacher agree")
    if value.requires_grad:
        value.backward()
        finite = all(one.grad is None or one.grad.isfinite().all() for one in same)
        require(finite, "its gradient is not finite where student and teacher agree")


def _loss_inputs(num_clips: int, dtype: Any, *, teacher: bool) -> "LossInputs":
    import torch

    from w3ray.training.losses import LossInputs

    generator = torch.Generator().manual_seed(SEED)

    def drawn(*shape: int) -> "Tensor":
        return torch.randn(num_clips, *shape, generator=generator, dtype=torch.float64).to(dtype)

    logits_BK, features, theirs = drawn(5), drawn(2, 4, 3, 3), drawn(2, 4, 3, 3)
    labels_B = torch.randint(0, 5, (num_clips,), generator=generator)
    return LossInputs(
        logits_BK.requires_grad_(), (features.requires_grad_(),), labels_B, (theirs,) if teacher else None
    )


def _rows(inputs: "LossInputs", rows: list[int]) -> "LossInputs":
    return _on_each(inputs, lambda tensor: tensor[rows])


def _on_each(inputs: "LossInputs", change: "Callable[[Tensor], Tensor]") -> "LossInputs":
    return inputs._replace(
        logits_BK=change(inputs.logits_BK),
        features=tuple(map(change, inputs.features)),
        labels_B=change(inputs.labels_B),
        teacher_features=None if inputs.teacher_features is None else tuple(map(change, inputs.teacher_features)),
    )
