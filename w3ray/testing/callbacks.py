"""The contract of callbacks."""

import inspect
from typing import Any

from w3ray.testing._common import ContractBroken, require, seeded


def check_callback(name: str, *, call: bool = False) -> None:
    """Check a callback of `w3ray.training.callbacks.CALLBACKS`: it can be made and called.

    Args:
        name: in the table.
        call: also make it and call it as a stage of two steps would, with a small network, and check that it leaves
            the network as it was. `w3ray run` does not: a callback may write somewhere.
    """
    from w3ray.training.callbacks import CALLBACKS, HOOKS, callback_fault

    kind = CALLBACKS[name]
    fault = callback_fault(name, kind)
    require(fault is None, fault or "")
    require(_takes(kind), "it must be made without arguments")
    for hook in HOOKS:
        if (method := getattr(kind, hook, None)) is not None:
            require(callable(method), f"{hook} must be a method, not {method!r}")
            static = isinstance(inspect.getattr_static(kind, hook), staticmethod | classmethod)
            require(_takes(method, *(() if static else (None,)), None), f"{hook} must take one argument, the event")
    if call:
        _call(kind())


def _takes(function: Any, *arguments: Any) -> bool:
    try:
        signature = inspect.signature(function)
    except ValueError:  # of some classes in C
        return True
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def _call(callback: Any) -> None:
    import torch

    from w3ray.models import build_model
    from w3ray.training.callbacks import AfterStep, AfterValidation

    with seeded(), torch.no_grad():
        model = build_model("tsm", backbone="resnet_small", num_classes=2, attention={"kind": "w3"})
        before = {key: value.clone() for key, value in model.state_dict().items()}
        for step in (1, 2):
            if hasattr(callback, "on_step"):
                callback.on_step(
                    AfterStep(
                        stage="contract", step=step, total_steps=2, epoch=step - 1, losses={"cross_entropy": 0.7},
                        lr=0.1, accuracy=0.5, grad_norm=1.0, clips=8, world_size=1, model=model,
                    )
                )  # fmt: skip
        for split in ("val", "test"):
            if hasattr(callback, "on_validation"):
                callback.on_validation(
                    AfterValidation(
                        stage="contract", step=2, epoch=1, split=split, attention=(), world_size=1, model=model.eval(),
                        metrics={"top1": 0.5, "top5": 1.0, "mean_class_accuracy": 0.5, "loss": 0.7},
                    )
                )  # fmt: skip
        changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    if changed:
        raise ContractBroken(f"it changes the network: {', '.join(changed[:3])}; a callback may only read it")
