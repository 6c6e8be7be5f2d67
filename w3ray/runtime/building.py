"""Makes the network, the optimizer and the learning rate of each step from a stage's settings."""

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from w3ray.data.schedule import Schedule
from w3ray.models import build_model
from w3ray.models._common import VideoModel
from w3ray.models.pixels import Pixels
from w3ray.models.stochastic_depth import set_stochastic_depth
from w3ray.recipe import Train
from w3ray.runtime.event_channel import Sender
from w3ray.runtime.explained import ClipPictures
from w3ray.runtime.ranks import Ranks
from w3ray.runtime.stage_spec import StageSpec
from w3ray.training.batch_norm import apply_batch_norm_mode
from w3ray.training.early_stopping import Patience
from w3ray.training.freeze import depths
from w3ray.training.losses.uneven import Uneven
from w3ray.training.lr_schedule import lr_factor
from w3ray.training.mixing import Mixing
from w3ray.training.on_gpu import compiled, weights_channels_last
from w3ray.training.optimizer import build_optimizer, parameter_groups, scaled_lr
from w3ray.training.randomness import microbatch_seed
from w3ray.training.step import Precision, TrainingStep


def build_network(stage: StageSpec, device: torch.device) -> VideoModel:
    """The stage's network with its initial weights, which depend only on the stage's seed."""
    torch.manual_seed(microbatch_seed(stage.seed, "init"))
    model = build_model(**stage.model).to(device)
    apply_batch_norm_mode(model, stage.train.batch_norm)
    set_stochastic_depth(model, stage.train.stochastic_depth)
    if stage.train.channels_last:
        weights_channels_last(model)
    return model


def prepared_teacher(teacher: nn.Module, train: Train, device: torch.device) -> nn.Module:
    """The teacher on the device, in the form in which a stage with these settings runs it."""
    teacher = teacher.to(device)
    if train.channels_last:
        weights_channels_last(teacher)
    return compiled(teacher) if train.compile else teacher


def precision_of(train: Train) -> Precision:
    """The arithmetic of a stage, which the driver has chosen if the recipe leaves it open (`w3ray.pipeline.precision`).

    Raises:
        RuntimeError: it was not chosen.
    """
    if train.precision == "auto":
        raise RuntimeError("train.precision is 'auto': the driver must choose before a stage starts")
    return train.precision


def patience_of(train: Train) -> Patience | None:
    """When the stage's training stops early; None: it does not."""
    options = train.early_stopping
    return None if options is None else Patience(options.patience, options.metric, options.min_delta)


def clip_pictures(stage: StageSpec, events: Sender) -> ClipPictures:
    """Draws the stage's chosen clips."""
    return ClipPictures(
        stage.explained,
        spec=stage.stream.clip,
        stage=stage.name,
        heads=stage.heads,
        roots=stage.stream.roots,
        decode_timeout_s=stage.stream.clip_timeout_s,
        events=events,
        plugins=stage.stream.plugins,
    )


def uneven_of(stage: StageSpec) -> Uneven:
    """What the stage's cross-entropy does about classes with few clips."""
    train = stage.train
    return Uneven(
        class_weights=train.class_weights,
        focal_gamma=train.focal_gamma,
        logit_adjustment=train.logit_adjustment,
        counts=stage.class_counts,
        clips=stage.stream.schedule.num_train,
    )


def build_step(
    stage: StageSpec,
    model: nn.Module,
    *,
    pixels: Pixels,
    optimizer: torch.optim.Optimizer,
    teacher: nn.Module | None,
) -> TrainingStep:
    """The stage's training step.

    Args:
        model: the network, wrapped as it is trained.
        pixels: of the network.
        teacher: the stage's teacher, if it has one.
    """
    train = stage.train
    return TrainingStep(
        model,
        optimizer=optimizer,
        loss_weights=stage.loss_weights,
        teacher=teacher,
        precision=precision_of(train),
        clip_grad_norm=train.clip_grad_norm,
        label_smoothing=train.label_smoothing,
        uneven=uneven_of(stage),
        mixing=None if train.mix is None else Mixing(**train.mix.model_dump()),
        heads=stage.heads,
        mean=pixels.mean,
        std=pixels.std,
    )


def distribute(model: nn.Module, ranks: Ranks, device: torch.device) -> nn.Module:
    """Wrap `model`, compiled or not, so that gradients are averaged over all ranks."""
    if ranks.world_size == 1:
        return model
    devices = [device] if device.type == "cuda" else None
    # Buffers are averaged after each step instead. Rank 0's running statistics would miss the other ranks' clips.
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True)


def base_lr(train: Train) -> float:
    """The learning rate for the global batch of these settings."""
    return scaled_lr(train.lr, batch_size=train.batch_size, lr_batch_size=train.lr_batch_size)


def optimizer_of(model: VideoModel, train: Train) -> torch.optim.Optimizer:
    """The optimizer of the stage's first phase."""
    groups = parameter_groups(
        model,
        lr=base_lr(train),
        weight_decay=train.weight_decay,
        classifier_weight_multiplier=train.classifier_weight_multiplier,
        classifier_bias_multiplier=train.classifier_bias_multiplier,
        bias_multiplier=train.bias_multiplier,
        attention_multiplier=train.attention_lr_multiplier,
        layer_decay=train.layer_decay,
        depth_of=depths(model) if train.layer_decay != 1.0 else None,
    )
    return build_optimizer(train.optimizer, groups, momentum=train.momentum)


def lr_at(step: int, *, phase_lr: float, train: Train, schedule: Schedule) -> float:
    """The learning rate of optimizer step `step`, before the factors of the parameter groups.

    Args:
        phase_lr: `base_lr` of the settings of the step's epoch.
        train: the stage's settings.
        schedule: the stage's steps and epochs.
    """
    per_epoch, curve = schedule.steps_per_epoch, train.schedule
    return phase_lr * lr_factor(
        step,
        total_steps=schedule.total_steps,
        warmup_steps=min(round(curve.warmup_epochs * per_epoch), schedule.total_steps),
        kind=curve.kind,
        milestones=[round(epoch * per_epoch) for epoch in curve.milestones],
        gamma=curve.gamma,
    )
