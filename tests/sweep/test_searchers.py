"""Searchers depend only on the results so far: the same points after a restart, and no worse than chance."""

import random
import statistics

import pytest

from w3ray.recipe import load_recipe
from w3ray.sweep.searchers import SEARCHERS, Known
from w3ray.sweep.space import Space, point_key

REDUCTION = "model.attention.reduction"
MFR = "stages.student.loss_weights.mfr"
TEMPORAL, KERNEL = "model.attention.temporal", "model.attention.temporal_kernel"


@pytest.fixture(scope="module")
def base():
    return load_recipe("quickstart")


def a_space(searcher, seed=0, **more):
    return Space.model_validate(
        {
            "name": "x",
            "parameters": {
                REDUCTION: {"choice": [2, 4, 8, 16]},
                TEMPORAL: {"choice": [True, False]},
                KERNEL: {"choice": [3, 5], "when": {TEMPORAL: True}},
                MFR: {"uniform": [0.0, 1.0], "step": 0.25} if searcher == "grid" else {"loguniform": [0.01, 1.0]},
                "train.batch_size": {"integer": [8, 16], "step": 8},
            },
            "search": {"searcher": searcher, "seed": seed},
            **more,
        }
    )


def score(point):
    return 1.0 - abs(point[MFR] - 0.3) - abs(point[REDUCTION] - 8) / 16 - 0.2 * (not point[TEMPORAL])


def searched(searcher, count, seed=0):
    known = []
    for number in range(count):
        point = searcher.propose(number, known)
        known.append(Known(point=point, values=(score(point),)))
    return known


@pytest.mark.parametrize("name", SEARCHERS)
def test_the_same_is_known_the_same_is_proposed(name, base):
    first, again = (searched(SEARCHERS[name](a_space(name), base), 12) for _ in range(2))
    assert first == again
    assert len({point_key(one.point) for one in first}) > 6


@pytest.mark.parametrize("name", ["random", "tpe"])
def test_another_seed_proposes_others(name, base):
    one, other = (searched(SEARCHERS[name](a_space(name, seed), base), 6) for seed in (0, 1))
    assert one != other


@pytest.mark.parametrize("name", SEARCHERS)
def test_conditions_hold(name, base):
    for known in searched(SEARCHERS[name](a_space(name), base), 30):
        assert (KERNEL in known.point) == known.point[TEMPORAL]


def test_random_draws_do_not_depend_on_what_is_known(base):
    searcher = SEARCHERS["random"](a_space("random"), base)
    in_order = [searcher.propose(number, []) for number in range(20)]
    numbers = list(range(20))
    random.Random(0).shuffle(numbers)
    assert {number: searcher.propose(number, []) for number in numbers} == dict(enumerate(in_order))


def test_random_goes_through_a_grid_with_the_same_draws(base):
    space = Space.model_validate(
        {"name": "x", "parameters": {REDUCTION: {"grid": [4, 8, 16]}, MFR: {"loguniform": [0.01, 1.0]}}}
    )
    points = [SEARCHERS["random"](space, base).propose(number, []) for number in range(6)]
    assert [point[REDUCTION] for point in points] == [4, 8, 16, 4, 8, 16]
    assert len({point[MFR] for point in points}) == 2


def test_tpe_finds_better_points_than_chance(base):
    best = {
        name: statistics.fmean(
            max(known.values[0] for known in searched(SEARCHERS[name](a_space(name, seed), base), 40))
            for seed in range(5)
        )
        for name in ("random", "tpe")
    }
    assert best["tpe"] > best["random"]


def test_tpe_takes_failures_points_at_work_and_those_of_other_spaces(base):
    searcher = SEARCHERS["tpe"](a_space("tpe"), base)
    good = searched(searcher, 10)
    odd = [
        Known(point=good[0].point, values=None),
        Known(point=good[1].point, values=(float("nan"),)),
        Known(point={**good[2].point, REDUCTION: 3}, values=(5.0,)),
        Known(point={"train.lr": 0.1}, values=(5.0,)),
        Known(point=good[3].point, values=None, at_work=True),
    ]
    assert searcher.propose(15, [*good, *odd])[REDUCTION] in (2, 4, 8, 16)


def test_tpe_with_two_objectives(base):
    space = a_space("tpe", objective=[{"metric": "top1"}, {"metric": "gmac"}])
    searcher = SEARCHERS["tpe"](space, base)
    known = []
    for number in range(15):
        point = searcher.propose(number, known)
        known.append(Known(point=point, values=(score(point), point[REDUCTION] / 16)))
    assert len({point_key(one.point) for one in known}) > 8
