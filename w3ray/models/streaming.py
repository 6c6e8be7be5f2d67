"""A network that takes frame after frame: it keeps what it needs of earlier frames, and computes each frame once.

TSM's online ("uni-directional") shift (Lin et al., arXiv:1811.08383) and causal W3 read only earlier frames. So the
scores of a frame in a stream are those that the network gives it at the end of a clip with all frames so far. A clip's
logits are the mean of its frames' logits.

The state is a tuple of tensors, one for each module that reads earlier frames. It starts with zeros, like the time
before a clip.

Axes: B streams, T frames, C channels, H height, W width, K classes.
"""

import copy
from typing import cast

import torch
from torch import Tensor, nn

from w3ray.attention.w3 import FrameWindowConv, PastConv1d
from w3ray.models._common import VideoModel
from w3ray.models.heads import MeanHead
from w3ray.models.shift import TemporalShift
from w3ray.models.tsn import TSN

State = tuple[Tensor, ...]
"""What a stream remembers."""

_CHECK_FRAMES, _CHECK_TOLERANCE = 4, 1e-4


class FrameStream(nn.Module):
    """A copy of a network that is called with the next frames and the state of the frames before.

    Args:
        model: TSN, or TSM with `shift_mode: online`; its attention must not read later frames.
        size: side of the frames, pixels.

    Raises:
        ValueError: the network reads later frames, or mixes frames in a way that cannot be streamed.
    """

    def __init__(self, model: VideoModel, size: int) -> None:
        super().__init__()
        _check(model)
        self.network = copy.deepcopy(model).eval()
        self._tape = _Tape()
        for module in self.network.modules():
            if isinstance(module, TemporalShift | PastConv1d | FrameWindowConv):
                module.past = self._tape.extended
        first = next(self.network.parameters())
        self._example = torch.zeros(1, 1, self.network.pixels.channels, size, size, dtype=first.dtype)
        with torch.inference_mode():
            self._shapes = [one.shape[1:] for one in self(self._example.to(first.device), None)[1]]
        self._check_equal()

    def start(self, batch: int = 1) -> State:
        """The state before the first frame."""
        first = next(self.network.parameters())
        return tuple(torch.zeros(batch, *shape, dtype=first.dtype, device=first.device) for shape in self._shapes)

    def forward(self, x_BTCHW: Tensor, state: State | None) -> tuple[Tensor, State]:
        """The logits [B, K] of the next frames (their mean, if there are several), and the new state.

        Args:
            x_BTCHW: normalised frames, in the order of time.
            state: from the call before. None: these are the first frames.
        """
        self._tape.begin(state)
        logits_BK = self.network(x_BTCHW).logits_BK
        return logits_BK, self._tape.end()

    @torch.inference_mode()
    def _check_equal(self) -> None:
        """Raises: ValueError if a stream gives other logits than a clip, as a module of a plugin could cause."""
        first = next(self.network.parameters())
        random = torch.Generator().manual_seed(0)
        x_BTCHW = torch.randn(1, _CHECK_FRAMES, *self._example.shape[2:], generator=random).to(first)
        whole_BK, _ = self(x_BTCHW, None)
        state, summed = self.start(), torch.zeros_like(whole_BK)
        for frame in x_BTCHW.split(1, dim=1):
            logits_BK, state = self(frame, state)
            summed += logits_BK
        difference = (summed / _CHECK_FRAMES - whole_BK).abs().max()
        if not difference <= _CHECK_TOLERANCE * max(1.0, float(whole_BK.abs().max())):
            raise ValueError(
                f"its frames give other scores one by one than together (by {float(difference):.2g}), so a module "
                "mixes frames in a way that cannot be streamed"
            )


class _Tape:
    """Gives each module its part of the state, in the order of the calls, and collects the new state."""

    def __init__(self) -> None:
        self._old: State | None = None
        self._new: list[Tensor] = []

    def begin(self, state: State | None) -> None:
        self._old, self._new = state, []

    def end(self) -> State:
        new, self._old, self._new = tuple(self._new), None, []
        return new

    def extended(self, x: Tensor, count: int, dim: int) -> Tensor:
        """`Past`: x with the remembered frames in front; its last `count` frames are remembered."""
        if self._old is None:
            shape = list(x.shape)
            shape[dim] = count
            before = x.new_zeros(shape)
        else:
            before = self._old[len(self._new)]
        whole = torch.cat([before, x], dim=dim)
        self._new.append(whole.narrow(dim, whole.shape[dim] - count, count))
        return whole


def _check(model: VideoModel) -> None:
    name = type(model).__name__
    if not isinstance(model, TSN) or not isinstance(model.classifier, MeanHead):
        raise ValueError(f"{name} cannot be streamed: only TSN and TSM score each frame; use model: tsm")
    for stage in model.backbone.temporal_stages():
        for site in stage:
            temporal = site.temporal
            if isinstance(temporal, TemporalShift) and temporal.mode != "online":
                raise ValueError(f"{name} reads later frames; train with model.options.shift_mode=online")
            if temporal is not None and not isinstance(temporal, TemporalShift):
                raise ValueError(f"{name} cannot be streamed: only TSN and TSM score each frame; use model: tsm")
    for stage in model.stages():
        for site in stage:
            config = getattr(cast(nn.Module, site.attention), "config", None)
            if site.attention is not None and (config is None or config.looks_ahead):
                hint = "; train with model.attention.causal=true" if getattr(config, "kind", "") == "w3" else ""
                raise ValueError(f"{type(site.attention).__name__} attention reads later frames{hint}")
