"""Parameters for tests of every decoder on this machine. Only pyav is everywhere.

`W3RAY_REQUIRE_TORCHCODEC=1` makes it a failure if torchcodec or FFmpeg's libraries are absent, `W3RAY_REQUIRE_CUDA=1`
if no GPU can decode.
"""

import os
from typing import Any

import av  # noqa: F401  before decord: with decord's libvpx, tests could not write VP9
import pytest

from w3ray.data.decoders import DECODERS, require_decoder
from w3ray.errors import InputError

ON_GPU = "torchcodec_cuda"
_REQUIRED_BY = {"torchcodec": "W3RAY_REQUIRE_TORCHCODEC", ON_GPU: "W3RAY_REQUIRE_CUDA"}


def _absent(decoder: str) -> str | None:
    if os.environ.get(_REQUIRED_BY.get(decoder, "")) == "1":
        return None
    try:
        require_decoder(decoder, in_process=True)
    except InputError as error:
        return str(error)
    return None


def decoder_param(decoder: str):
    """A decoder as a parameter of a test. The test is skipped if the decoder is absent."""
    return pytest.param(decoder, marks=needs_decoder(decoder))


def needs_decoder(decoder: str) -> pytest.MarkDecorator:
    """Skips a test if the decoder is absent."""
    why = _absent(decoder)
    return pytest.mark.skipif(why is not None, reason=str(why))


def imported_torchcodec() -> Any:
    """The module. The test is skipped without it; before 0.17 its import needs FFmpeg's libraries."""
    try:
        import torchcodec
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchcodec cannot be imported: {str(error).strip().splitlines()[0]}")
    return torchcodec


ON_CPU = [name for name in DECODERS if name != ON_GPU]
"""The decoders whose pixels are equal, and that decoder processes can use."""
HERE = [name for name in ON_CPU if _absent(name) is None]
each_decoder = pytest.mark.parametrize("decoder", [decoder_param(name) for name in ON_CPU])
