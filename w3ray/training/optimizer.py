"""Which learning rate and weight decay does each parameter get? TSM's recipe, which the W3 paper follows.

TSM's code gives the factor 5 to EVERY linear layer, so W3's channel MLP would get it too. Here only the classifier gets
it. The classifier's parameters are found by identity, not by layer type.
"""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import nn

from w3ray.training.batch_norm import BATCH_NORMS

OptimizerKind = Literal["sgd", "adamw"]
OPTIMIZERS: tuple[str, ...] = get_args(OptimizerKind)

OptimizerT = TypeVar("OptimizerT", bound=torch.optim.Optimizer)

_NORMS = (
    *BATCH_NORMS,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
)

_WRAPPED = ("step", "add_param_group", "zero_grad", "state_dict", "load_state_dict")
"""Methods of an optimizer whose wrappers in torch import its compiler."""

_DECAYING = ("classifier_weight", "weight", "attention_weight", "flow_weight")


def scaled_lr(lr: float, *, batch_size: int, lr_batch_size: int = 64) -> float:
    """Learning rate for a global batch of `batch_size` clips, if `lr` was chosen for `lr_batch_size` (linear rule)."""
    if batch_size < 1 or lr_batch_size < 1:
        raise ValueError(f"batch_size and lr_batch_size must be >= 1, got {batch_size} and {lr_batch_size}")
    return lr * batch_size / lr_batch_size


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    classifier_weight_multiplier: float = 5.0,
    classifier_bias_multiplier: float = 10.0,
    bias_multiplier: float = 2.0,
    attention_multiplier: float = 1.0,
    classifier_parameters: Iterable[nn.Parameter] | None = None,
    flow_weight_multiplier: float = 5.0,
    flow_bias_multiplier: float = 10.0,
    layer_decay: float = 1.0,
    depth_of: Mapping[str, int] | None = None,
) -> list[dict[str, Any]]:
    """Optimizer groups: `classifier_weight`, `classifier_bias`, `weight`, `bias`, `norm`. Empty groups are left out.

    If the attention has a factor, there are also `attention_weight`, `attention_bias` and `attention_norm`. The first
    convolutions of a network that reads optical flow are in `flow_weight` and `flow_bias`. Only weights have weight
    decay; biases and norms have none. Each group has `params`, `lr` and `weight_decay`, and w3ray's own `name`,
    `lr_multiplier` and `parameter_names`. Parameters that do not require gradients are left out, so set the
    batch-norm mode first.

    Args:
        lr: base rate for the global batch that is really used (see `scaled_lr`).
        attention_multiplier: factor on the rate of the attention's parameters (those with "attention" in their dotted
            name), on top of their factor as weight or bias. If it is not 1, they form their own groups.
        classifier_parameters: the parameters of the last layer. None: those of `model.classifier_parameters()`.
        flow_weight_multiplier, flow_bias_multiplier: as in TSN's and TSM's code.
        layer_decay: factor on the rate for each step down from the deepest parameters (layer-wise learning-rate decay,
            as in Bao et al., "BEiT", 2021). If it is not 1, each depth has groups of its own.
        depth_of: parameter name -> depth (`w3ray.training.freeze.depths`); `layer_decay` needs it.

    Raises:
        ValueError: the classifier is unknown or not in the model, or there is nothing to train.
    """
    if classifier_parameters is None:
        classifier_parameters = _classifier_of(model)
    group_of = _Sorter(model, list(classifier_parameters), apart=attention_multiplier != 1.0)
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError(f"{type(model).__name__} has no parameter that requires a gradient")
    settings = {
        "classifier_weight": (classifier_weight_multiplier, weight_decay),
        "classifier_bias": (classifier_bias_multiplier, 0.0),
        "weight": (1.0, weight_decay),
        "bias": (bias_multiplier, 0.0),
        "norm": (1.0, 0.0),
    }
    settings["flow_weight"] = (flow_weight_multiplier, weight_decay)
    settings["flow_bias"] = (flow_bias_multiplier, 0.0)
    for name in ("weight", "bias", "norm"):
        multiplier, decay = settings[name]
        settings[f"attention_{name}"] = (attention_multiplier * multiplier, decay)
    groups = []
    depths = {} if layer_decay == 1.0 else dict(depth_of or {})
    deepest = max(depths.values(), default=0)
    for group_name, (multiplier, decay) in settings.items():
        of_kind = [(name, parameter) for name, parameter in trained if group_of(name, parameter) == group_name]
        for depth in sorted({depths.get(name, deepest) for name, _ in of_kind}, reverse=True):
            members = [(name, parameter) for name, parameter in of_kind if depths.get(name, deepest) == depth]
            factor = multiplier * layer_decay ** (deepest - depth)
            groups.append(
                {
                    "params": [parameter for _, parameter in members],
                    "lr": lr * factor,
                    "weight_decay": decay,
                    "name": group_name,
                    "lr_multiplier": factor,
                    "parameter_names": [name for name, _ in members],
                }
            )
    return groups


