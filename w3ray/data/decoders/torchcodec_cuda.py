"""Decoding on an NVIDIA GPU (NVDEC) with torchcodec, for the files on which it is proven right.

The frames come back to the host as uint8, as from every decoder. The GPU makes RGB of the video's colours with another
rounding than the CPU, so pixels differ by a few levels.
"""

import ctypes
from typing import Any

from w3ray.data.decoders.torchcodec import TorchcodecVideo, load_torchcodec
from w3ray.errors import InputError

_DRIVER_LIBRARY = "libnvcuvid.so.1"


def load_torchcodec_cuda() -> Any:
    """The module `torchcodec.decoders`, on a machine where it can decode on a GPU.

    Raises:
        InputError: torchcodec is not installed or finds no FFmpeg, its build is for CPUs only, this process sees no
            GPU, or the driver has no NVDEC. Without NVDEC torchcodec would decode on the CPU and say nothing.
    """
    decoders = load_torchcodec()
    import torch
    import torchcodec

    what = "decoder torchcodec_cuda cannot be used here"
    if torchcodec.__version__.endswith("+cpu"):
        raise InputError(f"{what}: torchcodec {torchcodec.__version__} is for CPUs; use the decoder pyav")
    if not torch.cuda.is_available():
        raise InputError(f"{what}: it needs an NVIDIA GPU, and PyTorch sees none; use the decoder pyav or torchcodec")
    try:
        ctypes.CDLL(_DRIVER_LIBRARY)
    except OSError as error:
        raise InputError(
            f"{what}: NVIDIA's driver has no {_DRIVER_LIBRARY} (a container needs NVIDIA_DRIVER_CAPABILITIES=all)"
        ) from error
    return decoders


class TorchcodecCudaVideo(TorchcodecVideo):
    """A video decoded on the GPU, with the same proof as `TorchcodecVideo`.

    Of a codec that the GPU does not know, torchcodec decodes the frames on the CPU.

    Raises:
        DecodeError: the file cannot be opened, was cut off, or torchcodec is not proven right for it.
        InputError: torchcodec cannot decode on a GPU here.
    """

    library = "torchcodec_cuda"
    on_gpu = True
    device = "cuda"

    @classmethod
    def load(cls) -> Any:
        return load_torchcodec_cuda()
