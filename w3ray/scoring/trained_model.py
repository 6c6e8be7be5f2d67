"""A trained network for one's own program: what `w3ray.load_model` returns.

Letters: B clips, T frames, S side of a square, C channels, K classes (of all heads, if there are several).
"""

import os
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from w3ray.data.clip import ClipSpec
from w3ray.data.decoders import DecodeError
from w3ray.data.views import load_views, parse_protocol
from w3ray.errors import InputError
from w3ray.evaluation.best import best_classes
from w3ray.evaluation.head_scores import scores_of_logits
from w3ray.evaluation.normalize import normalize_clips
from w3ray.heads import Heads
from w3ray.models._common import VideoModel
from w3ray.models.bundle import DESCRIPTION_NAME, ModelDescription, load_model, model_folder
from w3ray.models.side_inputs import chosen
from w3ray.storage import fetched

_VIEW = "1clip-center"


class TrainedModel(nn.Module):
    """A trained network with what is needed to use it. It is in evaluation mode, on the CPU.

        frames = model.read("clip.mp4")     # uint8 [T, S, S, C], the frames that the network was trained to see
        model.scores(frames)                # float32 [1, K]
        model(model.prepare(frames))        # logits, with gradients

    `model.to("cuda")` moves it, as any module of torch; `prepare` and `scores` follow.

    Args:
        network: as `w3ray.models.bundle.load_model` returns it.
        description: as above.

    Raises:
        ValueError: the clips of the description cannot be used.
    """

    def __init__(self, network: VideoModel, description: ModelDescription) -> None:
        super().__init__()
        self.network = network
        """The network itself: its output also has the last feature maps."""
        self.description = description
        """What `model.json` says: the arguments of `build_model`, the stage, the metrics."""
        self.clip = ClipSpec(**description.clip)
        """Which frames of a video the network sees, and at which size."""
        self.eval()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the K classes, in the order of logits and scores."""
        return self.description.classes

    @property
    def heads(self) -> Heads:
        """Which classes belong to which head, for a network with several."""
        return self.description.heads

    def forward(self, x_BTCHW: Tensor, **side_inputs: Tensor) -> Tensor:
        """Logits, [B, K].

        Args:
            x_BTCHW: clips as `prepare` returns them.
            side_inputs: what the network reads besides clips, by name (`model.network.side_inputs`); most read nothing.

        Raises:
            ValueError: a side input is absent.
        """
        device = next(self.network.parameters()).device
        logits_BK: Tensor = self.network(x_BTCHW, **chosen(self.network, side_inputs, device)).logits_BK
        return logits_BK

    def prepare(self, frames: "np.ndarray | Tensor") -> Tensor:
        """Frames as the network takes them: normalised float32 [B, T, C, H, W] on the network's device.

        Args:
            frames: uint8 [B, T, H, W, C], or [T, H, W, C] for one clip, 0 to 255. RGB, or the channels of optical flow.

        Raises:
            InputError: they have another type or shape.
        """
        clips = torch.as_tensor(frames)
        clips_BTHWC = clips[None] if clips.dim() == 4 else clips
        wanted = (self.clip.num_frames, self.clip.channels)
        if clips.dtype != torch.uint8 or clips_BTHWC.dim() != 5 or clips_BTHWC.shape[1::3] != wanted:
            raise InputError(
                f"frames must be uint8 [B, {wanted[0]}, H, W, {wanted[1]}] or [{wanted[0]}, H, W, {wanted[1]}], "
                f"0 to 255, not {str(clips.dtype).removeprefix('torch.')} {list(clips.shape)}"
            )
        device = next(self.network.parameters()).device
        return normalize_clips(clips_BTHWC.to(device), mean=self.description.mean, std=self.description.std)

    @torch.inference_mode()
    def scores(self, frames: "np.ndarray | Tensor", **side_inputs: Tensor) -> Tensor:
        """Scores of clips, float32 [B, K] on the network's device. Those of each head sum to 1.

        Args:
            frames: as in `prepare`.
            side_inputs: as in `forward`.

        Raises:
            InputError: as `prepare`.
            ValueError: as `forward`.
        """
        return scores_of_logits(self(self.prepare(frames), **side_inputs), self.heads).float()

    def read(
        self, video: "str | os.PathLike[str]", *, start_s: float | None = None, end_s: float | None = None
    ) -> np.ndarray:
        """The frames of a video that the network sees, uint8 [T, S, S, C]: those of `w3ray.predict`.

        Args:
            video: a file, a folder of frames, or an address in object storage.
            start_s, end_s: seconds of the clip in the video; None: from its beginning, to its end.

        Raises:
            InputError: it cannot be read.
        """
        try:
            return load_views(
                os.fspath(video), spec=self.clip, protocol=parse_protocol(_VIEW), start_s=start_s, end_s=end_s
            )[0]
        except DecodeError as error:
            raise InputError(str(error)) from error

    def best(self, scores_K: "np.ndarray | Tensor", top: int = 5) -> tuple[tuple[str, float], ...]:
        """Class names and scores of one clip, best first. With several heads: of the combinations of their classes."""
        return best_classes(torch.as_tensor(scores_K).cpu().numpy(), self.heads, top).top


def trained_model(location: str) -> TrainedModel:
    """The model of a folder, or of the folder of its stage.

    Raises:
        InputError: there is no model, or it cannot be used.
    """
    folder = model_folder(location)
    with fetched(folder) as local:
        network, description = load_model(local)
    try:
        return TrainedModel(cast(VideoModel, network), description)
    except (TypeError, ValueError) as error:
        raise InputError(f"{folder}/{DESCRIPTION_NAME}: clip: {error}; written by another version?") from error
