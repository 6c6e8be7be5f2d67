"""By what are trials compared, which are tried, which are stopped early, and when is it enough?"""

from typing import Literal

from pydantic import Field

from w3ray.recipe import Section


class Objective(Section):
    """What trials are compared by: a validation metric of a stage's best epoch, or what its model costs."""

    metric: str = Field(
        default="top1", description="a validation metric, gmac (multiply-adds of a clip) or clips_per_s"
    )
    goal: Literal["max", "min"] | None = Field(
        default=None, description="whether more or less of it is better; null: less of loss and gmac, more of others"
    )
    stage: str | None = Field(default=None, description="stage that reports it; null: the recipe's last")

    @property
    def lower_is_better(self) -> bool:
        return self.goal == "min" if self.goal is not None else self.metric in ("loss", "gmac")


VALIDATION_METRICS = ("top1", "top5", "mean_class_accuracy", "loss")

COST_METRICS = ("gmac", "clips_per_s")


class Search(Section):
    """Which points are tried."""

    searcher: str = Field(default="random", description="how points are proposed")
    trials: int | None = Field(default=None, ge=1, description="points to try; null: all of the grid, or 16")
    seed: int = Field(default=0, ge=0, description="seed of the draws")
    repeats: int = Field(default=1, ge=1, description="runs of each point with other recipe seeds; ranked by the mean")
    warm_start: tuple[str, ...] = Field(
        default=(), description="names of earlier sweeps in the same storage whose results the searcher is told first"
    )


class Scheduling(Section):
    """Which trials are stopped early. Time is counted in epochs of the stage that reports the objective."""

    scheduler: str = Field(default="none", description="who decides")
    grace_epochs: int = Field(default=1, ge=1, description="no trial is stopped before this many epochs")
    reduction_factor: float = Field(default=3, gt=1, description="asha: one of so many trials goes on at each rung")
    interval_epochs: int = Field(default=1, ge=1, description="pbt: epochs of a generation")
    quantile: float = Field(
        default=0.25, gt=0, le=0.5, description="pbt: share that goes on from the weights of as many that are ahead"
    )
    resample: float = Field(
        default=0.25, ge=0, le=1, description="pbt: how often a value is drawn anew instead of changed by a fifth"
    )


class Budget(Section):
    """When no more trials are started and those at work are stopped. null: no limit."""

    hours: float | None = Field(default=None, gt=0, description="wall-clock hours")
    gpu_hours: float | None = Field(default=None, gt=0, description="hours of GPUs held by trials, added up")
    max_failed_share: float = Field(
        default=0.5, gt=0, le=1, description="give up when more than this share of at least three ended trials failed"
    )
