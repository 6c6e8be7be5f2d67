"""The process that scores decoded clips: an actor on GPUs, else a task.

Ray Data's coordinator imports this module, because it holds the actor's class. The imports here are light on purpose:
with torch and torchvision, each evaluation would start seconds later.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from w3ray.data.microbatch import from_row
from w3ray.data.views import Protocol
from w3ray.plugins import Shipment

if TYPE_CHECKING:
    from w3ray.evaluation.scorer import Average, Kept
    from w3ray.scoring.model_files import ModelFiles


class ScorerActor:
    """A model in a Ray process."""

    def __init__(
        self,
        files: "ray.ObjectRef[ModelFiles]",
        protocol: Protocol,
        average: "Average",
        flip_map: Mapping[int, int],
        threads: int,
        plugins: Shipment,
        keep: "Kept" = "scores",
    ) -> None:
        import torch

        from w3ray.scoring.model_files import kept_of

        plugins.load()
        torch.set_num_threads(threads)
        self._scorer = kept_of(ray.get(files), protocol, average, flip_map, keep)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        microbatch = from_row(batch)
        return {
            "first_row": microbatch.positions[:1],
            "scores": self._scorer(microbatch.clips, microbatch.extras)[None],
            "readable": microbatch.valid[None],
            "failures": np.asarray(json.dumps([failure._asdict() for failure in microbatch.failures]))[None],
        }


_warm: dict[str, ScorerActor] = {}  # of the newest scoring in this process


def score_in_task(batch: dict[str, np.ndarray], scoring: str, *arguments: Any) -> dict[str, np.ndarray]:
    """`ScorerActor` as a task of Ray.

    Decoders and the next scoring get the same process, and importing torch takes longer than scoring a few clips.

    Args:
        scoring: a name that no other call of `score_clips` has. A process keeps the network of the newest one.
        arguments: of `ScorerActor`.
    """
    if scoring not in _warm:
        _warm.clear()
        _warm[scoring] = ScorerActor(*arguments)
    return _warm[scoring](batch)
