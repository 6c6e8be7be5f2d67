"""Where does the randomness of a microbatch come from? Only from names and numbers, never from what ran before."""

import hashlib

import torch


def microbatch_seed(seed: int, *ids: int | str) -> int:
    """A stable 63-bit seed for (seed, *ids), for example (recipe seed, "dropout", step, slot).

    The result depends only on the arguments, on every machine and in every process; Python's own hash does not have
    this property. So dropout is the same for any number of workers and after any resume.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *ids))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def seed_microbatch(seed: int, *ids: int | str) -> int:
    """Seed torch's generators (CPU and all CUDA devices) with `microbatch_seed(seed, *ids)`. Returns this seed."""
    value = microbatch_seed(seed, *ids)
    torch.manual_seed(value)
    return value
