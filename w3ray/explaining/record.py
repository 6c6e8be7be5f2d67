"""What does each attention of a network do with a clip?

Hooks on the attention modules keep what the network's own forward pass computes. Only the affinities of a non-local
block are computed again, because the block never stores them.

Axes: B clips, T frames, C channels, H height, W width. In a non-local block: E channels, P places, Q pooled places.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from w3ray.attention._common import AttentionOutput
from w3ray.attention.nonlocal_block import NonLocal
from w3ray.models._common import VideoModel, VideoOutput

FloatArray = npt.NDArray[np.float32]

_QUERIES_AT_ONCE = 1024


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Look:
    """What one attention did with one clip. In 3D networks, T and the size are those of the attention's stage."""

    kind: str
    """Class of the attention."""
    stage: int
    """Counted from 1."""
    block: int
    """Within the stage, counted from 1."""
    mask_THW: FloatArray | None
    """Where the attention looks. W3 and CBAM: the spatial gate (M^s, Eq. 6), between 0 and the attention's `gate_max`.
    Non-local block: the mean attention that each place receives from all places; 1 is the value of an even look.
    None: the attention has no mask."""
    gate_TC: FloatArray | None
    """Which channels the attention lets pass at each frame (M^c of W3, Eq. 4), between 0 and `gate_max`. None: it has
    no channel gate."""


def record(
    model: VideoModel, x_BTCHW: Tensor, side_inputs: Mapping[str, Tensor] | None = None
) -> tuple[VideoOutput, list[Look]]:
    """Run one clip through a network and keep what its attentions do, first block to last.

    Args:
        model: already in the mode in which it shall run.
        x_BTCHW: one normalised clip [1, T, 3, H, W].
        side_inputs: further arguments of the model's `forward`, [1, ...] each.

    Raises:
        ValueError: the batch does not hold exactly one clip.
    """
    if len(x_BTCHW) != 1:
        raise ValueError(f"record: {len(x_BTCHW)} clips: must be one")
    kept: list[tuple[int, int, nn.Module, dict[str, Tensor]]] = []
    with ExitStack() as stack:
        for i, stage in enumerate(model.stages(), 1):
            for j, site in enumerate(stage, 1):
                if isinstance(attention := site.attention, nn.Module):
                    kept.append((i, j, attention, stack.enter_context(_kept(attention))))
        output = model(x_BTCHW, **(side_inputs or {}))
    looks = []
    for stage_number, block_number, attention, tensors in kept:
        mask_BTHW = tensors.get("mask")
        looks.append(
            Look(
                kind=type(attention).__name__,
                stage=stage_number,
                block=block_number,
                mask_THW=None if mask_BTHW is None else _array(model.whole_clip(mask_BTHW)),
                gate_TC=_array(model.whole_clip(tensors["gate"])) if "gate" in tensors else None,
            )
        )
    return output, looks


def received_attention(theta_NEHW: Tensor, phi_NEHW: Tensor, *, num_frames: int) -> Tensor:
    """How much attention each place of one clip receives: Q times the mean of the rows of the affinity matrix.

    The matrix softmax_j(theta(x_i) . phi(x_j)) is Eq. 1-4 of Wang et al., CVPR 2018. Its rows sum to 1, so the mean of
    the result is 1.

    Args:
        theta_NEHW: queries [T, E, H, W].
        phi_NEHW: keys [T, E, H', W'].
        num_frames: T.

    Returns:
        [1, T, H', W'].
    """
    theta_PE = theta_NEHW.detach().permute(0, 2, 3, 1).flatten(0, 2)
    phi_QE = phi_NEHW.detach().permute(0, 2, 3, 1).flatten(0, 2)
    received_Q = theta_PE.new_zeros(len(phi_QE), dtype=torch.float32)
    for part_PE in theta_PE.split(_QUERIES_AT_ONCE):  # all P x Q numbers at once may need too much memory
        received_Q += (part_PE @ phi_QE.T).float().softmax(dim=1).sum(dim=0)
    received_Q *= len(phi_QE) / len(theta_PE)
    return received_Q.view(1, num_frames, *phi_NEHW.shape[2:])


@contextmanager
def _kept(attention: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Keep what an attention computes inside the `with` block, by name."""
    tensors: dict[str, Tensor] = {}

    def keep_gate(module: nn.Module, inputs: Any, output: Tensor) -> None:
        tensors["gate"] = output

    def keep_mask(module: nn.Module, inputs: tuple[Tensor, ...], output: AttentionOutput) -> None:
        if isinstance(attention, NonLocal):
            x_BTCHW = inputs[0]
            pairs = [attention.project(x_TCHW)[:2] for x_TCHW in x_BTCHW]  # a model may cut its clip into several
            tensors["mask"] = torch.cat(
                [
                    received_attention(theta_NEHW * attention.affinity_scale, phi_NEHW, num_frames=x_BTCHW.shape[1])
                    for theta_NEHW, phi_NEHW in pairs
                ]
            )
        elif output.mask_BTHW is not None:
            tensors["mask"] = output.mask_BTHW

    handles = [attention.register_forward_hook(keep_mask)]
    if isinstance(channel := getattr(attention, "channel", None), nn.Module):
        handles.append(channel.register_forward_hook(keep_gate))
    try:
        yield tensors
    finally:
        for handle in handles:
            handle.remove()


def _array(x: Tensor) -> FloatArray:
    array: FloatArray = x.detach().float().cpu().numpy()
    return array
