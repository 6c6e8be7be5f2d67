"""Trials that share a teacher run it once for each microbatch, and learn from the same bits."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from w3ray.data.clip import ClipSpec
from w3ray.data.shared_clips import SharedClips
from w3ray.models import build_model
from w3ray.runtime.shared_teacher import SharedTeacher

SPEC = ClipSpec(num_frames=2, size=16)


class Counted(nn.Module):
    """Counts the calls of a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.calls = network, 0

    def forward(self, x_BTCHW, **side_inputs):
        self.calls += 1
        return self.network(x_BTCHW, **side_inputs)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("tsm", backbone="resnet_small", num_classes=3, attention={"kind": "w3"}).eval()


def clips(seed: int = 0, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 2, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def shared(tmp_path: Path) -> SharedClips:
    one = SharedClips(folder=tmp_path / "clips" / "sweep", limit_bytes=1 << 20)
    assert one.opened(SPEC) is not None
    return one


def asked(
    shared: SharedClips, teacher: nn.Module, x: torch.Tensor, name: str = "teacher-a"
) -> tuple[tuple[torch.Tensor, ...], int]:
    """The features that a new trial gets, and how often it ran the teacher."""
    counted = Counted(teacher)
    with torch.no_grad():
        found = SharedTeacher(counted, shared, name)(x).features
    return found, counted.calls


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_next_trial_finds_the_same_bits(shared, channels_last):
    teacher = network()
    if channels_last:
        teacher.to(memory_format=torch.channels_last)
    with torch.no_grad():
        expected = teacher(clips()).features
    for calls in (1, 0):
        found, ran = asked(shared, teacher, clips())
        assert ran == calls
        assert [one.stride() for one in found] == [one.stride() for one in expected]
        assert all(torch.equal(mine, its) for mine, its in zip(found, expected, strict=True))


def test_anything_else_is_computed(shared):
    x = clips()
    assert asked(shared, network(), x)[1] == 1
    assert asked(shared, network(1), x)[1] == 1, "other weights"
    assert asked(shared, network(), x, "teacher-b")[1] == 1, "another stage"
    assert asked(shared, network(), clips(1))[1] == 1, "other pixels"
    assert asked(shared, network(), clips()[:1])[1] == 1, "fewer clips"
    with torch.autocast("cpu", torch.bfloat16):
        found, ran = asked(shared, network(), x)
        assert (ran, found[0].dtype) == (1, torch.bfloat16)
        assert asked(shared, network(), x)[1] == 0
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert asked(shared, network(), x)[1] == 1, "other sums of parts"
    finally:
        torch.set_num_threads(threads)
    assert asked(shared, network(), x)[1] == 0


@pytest.mark.parametrize(
    "damage", [lambda b: b"", lambda b: b[:-1], lambda b: bytes(len(b)), lambda b: b[:-1] + bytes([b[-1] ^ 1])]
)
def test_what_is_damaged_is_computed_again(shared, damage):
    expected, _ = asked(shared, network(), clips())
    (file,) = shared.folder.glob("*.features")
    file.write_bytes(damage(file.read_bytes()))
    found, ran = asked(shared, network(), clips())
    assert ran == 1
    assert torch.equal(found[0], expected[0])
    assert asked(shared, network(), clips())[1] == 0, "it was replaced"


def test_the_limit_holds(shared):
    shared = replace(shared, limit_bytes=1 << 17)
    teacher, size = network(), 0
    for seed in range(40):
        asked(shared, teacher, clips(seed, 4))
        files = list(shared.folder.glob("*.features"))
        size = sum(file.stat().st_size for file in files)
        assert size <= shared.limit_bytes
    assert 0.9 * shared.limit_bytes < size
    assert len(files) < 40
    assert asked(shared, teacher, clips(0, 4))[1] == 0, "what was kept stays"


def test_a_full_disk_only_costs_time(small_disk):
    disk = small_disk("1m")
    shared = SharedClips(folder=disk / "clips" / "sweep", limit_bytes=1 << 20)
    assert shared.opened(SPEC) is not None
    counted = Counted(network())
    teacher = SharedTeacher(counted, shared)
    with pytest.raises(OSError, match="No space left"):
        (disk / "other").write_bytes(bytes(2 << 20))
    for _ in range(2):
        teacher(clips())
    assert counted.calls == 2
    assert list(shared.folder.glob("*.features*")) == []
