"""Where does a microbatch's randomness come from? From names, never from what ran before it."""

import hashlib

import torch


def microbatch_seed(seed: int, *ids: int | str) -> int:
    """A stable 63-bit seed for (seed, *ids), for example (recipe seed, "dropout", step, slot).

    Pure function of its arguments on every machine and in every process (Python's own hash is not), so that dropout
    is the same for any number of workers and after any resume.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *ids))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def seed_microbatch(seed: int, *ids: int | str) -> int:
    """Seed torch's generators (CPU and all CUDA devices) with `microbatch_seed(seed, *ids)`; returns that seed."""
    value = microbatch_seed(seed, *ids)
    torch.manual_seed(value)
    return value
