"""Which of a stage's workers is this one, and how do all of them agree on something?"""

from dataclasses import dataclass
from typing import Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from w3ray import ray_internals

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This worker's place among all of its stage. Every method must be called by all ranks, in the same order."""

    rank: int = 0
    world_size: int = 1
    is_local: bool = False
    """The worker is a thread of the driver's process, in Ray Train's local mode."""

    @classmethod
    def of_this_worker(cls) -> Self:
        """As Ray Train made them."""
        utils = ray_internals.get_train_fn_utils()
        context = utils.get_context()
        return cls(
            rank=context.get_world_rank(),
            world_size=context.get_world_size(),
            is_local=not utils.is_distributed(),
        )

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum over ranks, in place. Counts stay on the CPU (gloo also in GPU runs): no step waits for the device."""
        if self.world_size > 1:
            dist.all_reduce(tensor)

    def first_says(self, value: bool) -> bool:
        """What the first rank says."""
        answer = torch.tensor([value], dtype=torch.int64)
        if self.world_size > 1:
            dist.broadcast(answer, src=0)
        return bool(answer)

    def gather(self, mine: list[T]) -> list[T]:
        """The members of all ranks' lists, by rank. They are pickled: only workers of this stage may send them."""
        if self.world_size == 1:
            return mine
        gathered: list[list[T]] = [[] for _ in range(self.world_size)]
        dist.all_gather_object(gathered, mine)
        return [member for members in gathered for member in members]
