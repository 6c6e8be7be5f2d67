"""The parts of `benchmarks/scale.py` that put something else in the place of the package's own code still fit it."""

import importlib
import sys
from pathlib import Path

from ray import cloudpickle

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def test_instant_decoders_take_the_place_of_real_ones(ray_session, monkeypatch):
    """The coordinator's figures come from them. Once a new argument of the real ones stopped them, unnoticed."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    scale = importlib.import_module("scale")
    cloudpickle.register_pickle_by_value(scale)  # Ray's processes cannot import it
    figures = scale._deal(splits=2, decoders=1, side=16, blocks=12, groups=1)
    assert 0 < figures["blocks"] <= 12 + 2 * 4
    assert figures["block_bytes"] == scale.MICROBATCH * 8 * 16 * 16 * 3
