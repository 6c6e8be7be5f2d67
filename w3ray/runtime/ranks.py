"""The place of this worker among a stage's workers, and how all workers agree."""

from dataclasses import dataclass
from typing import Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from w3ray import ray_internals

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This worker's rank in its stage. All ranks must call every method, in the same order."""

    rank: int = 0
    world_size: int = 1
    is_local: bool = False
    """The worker is a thread of the driver's process, in Ray Train's local mode."""

    @classmethod
    def of_this_worker(cls) -> Self:
        """The ranks that Ray Train assigned."""
        utils = ray_internals.get_train_fn_utils()
        context = utils.get_context()
        return cls(
            rank=context.get_world_rank(),
            world_size=context.get_world_size(),
            is_local=not utils.is_distributed(),
        )

    def all_reduce(self, tensor: Tensor) -> None:
        """Sum over ranks, in place. Counts stay on the CPU (gloo, also in GPU runs): no step waits for the device."""
        if self.world_size > 1:
            dist.all_reduce(tensor)

    def first_says(self, value: bool) -> bool:
        """The value of the first rank."""
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
