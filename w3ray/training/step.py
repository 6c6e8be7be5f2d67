"""How does one global batch become one update of the parameters, with any split into microbatches and ranks?

Pure torch, without Ray, MLflow or recipes. One update is

    for slot, (clips, labels, valid) in enumerate(microbatches of this rank):
        step.accumulate(clips, labels, valid, normalizer=..., seed=..., last=slot is the last one)
    result = step.update(lr)
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from w3ray.evaluation.head_scores import right_in_all_heads
from w3ray.evaluation.label_sets import best_is_a_class, classes_of_sets
from w3ray.evaluation.normalize import IMAGENET_MEAN, IMAGENET_STD, normalize_clips
from w3ray.heads import Heads
from w3ray.models.side_inputs import chosen
from w3ray.training.batch_norm import rows_hidden_from_batch_norm
from w3ray.training.losses import Loss, LossInputs, build_losses
from w3ray.training.losses.uneven import Uneven
from w3ray.training.mixing import Mixed, Mixing
from w3ray.training.on_gpu import without_compiler
from w3ray.training.optimizer import set_lr

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "PRECISIONS", "Precision", "StepResult", "TrainingStep", "normalize_clips"]

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
_AUTOCAST_DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16}


class StepResult(NamedTuple):
    """The result of one update on THIS rank. Tensors stay on the device, so the caller decides when to wait for them.

    `loss_sums`: loss name -> unweighted sum over this rank's valid clips. `correct`: number of valid clips with the
    right best score (with several heads: right in all of them; multi-label: the best score is of one of the clip's
    classes). `grad_norm`: norm of the global gradient before
    clipping, the same on every rank; if it is not finite, do not trust the update. `grad_norms`: norms of the parts
    that were requested. `updated`: False if the whole step had no valid clip.
    """

    loss_sums: dict[str, Tensor]
    correct: Tensor
    num_valid: int
    grad_norm: Tensor
    updated: bool
    grad_norms: Mapping[int, Tensor]


class TrainingStep:
    """Accumulates gradients over microbatches, then updates.

    Args:
        model: the student, plain, compiled (`w3ray.training.on_gpu`), or one of both wrapped in
            DistributedDataParallel. It returns an object with `logits_BK` and `features`.
        optimizer: for the model's parameters; see `parameter_groups`.
        loss_weights: loss name -> weight, for example {"cross_entropy": 1, "mfr": 0.5}.
        teacher: "mfr" needs one. It is put in eval mode, never trained, and run only if a loss needs it.
        precision: autocast type of the forward pass. "fp16" scales the loss (torch's GradScaler).
        clip_grad_norm: upper bound for the norm of the global gradient. None: no clipping.
        label_smoothing: label smoothing of the cross-entropy.
        uneven: what the cross-entropy does about classes with few clips.
        mixing: mixes the clips of a microbatch (mixup, CutMix). None: clips stay apart.
        heads: the heads that the model's scores and the labels belong to. None: one head.
        mean, std: mean and standard deviation of the pixels in [0, 1].

    Raises:
        ValueError: unknown precision or loss, or a loss needs a teacher and there is none.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        optimizer: torch.optim.Optimizer,
        loss_weights: Mapping[str, float],
        teacher: nn.Module | None = None,
        precision: Precision = "fp32",
        clip_grad_norm: float | None = 20.0,
        label_smoothing: float = 0.0,
        uneven: Uneven | None = None,
        mixing: Mixing | None = None,
        heads: Heads | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"unknown precision {precision!r}: known are {', '.join(PRECISIONS)}")
        if clip_grad_norm is not None and not clip_grad_norm > 0:
            raise ValueError(f"clip_grad_norm must be above 0 or None, got {clip_grad_norm}")
        self.model = model
        self.optimizer = optimizer
        self.losses = build_losses(loss_weights, label_smoothing=label_smoothing, heads=heads, uneven=uneven)
        self.heads, self.mixing = heads, mixing
        self.clip_grad_norm = clip_grad_norm
        self.precision = precision
        self.mean, self.std = tuple(mean), tuple(std)
        first = next(model.parameters())
        self.device, self._dtype = first.device, first.dtype
        needs_teacher = [name for name, (_, loss) in self.losses.items() if loss.needs_teacher]
        if needs_teacher and teacher is None:
            raise ValueError(f"loss {needs_teacher[0]!r} needs a teacher: pass one, or set the weight to 0")
        self._classes_LK = classes_of_sets(heads, self.device) if heads is not None and heads.multi_label else None
        self.teacher = teacher.eval().requires_grad_(False) if teacher is not None and needs_teacher else None
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        self._trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._reset()

    def _reset(self) -> None:
        self._sums = {name: torch.zeros((), device=self.device, dtype=torch.float64) for name in self.losses}
        self._correct = torch.zeros((), device=self.device, dtype=torch.int64)
        self._num_valid = 0
        self._normalizer: float | None = None

    def prepare(self, clips_u8_BTHWC: Tensor) -> Tensor:
        """Convert uint8 frames on any device to the model's input (B, T, C, H, W) on the model's device."""
        clips = clips_u8_BTHWC.to(self.device, non_blocking=True)
        return normalize_clips(clips, mean=self.mean, std=self.std, dtype=self._dtype)

    def accumulate(
        self,
        clips_u8_BTHWC: Tensor,
        labels_B: Tensor,
        valid_B: Tensor,
        *,
        normalizer: float,
        world_size: int = 1,
        seed: int,
        last: bool,
        extras: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Run forward and backward of one microbatch. Nothing waits for the device if `valid_B` is on the CPU.

        Invalid rows are removed before the forward pass, so they affect neither the loss nor a batch norm. Under DDP, a
        microbatch without a valid row still runs a blank clip, because the other ranks wait for this one.

        Args:
            normalizer: number of valid clips of the whole step, over all microbatches and ranks. It must be the same on
                every rank and in every call of the step. With 0 the step makes no update.
            world_size: number of ranks. DDP averages the gradient over them; this factor turns the mean into the sum.
            seed: for the dropout of this microbatch; make it with `microbatch_seed(seed, step, slot)`.
            last: whether this is the last microbatch of this step on this rank. DDP reduces in its backward pass.
            extras: side inputs of the clips by name, [B, ...] each. A model gets those that it names.

        Raises:
            ValueError: the normalizer is negative, changes within the step, or is smaller than the number of rows seen.
        """
        rows = valid_B.to("cpu", torch.bool).nonzero().squeeze(1)
        self._check_normalizer(normalizer, rows.numel())
        self.model.train()
        torch.manual_seed(seed)
        whole = rows.numel() == valid_B.numel()
        with self._reduction(last), nullcontext() if whole else without_compiler(self.model):
            if rows.numel() == 0:
                self._take_part(clips_u8_BTHWC, extras or {})
                return
            if not whole:
                clips_u8_BTHWC = clips_u8_BTHWC[rows.to(clips_u8_BTHWC.device)]
                labels_B = labels_B[rows.to(labels_B.device)]
                extras = {name: values[rows.to(values.device)] for name, values in (extras or {}).items()}
            x_BTCHW = self.prepare(clips_u8_BTHWC)
            labels_B = labels_B.to(self.device, torch.int64, non_blocking=True)
            total = self._weighted_losses(x_BTCHW, labels_B, extras or {})
            self._scaler.scale(total * (world_size / normalizer)).backward()
        self._num_valid += rows.numel()

    def _weighted_losses(self, x_BTCHW: Tensor, labels_B: Tensor, extras: Mapping[str, Tensor]) -> Tensor:
        teacher_features = None
        mixed = None if self.mixing is None else self.mixing(x_BTCHW, labels_B)
        if mixed is not None:
            x_BTCHW, labels_B = mixed.clips_BTCHW, mixed.labels_B
        with self.autocast():
            if self.teacher is not None:
                with torch.no_grad():
                    teacher_features = self.teacher(x_BTCHW, **chosen(self.teacher, extras, self.device)).features
            output = self.model(x_BTCHW, **chosen(self.model, extras, self.device))
        classes_BK = self._classes_of(labels_B)
        inputs = LossInputs(output.logits_BK, output.features, labels_B, teacher_features, classes_BK)
        sums = {name: self._loss_of(loss, inputs, mixed) for name, (_, loss) in self.losses.items()}
        for name, value in sums.items():
            self._sums[name] += value.detach()
        shown_B = labels_B if mixed is None else mixed.main_labels_B
        self._correct += self._right(output.logits_BK.detach(), shown_B).sum()
        return torch.stack([weight * sums[name] for name, (weight, _) in self.losses.items()]).sum()

    def _right(self, logits_BK: Tensor, labels_B: Tensor) -> Tensor:
        if self._classes_LK is not None:
            return best_is_a_class(logits_BK, labels_B, self._classes_LK)
        return right_in_all_heads(logits_BK, labels_B, self.heads)

    def _classes_of(self, labels_B: Tensor) -> Tensor | None:
        return None if self._classes_LK is None else self._classes_LK[labels_B]

    def _loss_of(self, loss: Loss, inputs: LossInputs, mixed: Mixed | None) -> Tensor:
        value = loss(inputs)
        if mixed is None or not getattr(loss, "reads_labels", True):
            return value
        others = inputs._replace(labels_B=mixed.others_B, classes_BK=self._classes_of(mixed.others_B))
        return mixed.share * value + (1 - mixed.share) * loss(others)

    def _take_part(self, clips_u8_BTHWC: Tensor, extras: Mapping[str, Tensor]) -> None:
        """Join the collectives of the other ranks (buffers, synced batch norm, gradient reduction) with gradient 0."""
        if not isinstance(self.model, DistributedDataParallel):
            return
        blank = torch.zeros_like(clips_u8_BTHWC[:1])
        none = {name: torch.zeros_like(values[:1]) for name, values in extras.items()}
        with rows_hidden_from_batch_norm(self.model):
            with self.autocast():
                output = self.model(self.prepare(blank), **chosen(self.model, none, self.device))
            nothing = output.logits_BK.float().sum() * 0.0
            if any(loss.needs_teacher for _, loss in self.losses.values()):
                nothing = nothing + sum(map_BTCHW.float().sum() for map_BTCHW in output.features) * 0.0
            self._scaler.scale(nothing).backward()

    def update(self, lr: float, norms_of: Mapping[int, Sequence[nn.Parameter]] | None = None) -> StepResult:
        """Clip the gradient, update the parameters with base learning rate `lr`, and drop the gradients.

        Args:
            norms_of: part number -> parameters. The gradient norm of each part is returned.

        Raises:
            RuntimeError: no microbatch was accumulated since the last update.
        """
        if self._normalizer is None:
            raise RuntimeError("update() before accumulate(): there is no gradient")
        set_lr(self.optimizer, lr)
        updated = self._normalizer > 0
        grad_norm = torch.zeros((), device=self.device)
        grad_norms: dict[int, Tensor] = {}
        if updated:
            self._scaler.unscale_(self.optimizer)
            grad_norms = {part: _grad_norm(parameters) for part, parameters in (norms_of or {}).items()}
            grad_norm = _grad_norm(self._trained)
            if self.clip_grad_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(self._trained, self.clip_grad_norm, grad_norm)
            self._scaler.step(self.optimizer)
            self._scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        result = StepResult(self._sums, self._correct, self._num_valid, grad_norm, updated, grad_norms)
        self._reset()
        return result

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs besides model and optimizer, as JSON values: precision and the loss scale of fp16."""
        return {"precision": self.precision, "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state from `state_dict()`.

        Raises:
            ValueError: the state was saved with another precision.
        """
        if state["precision"] != self.precision:
            raise ValueError(f"saved with precision {state['precision']!r}, but this step has {self.precision!r}")
        if self.precision == "fp16":
            self._scaler.load_state_dict(dict(state["scaler"]))

    def _check_normalizer(self, normalizer: float, num_rows: int) -> None:
        if self._normalizer is not None and normalizer != self._normalizer:
            raise ValueError(f"normalizer changed within a step: {self._normalizer}, then {normalizer}")
        if normalizer < self._num_valid + num_rows:
            raise ValueError(
                f"normalizer {normalizer} must count all valid clips of the step, but this rank alone had "
                f"{self._num_valid + num_rows}"
            )
        self._normalizer = normalizer

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which forward passes run, in training and in validation."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_AUTOCAST_DTYPE[self.precision])

    def _reduction(self, last: bool) -> AbstractContextManager[Any]:
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return nullcontext()


def _grad_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    return torch.nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
