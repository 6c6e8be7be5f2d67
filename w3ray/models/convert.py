"""How does a trained model move the factor 2 of its gates between the gates and the norms before them?

    python -m w3ray.models.convert FOLDER OUT --gain norm     # 2 sigmoid(z) becomes sigmoid(z)
    python -m w3ray.models.convert FOLDER OUT --gain gate     # sigmoid(z) becomes 2 sigmoid(z)

The new model computes the same: with n gates in a block the norm before them is scaled by 2^n, and what reads the
scaled features (the first layer of each gate, the refinement's masks) by the inverse of what it now sees. All factors
are powers of two, so no digit is lost.
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


def convert_gain(model: VideoModel, description: ModelDescription, gain: Gain) -> tuple[VideoModel, ModelDescription]:
    """A model that computes the same with its gates' factor 2 in the gates ("gate") or in the norms ("norm").

    Args:
        model: of `load_model`; it is left as it is.
        description: beside it.
        gain: where the factor is to be.

    Raises:
        InputError: no gates, they are after the shortcut's sum, or the factor is there already.
    """
    attention = dict(description.model.get("attention") or {})
    modules = [module for module in model.modules() if isinstance(module, W3)]
    if not modules:
        raise InputError("convert: the model has no attention with gates; there is nothing to convert")
    if modules[0].placement == "after":
        raise InputError("convert: the gates are after the shortcut's sum, where no norm can hold their factor")
    if (modules[0].gate_max == 2.0) == (gain == "gate"):
        formula = "2 sigmoid(z)" if gain == "gate" else "sigmoid(z)"
        raise InputError(f"convert: the gates are {formula} already; there is nothing to convert")
    for name in ("identity_start", "start", "gain"):
        attention.pop(name, None)
    arguments: dict[str, Any] = {**description.model, "attention": {**attention, "start": "unit", "gain": gain}}
    converted = build_model(**{**arguments, "weights": None}).eval()
    converted.load_state_dict(model.state_dict(), strict=False)  # the mark of the gates is all that differs
    factor = 2.0 if gain == "norm" else 0.5
    with torch.no_grad():
        for stage in converted.stages():
            for site in stage:
                if isinstance(site.attention, W3):
                    _scale(site, factor)
        if converted.refinement is not None:
            converted.refinement.conv.weight.mul_(factor)
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
    parser.add_argument("folder", type=Path, help="folder of a model")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--gain", choices=get_args(Gain), required=True, help="where the factor 2 is to be")
    options = parser.parse_args()
    try:
        if options.out.exists():
            raise InputError(f"{options.out}: is there already; name a new folder")
        model, description = load_model(options.folder)
        write_model(options.out, *convert_gain(cast(VideoModel, model), description, options.gain))
    except InputError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
