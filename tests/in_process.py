"""A run whose stages train in the test's own process: three times as fast, where the processes are not the question."""

from collections.abc import Callable
from typing import Any

from w3ray.cluster.connect import node_resources
from w3ray.data.shared_clips import SharedClips
from w3ray.pipeline import run
from w3ray.pipeline.plan import plan_recipe
from w3ray.pipeline.results import RunResult
from w3ray.pipeline.sweep_part import SweepPart
from w3ray.recipe import Recipe


def in_process(
    one: Recipe, on_event: Callable[[Any], None] | None = None, shared: SharedClips | None = None
) -> RunResult:
    """Run a recipe as a trial of a sweep does. The bits are equal: see `tests/pipeline/test_chain.py`."""
    plan = plan_recipe(one, node_resources())
    part = SweepPart(name="trial", identity="trial", plan=plan, in_process=True, shared=shared)
    return run(one, on_event=on_event, part_of=part)
