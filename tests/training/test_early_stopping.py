"""When a training stops: validations in vain are counted, from any point on."""

from typing import Any

import pytest

from w3ray.training.early_stopping import Patience


def counts(values: list[float], **options: Any) -> list[int]:
    patience = Patience(2, **{"metric": "top1", **options})
    found = []
    for value in values:
        patience.see({patience.metric: value})
        found.append(patience.in_vain)
    return found


def test_only_a_better_value_counts() -> None:
    assert counts([0.5, 0.5, 0.6, 0.55, 0.6, 0.61]) == [0, 1, 0, 1, 2, 0]
    assert counts([0.5, 0.505, 0.512, 0.515], min_delta=0.01) == [0, 1, 0, 1]
    assert counts([1.0, 1.1, 0.9, 0.9], metric="loss") == [0, 1, 0, 1]


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_resumed_count_goes_on(cut: int) -> None:
    values = [0.5, 0.4, 0.6, 0.6, 0.6]
    whole, first, second = (Patience(2, "top1") for _ in range(3))
    for number, value in enumerate(values):
        whole.see({"top1": value})
        if number == cut:
            second.load_state_dict(first.state_dict())
        (first if number < cut else second).see({"top1": value})
    assert second.spent
    assert second.state_dict() == whole.state_dict() == {"best": 0.6, "in_vain": 2}
    assert whole.stopped(5, 9) == {"epochs": 5, "why": "stopped after epoch 5 of 9: no better top1 in 2 validations"}
