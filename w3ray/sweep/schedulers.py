"""Which trials are stopped early? Ray Tune decides; a new scheduler is a function here and a row in the table below.

Time is counted in epochs of the stage that reports the objective. Schedulers compare the best value so far, because
that is also a trial's final value; see `standing`.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from w3ray._registry import Registry
from w3ray.sweep.records import Report
from w3ray.sweep.space import Scheduling

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

PBT = "pbt"
EPOCH, BEST = "epoch", "best"
"""Keys of what a trial reports to Ray Tune."""

_TIE = 1e-9
"""Smaller than any difference between two accuracies, but far enough above float64 rounding to order losses."""


def standing(report: Report, *, lower_is_better: bool) -> float:
    """The value that a scheduler compares: the best value so far; the current loss breaks ties.

    Schedulers stop no trial in a tie. After one or two epochs on a small split, many trials have chance accuracy;
    without the tie-break none of them would be stopped.
    """
    loss = report.metrics.get("loss", math.nan)
    ahead = 0.0 if math.isnan(loss) else math.exp(-loss)
    return report.best + _TIE * (-ahead if lower_is_better else ahead)


def _none(scheduling: Scheduling, epochs: int, mode: str) -> "TrialScheduler":
    from ray.tune.schedulers import FIFOScheduler

    return FIFOScheduler()


def _asha(scheduling: Scheduling, epochs: int, mode: str) -> "TrialScheduler":
    """Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020."""
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(
        time_attr=EPOCH,
        metric=BEST,
        mode=mode,
        # One more than there are: a trial is stopped at `max_t`, but its evaluation comes after the last epoch.
        max_t=epochs + 1,
        grace_period=scheduling.grace_epochs,
        reduction_factor=scheduling.reduction_factor,
    )


def _median(scheduling: Scheduling, epochs: int, mode: str) -> "TrialScheduler":
    """Golovin et al., "Google Vizier", KDD 2017, section 3.2.2."""
    from ray.tune.schedulers import MedianStoppingRule

    return MedianStoppingRule(
        time_attr=EPOCH, metric=BEST, mode=mode, grace_period=scheduling.grace_epochs, min_samples_required=3
    )


SCHEDULERS: 'Registry[Callable[[Scheduling, int, str], "TrialScheduler"]]' = Registry(
    "schedulers",
    {
        "none": _none,
        "asha": _asha,
        "median": _median,
        PBT: _none,  # `w3ray.sweep.population` decides between generations; within one, no trial is stopped
    },
    contract="w3ray.testing:check_scheduler",
)
"""Name -> function of (settings, epochs of the objective's stage, "max" or "min")."""
