from itertools import pairwise

import pytest

from w3ray.training.lr_schedule import lr_factor


def test_tsm_schedule_with_warmup() -> None:
    factors = [
        lr_factor(step, total_steps=50, warmup_steps=4, kind="step", milestones=[20, 40], gamma=0.1)
        for step in range(50)
    ]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[19:21] == pytest.approx([1.0, 0.1])
    assert factors[39:41] == pytest.approx([0.1, 0.01])
    assert factors[49] == pytest.approx(0.01)


def test_cosine_starts_at_one_after_warmup_halves_midway_and_ends_near_zero() -> None:
    factors = [lr_factor(step, total_steps=110, warmup_steps=10, kind="cosine") for step in range(110)]
    assert factors[9:11] == [1.0, 1.0]
    assert factors[60] == pytest.approx(0.5)
    assert 0 < factors[109] < 0.001
    assert all(later < earlier for earlier, later in pairwise(factors[10:]))


def test_constant_without_warmup() -> None:
    assert {lr_factor(step, total_steps=5, kind="constant", milestones=[2]) for step in range(5)} == {1.0}


def test_warmup_only_never_divides_by_zero() -> None:
    assert [lr_factor(step, total_steps=2, warmup_steps=2, kind="cosine") for step in range(2)] == [0.5, 1.0]


@pytest.mark.parametrize(
    "options",
    [
        {"step": 0, "total_steps": 5, "kind": "linear"},
        {"step": -1, "total_steps": 5},
        {"step": 0, "total_steps": 0},
        {"step": 0, "total_steps": 5, "warmup_steps": 6},
    ],
)
def test_bad_values_are_refused(options: dict) -> None:
    with pytest.raises(ValueError):
        lr_factor(**options)
