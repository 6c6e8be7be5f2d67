"""How do trials of a sweep that learn from the same teacher run it once for each microbatch?

Trials with the same seed and batch size train on the same microbatches, and a finished teacher gives the same features
for the same pixels. The first trial that needs them keeps them beside the clips that the trials share
(`w3ray.data.shared_clips`). Later trials read them, so their steps cost little more than steps without a teacher.

    <folder of the sweep>/<hash>.features      checksum, then safetensors: a map for each output of the teacher

The hash is of the pixels themselves, of the teacher's stage and weights, and of what decides the arithmetic. So a file
can only hold what the teacher would compute, to the bit.
"""

import hashlib
import json
import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from w3ray.data.schedule import Order
from w3ray.data.shared_clips import SharedClips
from w3ray.data.stream_spec import StreamSpec
from w3ray.models.side_inputs import names_of
from w3ray.storage import replacing

_CHECKSUM_BYTES = 4
_SUFFIX = ".features"
_RECOUNT_EVERY = 64
"""A process counts the bytes of all files again after it has kept so many."""
_FREE_DISK = 4
"""Features take at most this part of the free disk, 1 / `_FREE_DISK`. Shared clips may take half."""


class Features(NamedTuple):
    """What a loss needs from a teacher."""

    features: tuple[Tensor, ...]


def shared_teacher(teacher: nn.Module, name: str, stream: StreamSpec[Order]) -> nn.Module:
    """The teacher, whose features the trials share if their clips are shared on this node.

    Args:
        name: of the teacher's stage, with its identity: networks with equal weights may still compute differently.
    """
    if stream.shared is None or stream.shared.opened(stream.clip, stream.plugins.clip_sources) is None:
        return teacher
    return SharedTeacher(teacher, stream.shared, name)


class SharedTeacher(nn.Module):
    """A teacher on a CPU whose features other trials on this node have kept, or find.

    Args:
        teacher: as a training step would run it.
        shared: where the trials share their clips; a process that uses it has it open (`SharedClips.opened`).
        name: see `shared_teacher`.
    """

    def __init__(self, teacher: nn.Module, shared: SharedClips, name: str = "") -> None:
        super().__init__()
        self.teacher = teacher
        self._folder = shared.folder
        self._identity = (name, _sum_of_weights(teacher))
        disk = os.statvfs(self._folder)
        self._used = self._counted()
        self._limit = min(shared.limit_bytes, self._used + disk.f_bavail * disk.f_frsize // _FREE_DISK)
        self._kept = 0

    @property
    def side_inputs(self) -> tuple[str, ...]:
        """What the teacher reads besides the clips."""
        return names_of(self.teacher)

    def forward(self, x_BTCHW: Tensor, **side_inputs: Tensor) -> Features:
        """The teacher's features of the clips."""
        file = self._folder / (self._key(x_BTCHW, side_inputs) + _SUFFIX)
        found = _read(file)
        if found is None:
            found = self._computed(x_BTCHW, side_inputs)
            self._keep(file, found)
        return Features(found)

    def _computed(self, x_BTCHW: Tensor, side_inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        features: tuple[Tensor, ...] = self.teacher(x_BTCHW, **side_inputs).features
        return features

    def _key(self, x_BTCHW: Tensor, side_inputs: dict[str, Tensor]) -> str:
        arithmetic = (torch.get_num_threads(), torch.is_autocast_enabled("cpu"), str(torch.get_autocast_dtype("cpu")))
        digest = hashlib.sha256(repr((self._identity, arithmetic)).encode())
        for name, tensor in {"": x_BTCHW, **side_inputs}.items():
            digest.update(repr((name, tensor.shape, tensor.stride(), tensor.dtype)).encode())
            digest.update(_bytes(tensor))
        return digest.hexdigest()

    def _keep(self, file: Path, features: tuple[Tensor, ...]) -> None:
        named = {}
        for place, feature in enumerate(features):
            strides = feature.stride()
            order = sorted(range(feature.ndim), key=lambda dim: (-strides[dim], dim))
            in_memory = feature.permute(order)
            if not in_memory.is_contiguous():
                return  # a view of something larger
            named[json.dumps([place, order])] = in_memory
        content = save(named)
        size = _CHECKSUM_BYTES + len(content)
        if self._used + size > self._limit:
            return
        try:
            with replacing(file) as partial, partial.open("wb") as out:
                out.writelines([_checksum(content), content])
        except OSError:  # a full disk only makes the sweep slower
            return
        self._used += size
        self._kept += 1
        if self._kept % _RECOUNT_EVERY == 0:
            self._used = self._counted()

    def _counted(self) -> int:
        total = 0
        for entry in os.scandir(self._folder):
            with suppress(FileNotFoundError):
                total += entry.stat().st_size if entry.name.endswith(_SUFFIX) else 0
        return total


def _read(file: Path) -> tuple[Tensor, ...] | None:
    """Features with the strides that they had; None if nobody kept them, or if the file is damaged."""
    try:
        content = file.read_bytes()
        checksum, rest = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
        named = load(rest) if checksum == _checksum(rest) else {}
    except (OSError, SafetensorError):
        return None
    found = {}
    for name, in_memory in named.items():
        place, order = json.loads(name)
        found[place] = in_memory.permute([order.index(dim) for dim in range(in_memory.ndim)])
    return tuple(found[place] for place in sorted(found)) or None


def _sum_of_weights(teacher: nn.Module) -> str:
    digest = hashlib.sha256(repr(teacher).encode())
    for name, tensor in teacher.state_dict().items():
        digest.update(repr((name, tensor.shape, tensor.stride())).encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data


def _checksum(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(_CHECKSUM_BYTES, "little")
