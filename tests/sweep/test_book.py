"""Which trial is next, what is recorded, and what a restart knows. Without Ray."""

import json
import math
from types import SimpleNamespace

import pytest

from w3ray.errors import InputError
from w3ray.events import StageFinished, StageStarted, StageWaits, StepDone, Validated, Warned
from w3ray.ray_internals import EndedTrial
from w3ray.recipe import load_recipe
from w3ray.sweep.analysis import complete_values, effect, noise, savings, values_at_common_epoch
from w3ray.sweep.book import TrialBook, short_names
from w3ray.sweep.records import Report, SweepFolder, Trial, by_point, pareto_front, ranked
from w3ray.sweep.replay import replay
from w3ray.sweep.schedulers import SCHEDULERS
from w3ray.sweep.space import Scheduling, Space
from w3ray.sweep.sweep import _Sweep

MFR = "stages.student.loss_weights.mfr"
REDUCTION = "model.attention.reduction"


@pytest.fixture(scope="module")
def base():
    return load_recipe("quickstart")


def a_space(**more):
    values = {"name": "x", "parameters": {MFR: {"choice": [0.1, 0.3, 1.0]}}, "search": {"searcher": "grid"}}
    return Space.model_validate({**values, **more})


@pytest.fixture
def make(base, tmp_path):
    """Makes the book of a space in one folder. Made again, it is the book that a restart finds."""

    def book(space=None, **more):
        space = space or a_space()
        folder = SweepFolder(str(tmp_path), space.name)
        with folder.open(space, base):
            return TrialBook(space, base, folder, **more)

    return book


def document(value, name="student", **changes):
    stages = [
        {"name": "teacher", "state": "reuse", "identity": "t", "seconds": 1.0, "validation": {"top1": 0.5},
         "metrics": {"top1": 0.4}, "tracking_run": "r0", "model": "m0", "logged_model": None},
        {"name": name, "state": "run", "identity": "s", "seconds": 2.0, "validation": {"top1": value},
         "metrics": {"top1": value - 0.1}, "tracking_run": "r1", "model": "m1", "logged_model": "id"},
    ]  # fmt: skip
    return {"stages": stages, "tracking": {"run": "r"}, **changes}


def step(stage, number):
    return StepDone(
        stage=stage, step=number, epoch=0, losses={}, lr=0.1, clips_per_s=10.0, data_wait_s=0.0, step_s=0.1,
        valid_clips=8,
    )  # fmt: skip


def end_all(book, values):
    """Run all trials of a book in sequence, with these results. Returns their ids."""
    ids = []
    for value in values:
        trial = book.next()
        book.reported(trial.id, Report(epoch=1, metrics={"top1": value}, best=value, time_s=len(ids)))
        book.finished(trial.id, document(value))
        ids.append(trial.id)
    return ids


def test_a_trial_that_waits_for_another_run_is_shown_so_and_any_other_warning_is_a_message(make):
    book, sweep = make(), SimpleNamespace(messages=[])
    trial = book.next().id
    _Sweep._hear(sweep, book, trial, Warned(message="another run works on something"))
    assert (book.doing[trial].waits_for, sweep.messages) == ("", [f"trial {trial}: another run works on something"])
    _Sweep._hear(sweep, book, trial, StageWaits(stage="teacher", message="stage teacher: waiting"))
    assert (book.doing[trial].waits_for, len(sweep.messages)) == ("stage teacher: waiting", 1)
    book.heard(trial, StageStarted(stage="teacher", state="run", why="new", total_steps=4, epochs=1))
    assert book.doing[trial].waits_for == ""


def test_trials_come_once_each_and_then_no_more(make):
    book = make()
    assert end_all(book, [0.1, 0.3, 0.2]) == ["0000", "0001", "0002"]
    assert book.next() is None
    assert [point.number for point in ranked(book.points, book.space.objectives)] == [1, 2, 0]


