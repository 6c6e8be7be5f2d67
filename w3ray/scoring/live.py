"""What happens now? Scores of a live source, frame after frame: a file, a camera, or a network address.

Each frame goes through the network once (`w3ray.models.streaming`). The score of a moment is the softmax of the mean
logits of the last T frames, where T is the number of frames of a training clip: what the network gives a clip of these
frames, except that it also remembers what was before them.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from w3ray.data.clip import ClipSpec
from w3ray.data.crop import Frames, centre_crop_box, crop_and_resize
from w3ray.data.live_frames import LiveFrames, Source
from w3ray.errors import InputError
from w3ray.evaluation.best import best_classes
from w3ray.evaluation.head_scores import scores_of_logits
from w3ray.evaluation.normalize import normalize_clips
from w3ray.models.bundle import ModelDescription

if TYPE_CHECKING:
    from torch import Tensor

    from w3ray.models._common import VideoModel
    from w3ray.models.streaming import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The scores after a frame."""

    number: int
    """Of the frame, counted from 0, among those that were scored."""
    time_s: float | None
    """When the frame is shown, in seconds after the first one. None: the frame was given without a time."""
    scores: Mapping[str, float]
    """Class -> score of the last T frames. The scores of each head add up to 1."""
    frame_scores: Mapping[str, float]
    """Class -> score of this frame alone."""
    top: tuple[tuple[str, float], ...]
    """The best classes with their scores, best first."""
    skipped: int = 0
    """Frames of a live source since the last moment that came faster than they could be scored."""


class LiveScorer:
    """Scores frame after frame. Made by `w3ray.stream`.

    Args:
        model, description: as `w3ray.models.bundle.load_model` returns them.
        top: how many classes are in `Moment.top`.
        device: where the network runs.

    Raises:
        InputError: the network reads later frames, or more than frames.
    """

    def __init__(
        self, model: "VideoModel", description: ModelDescription, *, top: int = 5, device: str = "cpu"
    ) -> None:
        from w3ray.models.side_inputs import names_of
        from w3ray.models.streaming import FrameStream

        self.spec, self.description, self._top, self._device = ClipSpec(**description.clip), description, top, device
        if self.spec.flow_fields is not None:
            raise InputError("the model reads optical flow, and a stream has frames; use a model of RGB frames")
        if needs := names_of(model):
            raise InputError(f"the model reads {', '.join(needs)} with each clip, and a stream has frames only")
        try:
            self._stream = FrameStream(model.to(device), self.spec.size)
        except ValueError as error:
            raise InputError(str(error)) from error
        self.reset()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the scores."""
        return self.description.classes

    def reset(self) -> None:
        """Forget all frames, as for another scene."""
        self._state: State | None = None
        self._number = 0
        self._logits: deque[Tensor] = deque(maxlen=self.spec.num_frames)

    def __call__(self, frame_HWC: Frames, *, time_s: float | None = None) -> Moment:
        """Score the next frame.

        Args:
            frame_HWC: uint8 [H, W, 3], RGB, of any size; its centre is used, as in evaluation.
            time_s: when it is shown, for the answer.

        Raises:
            InputError: it is not such a frame.
        """
        return self._seen(frame_HWC, time_s, 0)

    def watch(
        self,
        source: Source,
        *,
        every_s: float | None = None,
        live: bool | None = None,
        timeout_s: float = 10.0,
        options: Mapping[str, str] | None = None,
    ) -> Iterator[Moment]:
        """Score the frames of a source until it ends. The stream is reset first.

        Args:
            source: a file, the number of a camera (0, 1, ...), or an address such as `rtsp://camera.local/1`.
            every_s: seconds between two scored frames. None: as in training for dense sampling (`stride_frames`), and
                every frame for other samplings.
            live: frames that come while another is scored are skipped, so that the scores are those of now. None: for
                cameras and addresses, but not for files.
            timeout_s: how long a source may give nothing.
            options: options of FFmpeg for the source, such as {"rtsp_transport": "tcp"}.

        Raises:
            InputError: the source cannot be opened, or `every_s` is not above 0.
            RunError: it gives nothing for `timeout_s`.
        """
        every = self.spec.stride_frames if self.spec.sampling == "dense" and every_s is None else 1
        self.reset()
        with LiveFrames(
            source, every=every, every_s=every_s, live=live, timeout_s=timeout_s, options=options
        ) as frames:
            for frame in frames:
                yield self._seen(frame.frame_HWC, frame.time_s, frame.skipped)

    def _seen(self, frame_HWC: Frames, time_s: float | None, skipped: int) -> Moment:
        import torch

        frame_HWC = np.asarray(frame_HWC)
        if frame_HWC.dtype != np.uint8 or frame_HWC.ndim != 3 or frame_HWC.shape[2] != 3 or 0 in frame_HWC.shape:
            raise InputError(
                f"a frame must be uint8 [height, width, 3], RGB, not {frame_HWC.dtype} {list(frame_HWC.shape)}"
            )
        spec = self.spec
        height, width, _ = frame_HWC.shape
        box = centre_crop_box(height, width, spec.size / spec.resolved_short_side)
        clip_11SSC = torch.from_numpy(crop_and_resize(frame_HWC[None], box, spec.size))[None]
        x_BTCHW = normalize_clips(clip_11SSC.to(self._device), mean=self.description.mean, std=self.description.std)
        with torch.inference_mode():
            logits_BK, self._state = self._stream(x_BTCHW, self._state)
            logits_K = logits_BK[0].double().cpu()
            self._logits.append(logits_K)
            heads = self.description.heads
            scores_K = scores_of_logits(torch.stack(tuple(self._logits)).mean(0), heads).float().numpy()
            own_K = scores_of_logits(logits_K, heads).float().numpy()
        self._number += 1
        return Moment(
            number=self._number - 1,
            time_s=time_s,
            scores=self._named(scores_K),
            frame_scores=self._named(own_K),
            top=best_classes(scores_K, heads, self._top).top,
            skipped=skipped,
        )

    def _named(self, scores_K: Any) -> dict[str, float]:
        return dict(zip(self.classes, scores_K.tolist(), strict=True))
