"""How is a stage trained?"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from w3ray.recipe._marks import AsBefore, Decides, Section
from w3ray.recipe.sections._known import known_in


class LrSchedule(Section):
    """How the learning rate changes over the epochs of a stage."""

    kind: Literal["step", "cosine", "constant"] = Field(default="step", description="shape after the warm-up")
    warmup_epochs: float = Field(default=0, ge=0, description="epochs of linear increase from near 0")
    milestones: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(20, 40), description="step: epochs at which the rate drops"
    )
    gamma: float = Field(default=0.1, gt=0, le=1, description="step: factor at each milestone")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must increase, got {list(self.milestones)}")
        return self


class Phase(Section):
    """Optimiser settings from an epoch on. null: the setting does not change."""

    from_epoch: int = Field(ge=1, description="number of epochs before the phase begins")
    lr: float | None = Field(default=None, gt=0, description="as `train.lr`; the schedule keeps its shape")
    momentum: float | None = Field(default=None, ge=0, lt=1, description="as `train.momentum`")
    weight_decay: float | None = Field(default=None, ge=0, description="as `train.weight_decay`")
    freeze: Annotated[tuple[str, ...] | None, AsBefore(None)] = Field(
        default=None, description="as `train.freeze`; []: everything is trained"
    )


class EarlyStopping(Section):
    """When a training ends before its last epoch. The rates of the schedule stay those of all epochs."""

    patience: int = Field(ge=1, description="validations without improvement after which the training stops")
    metric: Literal["top1", "top5", "mean_class_accuracy", "map", "loss"] = Field(
        default="top1", description="validation metric that has to improve; of multi-label clips, top1 stands for map"
    )
    min_delta: float = Field(default=0.0, ge=0, description="a smaller improvement counts as none")


class Mix(Section):
    """Mixup and CutMix: each clip is mixed with another one of its microbatch (`w3ray.training.mixing`)."""

    mixup_alpha: float = Field(default=0.8, ge=0, description="mixup: alpha of its Beta distribution; 0: no mixup")
    cutmix_alpha: float = Field(default=1.0, ge=0, description="CutMix: alpha of its Beta distribution; 0: no CutMix")
    probability: float = Field(default=1.0, ge=0, le=1, description="share of the microbatches that are mixed")
    cutmix_share: float = Field(
        default=0.5, ge=0, le=1, description="with both: share of the mixed microbatches that get CutMix"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mixup_alpha == 0 and self.cutmix_alpha == 0:
            raise ValueError("mixup_alpha and cutmix_alpha are both 0, so nothing is mixed; set mix to null instead")
        return self


class Train(Section):
    """How a stage is trained. The defaults are TSM's recipe, which the W3 paper follows."""

    epochs: int = Field(default=50, ge=1, description="passes over the training split")
    batch_size: int = Field(default=64, ge=1, description="clips of one optimiser step, over all workers")
    microbatch_size: int = Field(default=8, ge=1, description="clips of one forward and backward pass on one worker")
    rows_together: int = Field(
        default=1,
        ge=1,
        description="number of neighbouring training rows of one clip that share a microbatch, random frames and crop; "
        "2: a clip and its reversed twin",
    )
    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="optimiser")
    lr: float = Field(default=0.01, gt=0, description="learning rate for a global batch of `lr_batch_size`")
    lr_batch_size: int = Field(default=64, ge=1, description="clips; the rate is scaled by batch_size / lr_batch_size")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="SGD momentum")
    weight_decay: float = Field(default=5e-4, ge=0, description="L2 decay of weights, not of biases and norms")
    schedule: LrSchedule = Field(default=LrSchedule(), description="learning rate over time")
    phases: Annotated[tuple[Phase, ...], AsBefore(())] = Field(
        default=(), description="other optimiser settings from an epoch on; population based training writes them"
    )
    clip_grad_norm: float | None = Field(default=20.0, gt=0, description="maximum norm of the gradient; null: no limit")
    precision: Literal["fp32", "bf16", "fp16", "auto"] = Field(
        default="fp32",
        description="arithmetic of the forward pass; auto: bf16 if the GPUs of the cluster are known to have it, else "
        "fp32",
    )
    tf32: Annotated[bool | None, AsBefore(None)] = Field(
        default=None,
        description="fp32 on a GPU uses TF32, which is faster and less exact: true: in convolutions and matrix "
        "products; false: never; null: as torch does, in convolutions only",
    )
    compile: Annotated[bool, AsBefore(False)] = Field(
        default=False,
        description="compile the network with torch.compile: the first step takes long, later ones less",
    )
    triton: Annotated[bool, AsBefore(False)] = Field(
        default=False, description="W3 pools and gates in Triton kernels on a GPU, which read the features less often"
    )
    channels_last: Annotated[bool, AsBefore(False)] = Field(
        default=False, description="keep the weights of convolutions with the channels last, as the frames are"
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="share of probability spread over all classes")
    mix: Annotated[Mix | None, AsBefore(None)] = Field(
        default=None, description="mixup and CutMix within each microbatch; null: clips stay apart"
    )
    stochastic_depth: Annotated[float, AsBefore(0.0)] = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="residual networks: share of the clips that skip the last residual block in training; earlier "
        "blocks are skipped less often",
    )
    repeated_augmentation: Annotated[int, AsBefore(1)] = Field(
        default=1,
        ge=1,
        description="number of times that a clip is in a microbatch, with the same frames and other crops and "
        "augmentations; decoded once",
    )
    sampling: Annotated[Literal["shuffle", "balanced", "sqrt"], AsBefore("shuffle")] = Field(
        default="shuffle",
        description="clips of an epoch; shuffle: each clip once; balanced: as many of each class; sqrt: rare classes "
        "more often, but not as often",
    )
    class_weights: Annotated[Literal["balanced", "effective"] | None, AsBefore(None)] = Field(
        default=None,
        description="weights of the clips in the cross-entropy; balanced: all classes weigh the same; effective: rare "
        "classes weigh more, but not as much; null: all clips weigh the same",
    )
    focal_gamma: Annotated[float, AsBefore(0.0)] = Field(
        default=0.0, ge=0, description="focal loss: how much less clips count that are right already; 0: not at all"
    )
    logit_adjustment: Annotated[float, AsBefore(0.0)] = Field(
        default=0.0,
        ge=0,
        description="what the scores in training know of how frequent classes are, so that the network need not learn "
        "it; 1: all; 0: nothing",
    )
    batch_norm: Literal["train", "partial", "frozen", "sync"] = Field(
        default="train",
        description="train: statistics of each worker's microbatch; partial: only the first layer learns; "
        "frozen: none; sync: statistics over all workers",
    )
    classifier_weight_multiplier: float = Field(
        default=5.0, gt=0, description="learning rate factor, classifier weight"
    )
    classifier_bias_multiplier: float = Field(default=10.0, gt=0, description="learning rate factor, classifier bias")
    attention_lr_multiplier: Annotated[float, AsBefore(1.0)] = Field(
        default=1.0,
        gt=0,
        description="learning rate factor of the attention's parameters, multiplied with bias factors",
    )
    bias_multiplier: float = Field(default=2.0, gt=0, description="learning rate factor, other biases")
    layer_decay: Annotated[float, AsBefore(1.0)] = Field(
        default=1.0,
        gt=0,
        le=1,
        description="learning rate factor for each stage of the network from the head down (layer-wise learning-rate "
        "decay)",
    )
    early_stopping: Annotated[EarlyStopping | None, AsBefore(None)] = Field(
        default=None, description="stop when validations no longer improve; null: train all epochs"
    )
    ema_decay: Annotated[float | None, AsBefore(None)] = Field(
        default=None,
        gt=0,
        lt=1,
        description="keep an exponential moving average of the weights, with this decay per step; the average is "
        "validated, and becomes the model; null: none",
    )
    freeze: Annotated[tuple[str, ...], AsBefore(())] = Field(
        default=(),
        description="parts that are not trained: stem, stage1, stage2, ..., head, or names of modules and parameters "
        "with *; `phases` change it",
    )
    validate_every_epochs: Annotated[int, Decides.CHECKPOINTS] = Field(
        default=1, ge=1, description="epochs between validations; the last epoch always has one"
    )
    checkpoint_every_epochs: Annotated[int, Decides.NOTHING] = Field(
        default=1, ge=1, description="epochs between checkpoints"
    )
    checkpoint_every_steps: Annotated[int | None, Decides.NOTHING] = Field(
        default=None, ge=1, description="optimiser steps between additional checkpoints"
    )
    keep_checkpoints: Annotated[int, Decides.NOTHING] = Field(
        default=2, ge=1, description="number of newest checkpoints to keep, besides the best"
    )
    best_metric: Literal["top1", "top5", "mean_class_accuracy", "map", "last"] = Field(
        default="top1",
        description="validation metric that chooses the best checkpoint; of multi-label clips, top1 stands for map",
    )
    log_every_steps: Annotated[int, Decides.NOTHING] = Field(
        default=5, ge=1, description="optimiser steps between two points of the training curves"
    )
    log_samples: Annotated[bool, Decides.NOTHING] = Field(
        default=False, description="write samples-<rank>.jsonl in the stage's folder: the content of each microbatch"
    )

    callbacks: Annotated[tuple[Annotated[str, known_in("callback", "callbacks")], ...], Decides.NOTHING] = Field(
        default=(), description="plugins that watch each step or validation from inside the first worker"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.microbatch_size > self.batch_size:
            raise ValueError(
                f"microbatch_size {self.microbatch_size} is larger than batch_size {self.batch_size}; "
                "lower microbatch_size or raise batch_size"
            )
        if self.compile and self.batch_norm == "sync":
            raise ValueError("compile does not work with batch_norm=sync, which exchanges statistics in each layer")
        if self.sampling != "shuffle" and self.rows_together > 1:
            raise ValueError(f"sampling={self.sampling} cannot keep rows together; set rows_together to 1")
        if self.sampling != "shuffle" and (self.class_weights is not None or self.logit_adjustment > 0):
            raise ValueError(
                f"sampling={self.sampling} balances the classes already, and class_weights and logit_adjustment would "
                "do it again; use one of them"
            )
        if self.mix is not None and self.microbatch_size < 2:
            raise ValueError("mix needs two clips in a microbatch; set microbatch_size to 2 or more")
        if self.repeated_augmentation > 1:
            self._check_repeats()
        if self.compile and self.triton:
            raise ValueError("compile and triton both replace the passes of attention; use one of them")
        begins = [phase.from_epoch for phase in self.phases]
        if begins != sorted(set(begins)) or any(begin >= self.epochs for begin in begins):
            raise ValueError(f"phases must begin at increasing epochs below epochs={self.epochs}, got {begins}")
        return self

    def _check_repeats(self) -> None:
        repeats = self.repeated_augmentation
        if self.rows_together > 1 or self.sampling != "shuffle":
            raise ValueError(
                f"repeated_augmentation={repeats} does not work with rows_together or sampling, which also decide the "
                "order; set rows_together=1 and sampling=shuffle"
            )
        if self.batch_size % repeats or self.microbatch_size % repeats:
            raise ValueError(
                f"repeated_augmentation={repeats} must divide batch_size {self.batch_size} and microbatch_size "
                f"{self.microbatch_size}, because a clip is decoded once for its microbatch"
            )

    def at_epoch(self, epoch: int) -> "Train":
        """The settings of an epoch, counted from 0, with the phases applied."""
        values: dict[str, Any] = {}
        for phase in self.phases:
            if phase.from_epoch <= epoch:
                values |= phase.model_dump(exclude={"from_epoch"}, exclude_none=True)
        return self.model_copy(update=values)
