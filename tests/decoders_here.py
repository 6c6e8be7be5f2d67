"""Parameters for tests of every decoder on this machine. torchcodec is optional and needs FFmpeg's libraries.

`W3RAY_REQUIRE_TORCHCODEC=1` makes its absence a failure.
"""

import os

import pytest

from w3ray.data.decoders import DECODERS
from w3ray.data.decoders.torchcodec import load_torchcodec
from w3ray.errors import InputError


def _absent(decoder: str) -> str | None:
    if decoder != "torchcodec" or os.environ.get("W3RAY_REQUIRE_TORCHCODEC") == "1":
        return None
    try:
        load_torchcodec()
    except InputError as error:
        return str(error)
    return None


def decoder_param(decoder: str):
    """A decoder as a parameter of a test. The test is skipped if the decoder is absent."""
    why = _absent(decoder)
    return pytest.param(decoder, marks=[pytest.mark.skip(reason=why)] if why else [])


HERE = [name for name in DECODERS if _absent(name) is None]
each_decoder = pytest.mark.parametrize("decoder", [decoder_param(name) for name in DECODERS])
