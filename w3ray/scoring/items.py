"""Which clips does item k hold when a table is scored? The next rows of the table, in order, each row once."""

from dataclasses import dataclass

import numpy as np

from w3ray.data.schedule import PADDING, Item


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsInOrder:
    """The rows of a table, `together` of them in each item. The last item is padded. A `w3ray.data.schedule.Order`.

    One consumer reads the items and gives them to any number of scorers.
    """

    num_rows: int
    together: int
    """Number of rows in an item."""

    @property
    def world_size(self) -> int:
        return 1

    @property
    def total_items(self) -> int:
        return -(-self.num_rows // self.together)

    def item(self, number: int) -> Item:
        """Raises: IndexError if there is no such item."""
        if not 0 <= number < self.total_items:
            raise IndexError(f"item must lie in [0, {self.total_items}); got {number}")
        rows = number * self.together + np.arange(self.together, dtype=np.int64)
        rows = np.where(rows < self.num_rows, rows, PADDING)
        return Item(number, "test", 0, 0, number, rows, rows, np.zeros(self.together, dtype=np.uint64))
