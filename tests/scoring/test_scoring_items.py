"""The items of a scoring hold each row of the table once, in order."""

import numpy as np
import pytest

from w3ray.data.schedule import PADDING, Schedule
from w3ray.scoring.items import RowsInOrder


@pytest.mark.parametrize(("num_rows", "together"), [(1, 1), (7, 3), (8, 4), (3, 8), (0, 2)])
def test_each_row_once_and_in_order(num_rows, together):
    items = RowsInOrder(num_rows=num_rows, together=together)
    read = [items.item(number) for number in range(items.total_items)]
    rows = np.concatenate([item.samples for item in read]) if read else np.zeros(0)
    assert [item.number for item in read] == list(range(len(read)))
    assert rows[rows != PADDING].tolist() == list(range(num_rows))
    assert (rows[num_rows:] == PADDING).all()
    assert all(len(item.samples) == together and (item.positions == item.samples).all() for item in read)
    assert all((item.kind, item.draws.any()) == ("test", False) for item in read)


def test_the_rows_are_those_of_a_stages_own_evaluation():
    items = RowsInOrder(num_rows=11, together=4)
    stage = Schedule(
        num_train=1, num_val=0, num_test=11, batch_size=4, microbatch_size=4, epochs=1, validate_every_epochs=1, seed=0,
        world_size=1,
    )  # fmt: skip
    first = stage.first_item(stage.total_steps)
    for number in range(items.total_items):
        mine, theirs = items.item(number), stage.item(first + number)
        assert mine.samples.tolist() == theirs.samples.tolist()
        assert mine.positions.tolist() == theirs.positions.tolist()


@pytest.mark.parametrize("number", [-1, 3])
def test_there_are_no_others(number):
    with pytest.raises(IndexError, match=r"item must lie in \[0, 3\)"):
        RowsInOrder(num_rows=11, together=4).item(number)
