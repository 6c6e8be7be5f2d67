"""What watches a training from inside its worker? A callback: a class with `on_step`, `on_validation` or both.

A recipe names callbacks in `train.callbacks`. The first worker of a stage makes each one, without arguments, when it
starts, and calls it from then on. Events (`w3ray.events`) tell the driver the same numbers; a callback also sees the
network. It reads and changes nothing, so it is no part of a stage's identity. The table does not import torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from w3ray._registry import Registry
from w3ray.attention.health import StageHealth

if TYPE_CHECKING:
    from w3ray.models._common import VideoModel

HOOKS = ("on_step", "on_validation")
"""The methods of a callback. It has one of them or both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AfterStep:
    """What `on_step` gets after each optimiser step. The numbers are those of all workers together."""

    stage: str
    step: int
    """Steps done in this stage, 1 after the first."""
    total_steps: int
    epoch: int
    """Epoch of this step, counted from 0."""
    losses: Mapping[str, float]
    """Loss parts by name, means over the valid clips of this step."""
    lr: float
    accuracy: float
    """Share of these clips whose highest score was the right class, in training mode."""
    grad_norm: float
    """Norm of the gradient before clipping."""
    clips: int
    """Valid clips of this step."""
    world_size: int
    """Number of workers."""
    model: "VideoModel"
    """The network after the step, in training mode. Its gradients are gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AfterValidation:
    """What `on_validation` gets after a validation, and after the evaluation at the end of a stage."""

    stage: str
    step: int
    """Steps done in this stage."""
    epoch: int
    """Epoch that ended, counted from 0."""
    split: Literal["val", "test"]
    """test: the evaluation at the end of the stage, of its best checkpoint."""
    metrics: Mapping[str, float]
    """As `w3ray.events.Validated` has them: top1, top5, mean_class_accuracy, loss, ..."""
    attention: tuple[StageHealth, ...]
    """What the gates did, one for each stage of the network; empty without attention."""
    world_size: int
    """Number of workers."""
    model: "VideoModel"
    """The network that was scored, in evaluation mode: the moving average if the stage keeps one."""


def callback_fault(name: str, member: Any) -> str | None:
    """Why a member of the table is no callback. None: it is one, or the name of a place that is imported later."""
    if isinstance(member, str) and ":" in member:
        return None
    if not isinstance(member, type):
        return f"it must be a class with {' or '.join(HOOKS)}, not {member!r}"
    if not any(callable(getattr(member, hook, None)) for hook in HOOKS):
        return f"{member.__name__} has neither {HOOKS[0]}(event) nor {HOOKS[1]}(event)"
    return None


CALLBACKS: Registry[Callable[[], Any]] = Registry(
    "callbacks", {}, fault=callback_fault, contract="w3ray.testing:check_callback"
)
"""Name -> class of a callback, or "module:class", which is imported on first use. None is built in."""