def test_a_restart_runs_what_was_at_work_and_nothing_that_ended(make):
    book = make()
    first, second = book.next(), book.next()
    book.reported(second.id, Report(epoch=2, metrics={"top1": 0.2}, best=0.2, time_s=1.0))
    book.finished(first.id, document(0.5))
    again = make()
    assert [(trial.id, trial.state) for trial in again.trials] == [("0000", "finished"), ("0001", "waiting")]
    resumed = again.next()
    assert (resumed.id, resumed.reports[-1].epoch) == (second.id, 2)
    assert again.next().id == "0002"


def test_a_sweep_of_that_name_with_another_space_is_refused_with_the_difference(make, base, tmp_path):
    end_all(make(), [0.5])
    other = a_space(parameters={MFR: {"choice": [0.1, 0.5]}})
    with pytest.raises(InputError, match=r"sweep x: .* holds another sweep \(space\.parameters\..*mfr\.choice: .* -> "):
        make(other)
    more = a_space(concurrency=3, budget={"hours": 2.0}, search={"searcher": "grid", "trials": 2})
    assert make(more).target == 2, "budget and concurrency may change"
    with (
        pytest.raises(InputError, match="recipe"),
        SweepFolder(str(tmp_path), "x").open(a_space(), base.model_copy(update={"seed": 9})),
    ):
        pass


def test_a_sweep_without_a_trial_does_not_hold_its_name(make, tmp_path):
    make()  # then its driver ended
    taller = a_space(parameters={"data.short_side": {"choice": [16, 17]}}, fixed={"data.size": 64})
    assert make(taller).next() is None, "no point makes a recipe: frames are smaller than the clip"
    assert [trial.state for trial in SweepFolder(str(tmp_path), "x").trials()] == ["skipped"] * 2
    mended = make(a_space())
    assert mended.trials == []
    assert end_all(mended, [0.1, 0.3, 0.2]) == ["0000", "0001", "0002"]
    with pytest.raises(InputError, match="holds another sweep"):
        make(taller)
    assert len(make(a_space()).trials) == 3, "the refused space changed nothing"


def test_two_drivers_of_one_sweep(base, tmp_path):
    folder = SweepFolder(str(tmp_path), "x")
    with folder.open(a_space(), base), pytest.raises(InputError, match="another process drives it"):
        SweepFolder(str(tmp_path), "x").open(a_space(), base)


@pytest.mark.parametrize("damage", ["{", "[]", '{"number": 1}'])
def test_a_damaged_record_is_named(make, tmp_path, damage):
    make().next()
    (tmp_path / "sweeps" / "x" / "trials" / "0000.json").write_text(damage)
    with pytest.raises(InputError, match=r"0000\.json: damaged .*; remove it to run that trial again"):
        make()


def test_invalid_combinations_are_skipped_and_said(make):
    off = {"model.attention.channel": {"choice": [True, False]}, "model.attention.spatial": {"choice": [False]}}
    book = make(a_space(parameters=off, fixed={"model.refinement": False}))
    assert book.next().point["model.attention.channel"] is True
    assert book.next() is None
    (skipped,) = [trial for trial in book.trials if trial.state == "skipped"]
    assert "nothing is left" in skipped.reason


def test_repeats_are_one_point_with_a_mean(make):
    book = make(a_space(search={"searcher": "grid", "repeats": 2}))
    ids = end_all(book, [0.1, 0.3, 0.8, 0.6, 0.5, 0.5])
    assert ids == ["0000", "0000-1", "0001", "0001-1", "0002", "0002-1"]
    assert [book.recipe(trial).seed for trial in book.trials] == [0, 1] * 3
    best = ranked(book.points, book.space.objectives)[0]
    assert (best.number, best.values[0], best.deviations[0]) == (
        1, pytest.approx(0.7), pytest.approx(math.sqrt(0.02)),
    )  # fmt: skip
    assert noise(book.points) == pytest.approx(math.sqrt(0.04 / 3))


