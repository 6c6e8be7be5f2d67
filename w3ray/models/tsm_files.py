"""How do files of the reference TSM name their non-local blocks (TSM_*_nl.pth)?

    module.base_model.layer2.0.block.conv1.net.weight     the residual block that is wrapped
    module.base_model.layer2.0.nl.theta.weight            [E, C, 1, 1, 1]
    module.base_model.layer2.0.nl.g.0.weight              the 0: a max pool follows the convolution; so for phi
    module.base_model.layer2.0.nl.W.0.weight, .W.1.*      the last convolution and its norm

That code pools behind the convolutions of keys and values, which is another function than to pool before them.
"""

import re
from collections.abc import Collection

from torch import Tensor, nn

from w3ray.attention.nonlocal_block import NonLocal
from w3ray.errors import InputError

_BLOCK = re.compile(r"(layer\d+\.\d+)\.block\.")
_NON_LOCAL = re.compile(r"(layer\d+\.\d+)\.nl\.(theta|phi|g|W)\.(?:([01])\.)?(\w+)$")
_PLACES = {("W", "0"): "expand", ("W", "1"): "norm"}


def rename_non_local(key: str, value: Tensor) -> tuple[str, Tensor]:
    """The name of a tensor in a network whose blocks are not wrapped. Kernels of a 3D convolution become those of a 2D
    one. Other tensors keep their names."""
    found = _NON_LOCAL.search(key)
    if found is None:
        return _BLOCK.sub(r"\1.", key), value
    block, part, number, tensor = found.groups()
    place = _PLACES.get((part, number or ""), part)
    if value.ndim == 5 and value.shape[2:] == (1, 1, 1):
        value = value.squeeze(-1)
    return f"{key[: found.start()]}{block}.attention.{place}.{tensor}", value


def check_non_local(keys: Collection[str], model: nn.Module, source: str) -> None:
    """Refuse a file whose non-local blocks compute something else than the model's with the same weights.

    Raises:
        InputError: the options `pool` or `scale` differ.
    """
    names = [found for key in keys if (found := _NON_LOCAL.search(key)) and found[2] == "g"]
    if not names:
        return
    pool = "output" if any(found[3] for found in names) else "none"
    for module in model.modules():
        if isinstance(module, NonLocal) and (module.config.pool != pool or module.config.scale):
            raise InputError(
                f"weights {source}: its non-local blocks have pool={pool} and scale=false, the model's pool="
                f"{module.config.pool} and scale={str(module.config.scale).lower()}; set model.attention.pool={pool} "
                "and model.attention.scale=false"
            )
