"""What does a run need to know about the sweep that it is a trial of?"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from w3ray.cluster.plan import ResourcePlan
from w3ray.data.shared_clips import SharedClips


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPart:
    """What a sweep tells the run of one trial.

    The run does not register its model: the sweep registers the best one.
    """

    name: str
    """Name of the trial's run."""
    identity: str
    """An unfinished run with the same identity is resumed."""
    plan: ResourcePlan
    """The trial's share of the cluster, which other trials do not use."""
    in_process: bool = False
    """Whether stages train in this process, not in separate processes: see `w3ray.runtime.in_process_stage`."""
    shared: SharedClips | None = None
    """Where decoded clips are shared with other trials; None: they are not shared."""
    parent_run_id: str | None = None
    """The sweep's run; None without tracking."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Short name -> value of each option that the sweep searches; logged in addition to the recipe."""
    tags: Mapping[str, str] = field(default_factory=dict)
