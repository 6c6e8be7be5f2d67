"""Draws what a network looks at in the chosen clips of a recipe, during training.

The first worker draws pictures with the current weights and sends them as events. The driver passes them to MLflow.
Training is not affected: the network runs in eval mode, no random number is drawn, a separate process decodes the clips
once, and a failure only costs a picture. The cost is the time to draw, about a second for each clip. The other workers
wait for it.
"""

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from w3ray.data.bank import BANK_COLUMN
from w3ray.data.boxes import BOXES_COLUMN
from w3ray.data.clip import ClipSpec, read_clip
from w3ray.data.side_inputs import Extras, extras_of
from w3ray.events import Explained, Warned
from w3ray.heads import Heads
from w3ray.plugins import NO_PLUGINS, Shipment

if TYPE_CHECKING:  # the driver reads this module before it needs Ray or torch
    from w3ray.models._common import VideoModel
    from w3ray.runtime.event_channel import Sender


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedClip:
    """A clip of a manifest for which pictures are drawn. `true` is its class, if known."""

    clip_id: str
    uri: str
    start_s: float | None
    end_s: float | None
    reversed: bool
    true: str | None
    boxes: bytes | None = None
    """As in the column `w3ray.data.boxes.BOXES_COLUMN`, if the clips have boxes."""
    bank: str | None = None
    """As in the column `w3ray.data.bank.BANK_COLUMN`, if the clips come with a bank."""


class ClipPictures:
    """Draws the chosen clips of one stage.

    Args:
        clips: the chosen clips. A clip that cannot be decoded is reported once and left out.
        spec: how frames of a clip are chosen and sized.
        stage, heads: the stage of the pictures, and the meaning of its scores.
        roots: folders where videos may be.
        decode_timeout_s: for all clips together.
        events: receives pictures and warnings.
        plugins: what the decoding process must load.
    """

    def __init__(
        self,
        clips: Sequence[ExplainedClip],
        *,
        spec: ClipSpec,
        stage: str,
        heads: Heads,
        roots: Sequence[str] | None,
        decode_timeout_s: float,
        events: "Sender",
        plugins: Shipment = NO_PLUGINS,
    ) -> None:
        self._clips, self._spec, self._stage, self._heads = tuple(clips), spec, stage, heads
        self._roots, self._decode_timeout_s, self._events = roots, decode_timeout_s, events
        self._plugins = plugins
        self._frames: dict[ExplainedClip, tuple[np.ndarray, Extras]] | None = None

    def draw(self, model: "VideoModel", step: int) -> None:
        """Send a picture of each clip. The model is not changed."""
        if self._frames is None:  # not earlier: when a stage starts, its synthetic data set may not be complete
            self._frames = self._decoded()
        for clip, (frames_TSSC, extras) in list(self._frames.items()):
            try:
                picture = self._picture(model, clip, frames_TSSC, extras, step)
            except Exception as error:  # any exception: a picture must not end the training
                del self._frames[clip]
                self._warn(clip, error)
                continue
            self._events.send(Explained(stage=self._stage, step=step, clip_id=clip.clip_id, picture=picture))
        self._events.flush()

    def _picture(
        self, model: "VideoModel", clip: ExplainedClip, frames_TSSC: np.ndarray, extras: Extras, step: int
    ) -> bytes:
        from w3ray.explaining import explain_clip, strip_figure

        heads = self._heads
        found = explain_clip(
            model, frames_TSSC, classes=heads.classes, head_sizes=heads.sizes, multi_label=heads.multi_label,
            name=self._stage, extras=extras,
        )  # fmt: skip
        figure = strip_figure(frames_TSSC, [found], title=f"{clip.clip_id}, step {step}", true=clip.true)
        content = io.BytesIO()
        figure.savefig(content, format="png")
        return content.getvalue()

    def _decoded(self) -> dict[ExplainedClip, tuple[np.ndarray, Extras]]:
        """The clips that can be decoded. Another process decodes them: a broken video may crash or hang its decoder."""
        import ray

        # It requests no CPU, because the plan has assigned all of them.
        load = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy="DEFAULT")(_load)
        deadline = time.monotonic() + self._decode_timeout_s
        found = {}
        for clip in self._clips:
            answer = load.remote(clip, self._spec, self._roots, self._plugins)
            try:
                found[clip] = ray.get(answer, timeout=max(0.0, deadline - time.monotonic()))
            except Exception as error:  # as above
                ray.cancel(answer, force=True)
                self._warn(clip, error)
        return found

    def _warn(self, clip: ExplainedClip, error: Exception) -> None:
        from w3ray.runtime.faults import last_line

        self._events.send(
            Warned(
                message=f"stage {self._stage}: no pictures of {clip.clip_id} (tracking.explain_clips) from now on: "
                f"{last_line(error)}"
            )
        )


def _load(clip: ExplainedClip, spec: ClipSpec, roots: Sequence[str] | None, plugins: Shipment) -> Any:
    """As evaluation sees it."""
    plugins.load()
    found = read_clip(
        clip.uri, label=0, spec=spec, rng=None, start_s=clip.start_s, end_s=clip.end_s, reversed=clip.reversed,
        roots=roots,
    )  # fmt: skip
    return found.frames_TSSC, extras_of({BOXES_COLUMN: clip.boxes, BANK_COLUMN: clip.bank}, found, spec)
