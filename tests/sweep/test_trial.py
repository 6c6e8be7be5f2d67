"""What a trial reports to Ray Tune, and when it ends by itself."""

import math
from types import SimpleNamespace

import pytest

from w3ray.events import CheckpointSaved, Validated
from w3ray.plugins.shipping import NO_PLUGINS
from w3ray.runtime.event_channel import LocalChannel
from w3ray.sweep.records import Report
from w3ray.sweep.schedulers import BEST, EPOCH, SCHEDULERS, standing
from w3ray.sweep.space import Scheduling
from w3ray.sweep.trial import Task, _Enough, _Reporter


def reporter(told: list, **more) -> _Reporter:
    task = Task(
        **{
            "trial": "0000", "recipe": {}, "objective_metric": "top1", "lower_is_better": False,
            "objective_stage": "student", "epochs": 3, "stops_after": None, "reports": (), "run_name": "x",
            "identity": "x", "parent_run_id": None, "params": {}, "tags": {}, "plan": None, "in_process": True,
            "shared": None, "folder": ".", "plugins": NO_PLUGINS, **more,
        }
    )  # fmt: skip
    return _Reporter(task, LocalChannel(), told.append)


def validated(epoch, value, stage="student"):
    return Validated(stage=stage, step=epoch * 10, epoch=epoch - 1, metrics={"top1": value}, split="val", time_s=0.0)


def test_a_scheduler_is_not_asked_after_the_last_epoch():
    """An ASHA rung there would stop a trial that only needs its test."""
    told: list = []
    tell = reporter(told)
    for epoch, value in ((1, 0.2), (2, 0.1), (3, 0.4)):
        tell(validated(epoch, value))
    tell(validated(1, 0.9, stage="teacher"))
    assert [(one.get(EPOCH), one.get(BEST)) for one in told] == [(1, 0.2), (2, 0.2), (None, None)]
    assert [one["report"]["best"] for one in told] == [0.2, 0.2, 0.4]
    tell.finish(None, {})
    assert (told[-1][EPOCH], told[-1][BEST]) == (4, 0.4)


def test_of_equal_accuracies_a_scheduler_sees_the_lower_loss_ahead():
    """ASHA lets ties pass, and guessing has the same accuracy in every trial."""

    def report(best: float, loss: float) -> Report:
        return Report(epoch=1, metrics={"top1": best, "loss": loss}, best=best, time_s=0.0)

    def stands(best: float, loss: float) -> float:
        return standing(report(best, loss), lower_is_better=False)

    order = [(0.125, math.nan), (0.125, 50.0), (0.125, 2.1), (0.125, 2.0999), (0.125 + 1e-6, 2.5), (0.25, 9.0)]
    numbers = [stands(*one) for one in order]
    assert numbers == sorted(numbers)
    assert len(set(numbers[1:])) == 5
    assert standing(report(2.0, 2.0), lower_is_better=True) > standing(report(2.0, 1.9), lower_is_better=True)
    assert math.isnan(stands(math.nan, 2.0))

    scheduler = SCHEDULERS["asha"](Scheduling(scheduler="asha", grace_epochs=1, reduction_factor=3), 9, "max")
    trials = [SimpleNamespace(trial_id=str(number), status="RUNNING") for number in range(3)]
    for one in trials:
        scheduler.on_trial_add(None, one)
    asked = [
        scheduler.on_trial_result(None, one, {EPOCH: 1, BEST: stands(0.125, loss)})
        for one, loss in zip(trials, (2.1, 2.2, 2.0), strict=True)
    ]
    assert asked == ["CONTINUE", "STOP", "CONTINUE"]


def test_it_tells_again_what_it_told_before_and_nothing_twice():
    told: list = []
    before = tuple(Report(epoch=epoch, metrics={}, best=0.1 * epoch, time_s=0.0) for epoch in (1, 2, 3))
    tell = reporter(told, reports=before)
    tell.tell_again()
    tell(validated(3, 0.9))
    assert told == [{EPOCH: 1, BEST: 0.1}, {EPOCH: 2, BEST: 0.2}]


def test_it_ends_with_its_generation_once_its_checkpoint_is_there():
    told: list = []
    tell = reporter(told, stops_after=2)
    tell(validated(1, 0.2))
    tell(CheckpointSaved(stage="student", step=10, path="x"))
    tell(validated(2, 0.3))
    assert tell.enough()
    with pytest.raises(_Enough):
        tell(CheckpointSaved(stage="student", step=20, path="x"))
