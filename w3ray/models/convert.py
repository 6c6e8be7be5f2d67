"""Moves the factor 2 of a trained model's gates from the gates to the norms before them, or back.

    python -m w3ray.models.convert FOLDER OUT --gain norm     # 2 sigmoid(z) becomes sigmoid(z)
    python -m w3ray.models.convert FOLDER OUT --gain gate     # sigmoid(z) becomes 2 sigmoid(z)

The new model computes the same. In a block with n gates, the norm before them is scaled by 2^n. Each layer that reads
scaled values (the first layer of each gate, and the refinement, which reads the masks) is scaled by the inverse. All
factors are powers of two, so no precision is lost.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import torch

from w3ray.attention.attach import scale_last_norm
from w3ray.attention.options import Gain
from w3ray.attention.sites import Site
from w3ray.attention.w3 import W3
from w3ray.errors import InputError
from w3ray.models._common import VideoModel
from w3ray.models.build import build_model
from w3ray.models.bundle import ModelDescription, load_model, write_model
from w3ray.models.refinement import AttentionGuidedRefinement


def convert_gain(model: VideoModel, description: ModelDescription, gain: Gain) -> tuple[VideoModel, ModelDescription]:
    """A model that computes the same, with the factor 2 of its gates in the gates ("gate") or in the norms ("norm").

    Args:
        model: a model from `load_model`. It is not changed.
        description: the model's description.
        gain: where the factor shall be.

    Raises:
        InputError: there are no gates, the gates are after the sum with the shortcut, or the factor is already there.
    """
    attention = dict(description.model.get("attention") or {})
    modules = [module for module in model.modules() if isinstance(module, W3)]
    if not modules:
        raise InputError("convert: the model has no attention with gates; there is nothing to convert")
    if modules[0].placement == "after":
        raise InputError("convert: the gates are after the sum with the shortcut, so no norm can hold their factor")
    if (modules[0].gate_max == 2.0) == (gain == "gate"):
        formula = "2 sigmoid(z)" if gain == "gate" else "sigmoid(z)"
        raise InputError(f"convert: the gates are {formula} already; there is nothing to convert")
    for name in ("identity_start", "start", "gain"):
        attention.pop(name, None)
    arguments: dict[str, Any] = {**description.model, "attention": {**attention, "start": "unit", "gain": gain}}
    converted = build_model(**{**arguments, "weights": None}).eval()
    converted.load_state_dict(model.state_dict(), strict=False)  # the two differ only in the buffer `gate_scale`
    factor = 2.0 if gain == "norm" else 0.5
    with torch.no_grad():
        for stage in converted.stages():
            for site in stage:
                if isinstance(site.attention, W3):
                    _scale(site, factor)
        for module in converted.modules():
            if isinstance(module, AttentionGuidedRefinement):
                module.conv.weight.mul_(factor)
    return converted, replace(description, model=arguments)


def _scale(site: Site, factor: float) -> None:
    attention = cast(W3, site.attention)
    gates = [gate for gate in (attention.channel, attention.spatial) if gate is not None]
    scale_last_norm(site, factor ** len(gates))
    if attention.channel is not None:
        attention.channel.reduce.weight.div_(factor ** len(gates))
    if attention.spatial is not None:
        attention.spatial.frame.weight.div_(factor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the model")
    parser.add_argument("out", type=Path, help="new folder for the converted model")
    parser.add_argument("--gain", choices=get_args(Gain), required=True, help="where the factor 2 shall be")
    options = parser.parse_args()
    try:
        if options.out.exists():
            raise InputError(f"{options.out}: already exists; name a new folder")
        model, description = load_model(options.folder)
        write_model(options.out, *convert_gain(cast(VideoModel, model), description, options.gain))
    except InputError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
