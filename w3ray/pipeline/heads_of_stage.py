"""Does a stage fit the labels of its clips? Some settings are for clips with one class each, others for multi-label."""

from typing import Any

from w3ray.errors import InputError
from w3ray.heads import Heads
from w3ray.recipe import ResolvedStage
from w3ray.training.losses import check_uneven_of_sets, weights_by_head


def metric_of(metric: str, heads: Heads) -> str:
    """The metric that a setting's value stands for. "top1", the default, is "map" for multi-label clips."""
    return "map" if heads.multi_label and metric == "top1" else metric


def fitted(stage: ResolvedStage, heads: Heads) -> ResolvedStage:
    """The stage with the metrics that its clips have.

    Raises:
        InputError: `loss_weights` names a head that the clips have no labels for, or a setting is not for these clips.
    """
    train, where = stage.train, f"stage {stage.name}"
    try:
        weights = weights_by_head(stage.loss_weights, heads.names, multi_label=heads.multi_label)
    except ValueError as error:
        raise InputError(f"{where}: loss_weights: {error}") from error
    if weights.get("binary_cross_entropy", 0.0) > 0:
        try:
            check_uneven_of_sets(train.class_weights, train.logit_adjustment)
        except ValueError as error:
            raise InputError(f"{where}: train.{error}") from error
    if heads.multi_label and train.sampling != "shuffle":
        raise InputError(
            f"{where}: train.sampling={train.sampling} is for clips with one class each, but these are multi-label; "
            "set it to shuffle, and train.class_weights to balanced"
        )
    changed: dict[str, Any] = {"best_metric": _metric("best_metric", train.best_metric, heads, where)}
    if train.early_stopping is not None:
        metric = _metric("early_stopping.metric", train.early_stopping.metric, heads, where)
        changed["early_stopping"] = train.early_stopping.model_copy(update={"metric": metric})
    return stage.model_copy(update={"train": train.model_copy(update=changed)})


def _metric(field: str, metric: str, heads: Heads, where: str) -> str:
    chosen = metric_of(metric, heads)
    if heads.multi_label and chosen in ("top5", "mean_class_accuracy"):
        raise InputError(f"{where}: train.{field}={metric} is not for multi-label clips; set it to map")
    if not heads.multi_label and chosen == "map":
        raise InputError(f"{where}: train.{field}=map is only for multi-label clips; set it to top1")
    return chosen