def test_a_searcher_is_told_in_the_order_of_the_ends_and_of_what_is_at_work(make, monkeypatch):
    book = make(a_space(search={"searcher": "random", "trials": 9}))
    told = []
    propose = book._searcher.propose
    monkeypatch.setattr(
        book._searcher, "propose", lambda number, known: (told.append(known), propose(number, known))[1]
    )
    first, second = book.next(), book.next()
    book.finished(second.id, document(0.2))
    book.failed(first.id, "no")
    book.next()
    book.next()
    assert [(known.values, known.at_work) for known in told[-1]] == [((0.2,), False), (None, False), (None, True)]


def test_stopped_interrupted_and_failed_trials(make):
    book = make()
    stopped, failed, interrupted = book.next(), book.next(), book.next()
    book.reported(stopped.id, Report(epoch=2, metrics={"top1": 0.4}, best=0.4, time_s=1.0))
    book.left(stopped.id)
    book.failed(failed.id, "24 of 32 clips cannot be read")
    book.left(failed.id)
    book.ending = True
    book.left(interrupted.id)
    states = {trial.id: (trial.state, trial.values) for trial in book.trials}
    assert states == {"0000": ("stopped", (0.4,)), "0001": ("failed", None), "0002": ("waiting", None)}
    assert book.next() is None


def test_too_many_failures_end_it_with_the_common_reason(make):
    book = make()
    for reason in ("no disk", "no luck", "no disk"):
        assert book.too_many_failures() is None
        book.failed(book.next().id, reason)
    assert "3 of 3 trials failed" in book.too_many_failures()
    assert book.too_many_failures().endswith("most often: no disk")


def test_steps_are_counted_over_restarts_and_what_was_shared_is_no_step(make):
    book = make()
    trial = book.next()
    for event in (
        StageStarted(stage="teacher", state="reuse", why="", total_steps=30, epochs=3, step=30),
        StageFinished(stage="teacher", metrics={}, checkpoint="c", seconds=0.0),
        StageStarted(stage="student", state="run", why="", total_steps=30, epochs=3),
        step("student", 7),
        Validated(stage="student", step=10, epoch=0, metrics={"top1": 0.1}),
    ):
        book.heard(trial.id, event)
    book.ending = True
    book.left(trial.id)
    again = make()
    trial = again.next()
    for event in (
        StageStarted(stage="student", state="resume", why="", total_steps=30, epochs=3, step=10),
        StageFinished(stage="student", metrics={}, checkpoint="c", seconds=0.0),
    ):
        again.heard(trial.id, event)
    again.finished(trial.id, document(0.5))
    found = {stage.name: (stage.state, stage.steps) for stage in again.trials[0].stages}
    assert found == {"teacher": ("reuse", 0), "student": ("run", 30)}
    saved = savings(again.trials[:1])
    assert (saved.naive, saved.trained, saved.shared, saved.stopped) == (60, 30, 30, 0)


def test_several_objectives_make_a_front(make):
    space = a_space(objective=[{"metric": "top1"}, {"metric": "gmac"}])
    cost = {0.1: 1.0, 0.3: 2.0, 1.0: 3.0}
    book = make(space, cost_of=lambda recipe: {"gmac": cost[recipe.stages[1].loss_weights["mfr"]]})
    end_all(book, [0.5, 0.7, 0.6])
    assert [point.values for point in book.points] == [(0.5, 1.0), (0.7, 2.0), (0.6, 3.0)]
    assert [point.number for point in pareto_front(book.points, space.objectives)] == [0, 1]


def test_records_are_json(make, tmp_path):
    book = make()
    end_all(book, [float("nan"), 0.2, 0.1])
    texts = [path.read_text() for path in (tmp_path / "sweeps" / "x" / "trials").iterdir()]
    assert len(texts) == 3
    for text in texts:
        json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert [point.number for point in ranked(make().points, book.space.objectives)] == [1, 2]


