"""Names of the tensors in public files of I3D and SlowFast networks.

A key that a function does not know keeps its name, so that loading reports it.
"""

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from w3ray.models.inflated import inflate

_MODULE = re.compile(r"^module\.")


def is_resnet(keys: Collection[str]) -> bool:
    """Whether the keys are those of torchvision's ResNet, possibly after `module.`."""
    return any(_MODULE.sub("", key) == "layer1.0.conv1.weight" for key in keys)


def resnet(state: Mapping[str, Tensor], lengths: Mapping[str, int]) -> dict[str, Tensor]:
    """torchvision's 2D ResNets, which are inflated, and the 3D networks `{K400,SSV2}-I3D-ResNet-*.pth.tar`.

    Args:
        state: the file.
        lengths: see `inflate`.
    """
    names = {key: _MODULE.sub("", key) for key in state}
    network = {names[key]: value for key, value in state.items() if not names[key].startswith("fc.")}
    renamed = {f"backbone.{name}": value for name, value in inflate(network, lengths).items()}
    for key, name in names.items():
        if name.startswith("fc."):
            renamed[f"classifier.{name.removeprefix('fc.')}"] = state[key]
    return renamed


_BLOCK = re.compile(r"^res_blocks\.(\d+)\.(.+)\.(\w+)$")
_LAYERS = {
    "branch1_conv": "downsample.0",
    "branch1_norm": "downsample.1",
    "branch2.conv_a": "conv1",
    "branch2.norm_a": "bn1",
    "branch2.conv_b": "conv2",
    "branch2.norm_b": "bn2",
    "branch2.conv_c": "conv3",
    "branch2.norm_c": "bn3",
}
_STEM = {"conv": "conv1", "norm": "bn1"}


def pytorchvideo_name(stage: int, name: str) -> str | None:
    """Name of a tensor of one path in our network.

    Args:
        stage: 0 is the stem.
        name: the rest of the key, such as `res_blocks.0.branch2.conv_a.weight`.
    """
    if stage == 0:
        layer, _, tensor = name.rpartition(".")
        return f"{_STEM[layer]}.{tensor}" if layer in _STEM else None
    found = _BLOCK.match(name)
    if found is None or found[2] not in _LAYERS:
        return None
    return f"layer{stage}.{found[1]}.{_LAYERS[found[2]]}.{found[3]}"


_I3D_STAGES = {0: 0, 1: 1, 3: 2, 4: 3, 5: 4}
"""Block of PyTorchVideo's I3D -> our stage. Block 2 is the pool."""


def is_pytorchvideo(keys: Collection[str]) -> bool:
    """Whether the keys are those of a PyTorchVideo network with one path."""
    return any(key.startswith("blocks.1.res_blocks.") for key in keys)


def pytorchvideo(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`I3D_8x8_R50.pyth`: `blocks.1.res_blocks.0.branch2.conv_a.weight`."""
    renamed = {}
    for key, value in state.items():
        _, block, name = [*key.split(".", 2), "", ""][:3]
        place = None
        if block.isdigit() and int(block) in _I3D_STAGES:
            place = pytorchvideo_name(_I3D_STAGES[int(block)], name)
        if key.startswith("blocks.6.proj."):
            renamed[f"classifier.{key.removeprefix('blocks.6.proj.')}"] = value
        else:
            renamed[key if place is None else f"backbone.{place}"] = value
    return renamed


_CONV = re.compile(r"(^|\.)conv(\d)\.(conv|bn)\.")


def mmaction_name(name: str) -> str:
    """Name of a tensor of one path in our network: mmaction2 nests convolution and norm one deeper."""
    name = _CONV.sub(lambda found: f"{found[1]}{found[3]}{found[2]}.", name)
    return name.replace("downsample.conv.", "downsample.0.").replace("downsample.bn.", "downsample.1.")


def is_mmaction(keys: Collection[str]) -> bool:
    """Whether the keys are those of an mmaction2 network with one path."""
    return any(key == "backbone.layer1.0.conv1.conv.weight" for key in keys)


def mmaction(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """mmaction2's I3D: `backbone.layer1.0.conv1.conv.weight`, `cls_head.fc_cls.weight`."""
    return {
        f"classifier.{key.removeprefix('cls_head.fc_cls.')}"
        if key.startswith("cls_head.fc_cls.")
        else f"backbone.{mmaction_name(key.removeprefix('backbone.'))}": value
        for key, value in state.items()
    }


def is_pytorchvideo_slowfast(keys: Collection[str]) -> bool:
    """Whether the keys are those of a PyTorchVideo network with two paths."""
    return any(key.startswith("blocks.0.multipathway_blocks.") for key in keys)


_PATHS = {"multipathway_blocks.0": "slow", "multipathway_blocks.1": "fast"}
_LATERAL = {"multipathway_fusion.conv_fast_to_slow": 0, "multipathway_fusion.norm": 1}


def pytorchvideo_slowfast(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`SLOWFAST_8x8_R50.pyth`: `blocks.1.multipathway_blocks.0.res_blocks.0.branch2.conv_a.weight`."""
    return {_pytorchvideo_slowfast_name(key): value for key, value in state.items()}


def _pytorchvideo_slowfast_name(key: str) -> str:
    if key.startswith("blocks.6.proj."):
        return f"classifier.{key.removeprefix('blocks.6.proj.')}"
    found = re.match(r"^blocks\.(\d)\.(\w+\.\w+)\.(.+)$", key)
    if found is None:
        return key
    stage, part, name = int(found[1]), found[2], found[3]
    if part in _LATERAL:
        return f"backbone.lateral.{stage}.{_LATERAL[part]}.{name}"
    place = pytorchvideo_name(stage, name) if part in _PATHS else None
    return key if place is None else f"backbone.{_PATHS[part]}.{place}"


def is_mmaction_slowfast(keys: Collection[str]) -> bool:
    """Whether the keys are those of an mmaction2 network with two paths."""
    return any(key.startswith("backbone.slow_path.") for key in keys)


_MMACTION_LATERAL = re.compile(r"^backbone\.slow_path\.(conv1|layer\d)_lateral\.(conv|bn)\.(\w+)$")


def mmaction_slowfast(state: Mapping[str, Tensor], num_fast: int) -> dict[str, Tensor]:
    """mmaction2's SlowFast: `backbone.slow_path.layer1.0.conv1.conv.weight`.

    Its classifier reads the fast path's features first. Ours reads the slow path's first.

    Args:
        state: the file.
        num_fast: C of the fast path's last map.
    """
    renamed = {}
    for key, value in state.items():
        if lateral := _MMACTION_LATERAL.match(key):
            number = 0 if lateral[1] == "conv1" else int(lateral[1].removeprefix("layer"))
            name = f"backbone.lateral.{number}.{0 if lateral[2] == 'conv' else 1}.{lateral[3]}"
        elif key == "cls_head.fc_cls.weight":
            name, value = "classifier.weight", value.roll(-num_fast, dims=1)
        elif key == "cls_head.fc_cls.bias":
            name = "classifier.bias"
        else:
            path = key.removeprefix("backbone.")
            name = f"backbone.{mmaction_name(path.replace('slow_path.', 'slow.').replace('fast_path.', 'fast.'))}"
        renamed[name] = value
    return renamed
