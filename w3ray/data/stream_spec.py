"""What a stream delivers, independent of its readers and of the number of nodes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from w3ray.data.clip import ClipSpec
from w3ray.data.schedule import Order, Schedule
from w3ray.data.shared_clips import SharedClips
from w3ray.data.video_cache import VideoCache
from w3ray.data.views import Protocol
from w3ray.plugins import NO_PLUGINS, Shipment
from w3ray.storage import StoragePath

CLIP_TIMEOUT_S = 120.0
"""Default limit of the seconds that a decoder may spend on one clip."""


AnyOrder = TypeVar("AnyOrder", bound=Order, covariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSpec(Generic[AnyOrder]):
    """Everything that decides the microbatches of a stream, except the rows. A plain value for any process."""

    schedule: AnyOrder
    """Which samples each item holds, and what is drawn for them."""
    clip: ClipSpec
    """What a clip is."""
    flip_map: Mapping[int, int] = field(default_factory=dict)
    """Label -> label of the mirrored clip."""
    roots: tuple[str, ...] | None = None
    """Where videos may lie, links followed; None: anywhere."""
    protocol: Protocol | None = None
    """Evaluation clips have its views; None: the one view of validation. A protocol that looks at whole frames needs
    microbatches of one clip."""
    clips_ready: StoragePath | None = None
    """A file or folder that appears when the clips are there; None: they are there already."""
    cache: VideoCache | None = None
    """Where videos of object storage are kept; None: nowhere."""
    shared: SharedClips | None = None
    """Where decoded clips are shared with other streams; None: nowhere."""
    clip_timeout_s: float = CLIP_TIMEOUT_S
    """Seconds that a decoder may spend on one clip before it is started again (`w3ray.data.decode_watch`)."""
    plugins: Shipment = NO_PLUGINS
    """What each process that makes or takes microbatches must load first."""

    def for_world_size(self: "StreamSpec[Schedule]", world_size: int) -> "StreamSpec[Schedule]":
        """The same stream for so many consumers."""
        return replace(self, schedule=self.schedule.for_world_size(world_size))