def test_an_effect_that_is_there_is_seen_and_one_that_is_not_is_not(make):
    space = a_space(
        parameters={REDUCTION: {"choice": [2, 4, 8, 16]}, MFR: {"choice": [0.1, 0.3, 1.0]}},
    )
    book = make(space)
    while (trial := book.next()) is not None:
        book.finished(trial.id, document(0.5 + 0.02 * math.log2(trial.point[REDUCTION])))
    there, absent = (effect(name, complete_values(by_point(book.trials))) for name in (REDUCTION, MFR))
    assert there.p_value < 0.001
    assert there.correlation == pytest.approx(1.0)
    assert "highest mean at 16" in there.verdict
    assert absent.p_value > 0.5
    assert "no significant effect" in absent.verdict


def test_what_was_stopped_counts_until_the_first_was(make):
    book = make(a_space(scheduling={"scheduler": "asha"}))
    for epochs in (3, 1, 2):
        trial = book.next()
        for epoch in range(1, epochs + 1):
            book.reported(trial.id, Report(epoch=epoch, metrics={}, best=trial.point[MFR] + epoch, time_s=0.0))
        if epochs == 3:
            book.finished(trial.id, document(0.9))
            assert values_at_common_epoch(by_point(book.trials)) is None, "no trial was stopped yet"
        else:
            book.left(trial.id)
    epoch, values = values_at_common_epoch(by_point(book.trials))
    assert epoch == 1
    assert values == [({MFR: value}, value + 1) for value in (0.1, 0.3, 1.0)]
    assert complete_values(by_point(book.trials)) == [({MFR: 0.1}, 0.9)]


def test_short_names_tell_apart():
    assert short_names(["model.attention.reduction", "stages.student.train.lr", "train.lr"]) == {
        "model.attention.reduction": "reduction",
        "stages.student.train.lr": "student.train.lr",
        "train.lr": "train.lr",
    }


def test_warm_start_tells_the_searcher_of_earlier_sweeps(make, base, tmp_path):
    end_all(make(), [0.1, 0.3, 0.2])
    stored = base.model_copy(update={"storage": str(tmp_path)})
    later = a_space(name="later", search={"searcher": "tpe", "warm_start": ["x"]})
    known = _Sweep(later, stored, None, lambda status: None)._warm_start()
    assert {one.point[MFR]: one.values for one in known} == {0.1: (0.1,), 0.3: (0.3,), 1.0: (0.2,)}
    told = []
    book = make(later, warm_start=known)
    book._searcher.propose = lambda number, known: told.append(known) or {MFR: 0.1}
    book.next()
    assert told == [known]
    for names, space, message in (
        (["absent"], {}, "no sweep 'absent'"),
        (["x"], {"objective": {"metric": "loss"}}, "sweep 'x' compares top1, this one loss"),
    ):
        other = a_space(name="other", search={"searcher": "tpe", "warm_start": names}, **space)
        with pytest.raises(InputError, match=message):
            _Sweep(other, stored, None, lambda status: None)._warm_start()


def test_a_scheduler_is_told_again_of_what_ended():
    """With the earlier trials, ASHA stops a bad trial as if it had never been interrupted."""

    def stops(trials):
        scheduler = SCHEDULERS["asha"](Scheduling(scheduler="asha", grace_epochs=1, reduction_factor=2), 9, "max")
        replay(scheduler, trials, lower_is_better=False)
        late = EndedTrial("late")
        scheduler.on_trial_add(None, late)
        return scheduler.on_trial_result(None, late, {"epoch": 1, "best": 0.1}) == "STOP"

    good = [
        Trial(number=number, repeat=0, point={}, state="finished",
              reports=(Report(epoch=1, metrics={}, best=0.8, time_s=float(number)),))
        for number in range(4)
    ]  # fmt: skip
    assert stops(good)
    assert not stops([])


def test_a_trial_that_ray_tune_lost_is_given_out_again(make):
    book = make()
    lost = book.next()
    assert book.take_back()
    assert book.next().id == lost.id
    book.finished(lost.id, document(0.5))
    assert not book.take_back()
    book.next()
    book.ending = True
    assert not book.take_back(), "a sweep that is ending does not continue"
    assert book.trials[1].state == "waiting"
