"""What does a run need to know of the sweep whose trial it is?"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from w3ray.cluster.plan import ResourcePlan
from w3ray.data.shared_clips import SharedClips


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPart:
    """A trial's place in its sweep.

    Its model is not registered: the sweep registers the best one.
    """

    name: str
    """Name of the trial's run."""
    identity: str
    """An unfinished run with the same identity is gone on with."""
    plan: ResourcePlan
    """Its share of the cluster, which other trials do not touch."""
    in_process: bool = False
    """Stages train in this process, not in processes of their own: see `w3ray.runtime.in_process_stage`."""
    shared: SharedClips | None = None
    """Where decoded clips are shared with other trials; None: nowhere."""
    parent_run_id: str | None = None
    """The sweep's run; None without tracking."""
    params: Mapping[str, Any] = field(default_factory=dict)
    """Logged beside the recipe: what the sweep searches, by short names."""
    tags: Mapping[str, str] = field(default_factory=dict)
