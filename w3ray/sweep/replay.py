"""How does a new scheduler learn the earlier results of a sweep?"""

from collections.abc import Sequence
from typing import Any

from w3ray.ray_internals import EndedTrial
from w3ray.sweep.records import Trial
from w3ray.sweep.schedulers import BEST, EPOCH, standing


def replay(scheduler: Any, trials: Sequence[Trial], *, lower_is_better: bool) -> None:
    """Pass the reports of ended trials to a new scheduler, in their original order."""
    ended = {trial.id: EndedTrial(trial.id) for trial in trials if trial.ended and trial.reports}
    reports = [(report.time_s, trial.id, report) for trial in trials if trial.id in ended for report in trial.reports]
    for one in ended.values():
        scheduler.on_trial_add(None, one)
    for _, name, report in sorted(reports, key=lambda item: item[:2]):
        compared = standing(report, lower_is_better=lower_is_better)
        scheduler.on_trial_result(None, ended[name], {EPOCH: report.epoch, BEST: compared})
