"""Calls a stage's callbacks, and sees to it that they only watch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from w3ray._registry import cause
from w3ray.models._common import VideoModel
from w3ray.runtime.faults import CallbackFailed
from w3ray.runtime.heartbeat import Heartbeat
from w3ray.runtime.ranks import Ranks
from w3ray.runtime.validation import Scored
from w3ray.training.callbacks import CALLBACKS, HOOKS, AfterStep, AfterValidation, callback_fault


class Callbacks:
    """The callbacks of one stage. Every rank has this object, but only the first one makes callbacks and calls them.

    Args:
        names: in `CALLBACKS`.
        stage: its name.
        ranks: the ranks of the stage.
        heartbeat: reports which callback runs.

    Raises:
        CallbackFailed: one is no callback, or cannot be made.
    """

    def __init__(self, names: Sequence[str], *, stage: str, ranks: Ranks, heartbeat: Heartbeat) -> None:
        self._stage, self._ranks, self._heartbeat = stage, ranks, heartbeat
        self._callbacks: dict[str, Any] = {}
        self.watch_steps = False
        """Whether a callback wants each step. The same on all ranks, because the ranks sum its losses together."""
        for name in names:
            kind = CALLBACKS[name]
            if (fault := callback_fault(name, kind)) is not None:
                raise CallbackFailed(f"callback {name!r}: {fault}")
            self.watch_steps |= callable(getattr(kind, HOOKS[0], None))
            if ranks.rank == 0:
                with self._explained(name, "when it was made"):
                    self._callbacks[name] = kind()

    def after_step(self, event: AfterStep) -> None:
        """Call `on_step` of the callbacks.

        Raises:
            CallbackFailed: one raised, or changed the network.
        """
        self._call("on_step", event)

    def after_validation(
        self, model: VideoModel, split: Literal["val", "test"], scored: Scored, *, step: int, epoch: int
    ) -> None:
        """Call `on_validation` of the callbacks. The arguments are those of `Validation.score`, and its result.

        Raises:
            CallbackFailed: one raised, or changed the network.
        """
        if self._callbacks:
            self._call(
                "on_validation",
                AfterValidation(
                    stage=self._stage,
                    step=step,
                    epoch=epoch,
                    split=split,
                    metrics=dict(scored.metrics),
                    attention=scored.attention,
                    world_size=self._ranks.world_size,
                    model=model,
                ),
            )

    def _call(self, hook: str, event: AfterStep | AfterValidation) -> None:
        for name, callback in self._callbacks.items():
            function = getattr(callback, hook, None)
            if function is None:
                continue
            self._heartbeat.doing(f"runs {hook} of callback {name!r}")
            with _modes_kept(event.model), torch.no_grad():
                before = _versions(event.model)
                with self._explained(name, f"in {hook} after step {event.step}"):
                    function(event)
                if _versions(event.model) != before:
                    raise CallbackFailed(
                        f"callback {name!r} changed the network in {hook} after step {event.step}: a callback may only "
                        "read it, in evaluation mode or on a copy"
                    )

    @contextmanager
    def _explained(self, name: str, when: str) -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:  # a callback can raise anything
            raise CallbackFailed(f"callback {name!r} raised {when}: {cause(error)}") from error


@contextmanager
def _modes_kept(model: nn.Module) -> Iterator[None]:
    """Put every module back into its mode: a callback may want to look at the network in evaluation mode."""
    modes = [(module, module.training) for module in model.modules()]
    yield
    for module, training in modes:
        module.training = training


def _versions(model: nn.Module) -> list[tuple[int, int]]:
    """Which tensors the network has, and how often each was written to (torch counts it). No value is read."""
    tensors = [*model.parameters(), *model.buffers()]
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [(id(tensor), tensor._version) for tensor in (*tensors, *grads)]
