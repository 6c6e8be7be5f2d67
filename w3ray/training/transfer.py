"""How do the tensors of a microbatch reach the GPU while it still computes the microbatch before?

A copy from ordinary memory makes the process wait until the data is there. A copy from pinned memory on a stream of
its own does not: the process only writes the tensors to pinned memory. Calls of GPU functions return before the GPU
has finished, so this happens while the GPU computes what it was given before. Frames travel as uint8, a quarter of the
bytes of normalised ones.

Nothing is read ahead: a microbatch is sent when the training asks for it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_BUFFERS = 2
"""One that the GPU reads from, one that the process writes to."""


class Transfer:
    """Sends tensors to a device. On a CPU it returns them as they are.

    Args:
        device: where the network is.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._buffers = [_Pinned() for _ in range(_BUFFERS)] if self._stream is not None else []
        self._sent = 0

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The tensors on the device, in the same order. They may be used on the current stream at once."""
        if self._stream is None:
            return list(tensors)
        buffer = self._buffers[self._sent % _BUFFERS]
        self._sent += 1
        staged = buffer.hold(tensors)
        with torch.cuda.stream(self._stream):
            sent = [one.to(self._device, non_blocking=True) for one in staged]
            buffer.reading.record(self._stream)
        user = torch.cuda.current_stream(self._device)
        user.wait_stream(self._stream)
        for one in sent:
            # Their memory belongs to the other stream. It must not be given away before this one has read it.
            one.record_stream(user)
        return sent


class _Pinned:
    """Pinned memory that is used again and again, because pinning takes longer than copying."""

    def __init__(self) -> None:
        self.reading = torch.cuda.Event()
        """Is past when the GPU has read the tensors."""
        self._memory: dict[int, Tensor] = {}

    def hold(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Copies of the tensors in pinned memory. They are valid until the next call."""
        self.reading.synchronize()
        return [self._copy(place, one) for place, one in enumerate(tensors)]

    def _copy(self, place: int, tensor: Tensor) -> Tensor:
        kept = self._memory.get(place)
        if kept is None or kept.dtype != tensor.dtype or kept.numel() < tensor.numel():
            kept = self._memory[place] = torch.empty(tensor.numel(), dtype=tensor.dtype, pin_memory=True)
        return kept[: tensor.numel()].view(tensor.shape).copy_(tensor)
