"""How are trials compared, which are tried, which are stopped early, and when does the sweep end?"""

from typing import Literal

from pydantic import Field

from w3ray.recipe import Section


class Objective(Section):
    """How trials are compared: by a validation metric of a stage's best epoch, or by the cost of its model."""

    metric: str = Field(
        default="top1", description="a validation metric, gmac (multiply-adds of a clip) or clips_per_s"
    )
    goal: Literal["max", "min"] | None = Field(
        default=None, description="whether higher or lower is better; null: lower for loss and gmac, higher for others"
    )
    stage: str | None = Field(default=None, description="stage that reports the metric; null: the recipe's last stage")

    @property
    def lower_is_better(self) -> bool:
        return self.goal == "min" if self.goal is not None else self.metric in ("loss", "gmac")


VALIDATION_METRICS = ("top1", "top5", "mean_class_accuracy", "map", "loss")

COST_METRICS = ("gmac", "clips_per_s")


class Search(Section):
    """Which points are tried."""

    searcher: str = Field(default="random", description="how points are proposed")
    trials: int | None = Field(default=None, ge=1, description="points to try; null: the whole grid, or 16")
    seed: int = Field(default=0, ge=0, description="seed of the draws")
    repeats: int = Field(
        default=1, ge=1, description="runs of each point, each with another recipe seed; ranked by the mean"
    )
    warm_start: tuple[str, ...] = Field(
        default=(), description="earlier sweeps in the same storage, by name; the searcher gets their results first"
    )


class Scheduling(Section):
    """Which trials are stopped early. Time is counted in epochs of the stage that reports the objective."""

    scheduler: str = Field(default="none", description="decides which trials are stopped")
    grace_epochs: int = Field(default=1, ge=1, description="no trial is stopped before this many epochs")
    reduction_factor: float = Field(default=3, gt=1, description="asha: one of this many trials continues at each rung")
    interval_epochs: int = Field(default=1, ge=1, description="pbt: epochs of a generation")
    quantile: float = Field(
        default=0.25,
        gt=0,
        le=0.5,
        description="pbt: share of the worst members that continue from the weights of the same share of best ones",
    )
    resample: float = Field(
        default=0.25, ge=0, le=1, description="pbt: probability that a value is drawn again instead of changed by 20 %"
    )


class Budget(Section):
    """When the sweep starts no more trials and stops the running ones. null: no limit."""

    hours: float | None = Field(default=None, gt=0, description="wall-clock hours")
    gpu_hours: float | None = Field(default=None, gt=0, description="GPU hours held by trials, in total")
    max_failed_share: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="give up if more than this share of the ended trials failed (at least three must have ended)",
    )