def _classifier_of(model: nn.Module) -> Iterable[nn.Parameter]:
    """What the model says its classifier is."""
    ask = getattr(model, "classifier_parameters", None)
    if ask is None:
        raise ValueError(
            f"{type(model).__name__} has no classifier_parameters(): pass classifier_parameters, the parameters "
            f"that get the classifier's learning rate"
        )
    parameters: Iterable[nn.Parameter] = ask()
    return parameters


class _Sorter:
    """Says which group a parameter belongs to.

    Args:
        apart: attention has groups of its own.

    Raises:
        ValueError: the classifier is none of the model's parameters.
    """

    def __init__(self, model: nn.Module, classifier_parameters: list[nn.Parameter], *, apart: bool) -> None:
        self._classifier = {id(parameter) for parameter in classifier_parameters}
        if not self._classifier or not self._classifier <= {id(parameter) for parameter in model.parameters()}:
            raise ValueError(f"classifier_parameters must be parameters of the {type(model).__name__}, at least one")
        self._norms = {
            id(parameter)
            for module in model.modules()
            if isinstance(module, _NORMS)
            for parameter in module.parameters(recurse=False)
        }
        self._apart = apart
        flow: tuple[str, ...] = getattr(model, "flow_convolutions", ())
        self._flow = {id(parameter) for name in flow for parameter in model.get_submodule(name).parameters()}

    def __call__(self, name: str, parameter: nn.Parameter) -> str:
        is_bias = name.rpartition(".")[2].startswith("bias")  # an LSTM's are `bias_ih_l0` and `bias_hh_l0`
        if self._apart and "attention" in name.split("."):
            return f"attention_{self._plain(parameter, is_bias)}"
        if id(parameter) in self._classifier:
            return "classifier_bias" if is_bias else "classifier_weight"
        if id(parameter) in self._flow:
            return "flow_bias" if is_bias else "flow_weight"
        return self._plain(parameter, is_bias)

    def _plain(self, parameter: nn.Parameter, is_bias: bool) -> str:
        if id(parameter) in self._norms:
            return "norm"
        if is_bias:
            return "bias"
        # A scale or gate that is a bare parameter is no weight matrix: decaying it to 0 would switch it off.
        return "weight" if parameter.ndim > 1 else "norm"


def build_optimizer(
    kind: OptimizerKind,
    groups: list[dict[str, Any]],
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> torch.optim.Optimizer:
    """SGD (`momentum`, `nesterov`) or AdamW (`betas`, `eps`) over the groups of `parameter_groups`.

    On a GPU the update is fused: one kernel for many parameters, where each operation would be a pass over all of them.
    On a CPU it is not, because other code would give other bits.

    Raises:
        ValueError: unknown kind.
    """
    fused = True if all(one.is_cuda for group in groups for one in group["params"]) else None
    if kind == "sgd":
        return _without_compiler(torch.optim.SGD)(groups, momentum=momentum, nesterov=nesterov, fused=fused)
    if kind == "adamw":
        return _without_compiler(torch.optim.AdamW)(groups, betas=betas, eps=eps, fused=fused)
    raise ValueError(f"unknown optimizer {kind!r}: known are {', '.join(OPTIMIZERS)}")


def _without_compiler(kind: type[OptimizerT]) -> type[OptimizerT]:
    """The same optimizer, whose methods do not import torch's compiler.

    torch wraps these methods so that a compiler leaves them out, and the wrappers import the compiler on their first
    call. That costs each worker as much as torch itself. Only networks are compiled here, never an update.
    """
    plain = {name: inspect.unwrap(getattr(kind, name)) for name in _WRAPPED}
    return type(kind.__name__, (kind,), plain | {"step": torch.no_grad()(plain["step"])})


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the base rate: each group gets `lr` times its `lr_multiplier`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_multiplier", 1.0)


def set_phase(optimizer: torch.optim.Optimizer, *, weight_decay: float, momentum: float) -> None:
    """Set weight decay and momentum. Groups without weight decay keep none. AdamW has no momentum."""
    for group in optimizer.param_groups:
        if group["name"] in _DECAYING:
            group["weight_decay"] = weight_decay
        if "momentum" in group:
            group["momentum"] = momentum
