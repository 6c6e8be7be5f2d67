import subprocess
import sys

import torch

from w3ray.training.randomness import microbatch_seed, seed_microbatch


def test_value_is_pinned_and_the_same_in_another_process() -> None:
    code = "from w3ray.training.randomness import microbatch_seed as s; print(s(7, 'dropout', 3, 1))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(other.stdout) == microbatch_seed(7, "dropout", 3, 1) == PINNED


# A resumed run of an older version must get the same dropout. Change this number only with the checkpoint format.
PINNED = 8422970721478623340


def test_neighbours_and_lookalikes_differ() -> None:
    ids = [(0, "dropout", 1, 2), (0, "dropout", 12), (0, "dropout", 2, 1), (1, "dropout", 1, 2), (0, "dropout", "1", 2)]
    ids += [(0, "dropout", step, slot) for step in range(100) for slot in range(3, 8)]
    assert len({microbatch_seed(*chosen) for chosen in ids}) == len(ids)


def test_seeds_torch() -> None:
    seed_microbatch(3, "x")
    first = torch.rand(4)
    torch.rand(9)
    assert seed_microbatch(3, "x") == torch.initial_seed()
    assert torch.equal(torch.rand(4), first)
