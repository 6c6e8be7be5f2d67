"""How is a network exported that takes frame after frame?

The state of the stream (`w3ray.models.streaming`) goes in and comes out. The caller keeps it between two calls.

    frame    uint8   [batch, S, S, C]   the next frame of each stream
    state_i  float32 [batch, ...]       zeros for the first frame, then next_i of the call before
    logits   float32 [batch, K]         of this frame; a clip's logits are the mean of its frames' logits
    scores   float32 [batch, K]         of this frame
    next_i   float32 [batch, ...]
"""

from typing import Any

import torch
from torch import Tensor

from w3ray.evaluation.head_scores import scores_of_logits
from w3ray.evaluation.normalize import normalize_clips, scale_and_shift
from w3ray.export._common import Exportable, Run, check_clips, clip_of, describe
from w3ray.models._common import VideoModel
from w3ray.models.bundle import ModelDescription
from w3ray.models.streaming import FrameStream


class StreamRecogniser(Exportable):
    """A network from a raw frame and the state to logits, scores and the new state.

    Raises:
        ValueError: the network cannot be streamed.
    """

    scale_C: Tensor
    shift_C: Tensor

    def __init__(self, network: VideoModel, description: ModelDescription) -> None:
        super().__init__()
        self.clip, self.heads, self.description = clip_of(description), description.heads, description
        self.stream = FrameStream(network, self.clip.size)
        self.states = self.stream.start(2)
        self.input_names = ("frame", *(f"state_{i}" for i in range(len(self.states))))
        self.output_names = ("logits", "scores", *(f"next_{i}" for i in range(len(self.states))))
        scale_C, shift_C = scale_and_shift(description.mean, description.std)
        self.register_buffer("scale_C", scale_C)
        self.register_buffer("shift_C", shift_C)

    def forward(self, frame: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """uint8 [B, S, S, C] and the state -> logits and scores, float32 [B, K], and the new state."""
        x_BHWC = frame.to(torch.float32) * self.scale_C + self.shift_C
        logits_BK, new = self.stream(x_BHWC.permute(0, 3, 1, 2).unsqueeze(1), state)
        return (logits_BK, scores_of_logits(logits_BK, self.heads), *new)

    def example(self) -> tuple[Tensor, ...]:
        return (check_clips(2, self.clip)[:, 0].contiguous(), *self.states)

    def dynamic_shapes(self, batch: Any) -> dict[str, Any]:
        return {"frame": {0: batch}, "state": tuple({0: batch} for _ in self.states)}

    def describe(self) -> dict[str, Any]:
        document = describe(self.description)
        clip = self.clip

        def tensor(shape: Any, meaning: str, dtype: str = "float32") -> dict[str, Any]:
            return {"dtype": dtype, "shape": ["batch", *shape], "meaning": meaning}

        frame = tensor(
            (clip.size, clip.size, clip.channels), "the next frame, RGB from 0 to 255; not normalised", "uint8"
        )
        shapes = [one.shape[1:] for one in self.states]
        given = {f"state_{i}": tensor(shape, "zeros at first, then next_i") for i, shape in enumerate(shapes)}
        kept = {f"next_{i}": tensor(shape, "state_i of the next call") for i, shape in enumerate(shapes)}
        outputs = {
            "logits": {**document["outputs"]["logits"], "meaning": "logit of each class, of this frame"},
            "scores": {**document["outputs"]["scores"], "meaning": "score of each class, of this frame"},
        }
        return {**document, "stream": True, "inputs": {"frame": frame, **given}, "outputs": {**outputs, **kept}}

    def differences(self, run: Run) -> tuple[float, float]:
        """Two streams, frame by frame, compared with the network on clips of all frames so far."""
        clips = check_clips(2, self.clip)
        x_BTCHW = normalize_clips(clips, mean=self.description.mean, std=self.description.std)
        frames, state = [], self.states
        logits_difference = scores_difference = 0.0
        for number, frame in enumerate(clips.unbind(1)):
            logits_BK, scores_BK, *new = run(frame.contiguous(), *state)
            state = tuple(new)
            frames.append(logits_BK)
            with torch.inference_mode():
                expected_BK, _ = self.stream(x_BTCHW[:, : number + 1], None)
            spread = max(float((expected_BK[0] - expected_BK[1]).abs().max()), 1e-3 * float(expected_BK.abs().max()))
            logits = (torch.stack(frames).mean(0) - expected_BK).abs().max() / max(spread, 1e-9)
            own_BK = scores_of_logits(logits_BK, self.heads)
            scores = (scores_BK - own_BK).abs().max()
            # torch.maximum keeps a NaN of the exported network; Python's max would drop it.
            logits_difference = float(torch.maximum(logits, torch.tensor(logits_difference)))
            scores_difference = float(torch.maximum(scores, torch.tensor(scores_difference)))
        return logits_difference, scores_difference
