"""Two gloo processes compute the same together as one process alone.

Both ranks run all scenarios once, because a process start takes seconds. The tests read the results.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from training_parts import (
    NUM_CLASSES,
    batch,
    buffers,
    free_port,
    gradients,
    run_microbatches,
    small_model,
    training_step,
)

from w3ray.evaluation.metrics import Counts
from w3ray.evaluation.multi_label import MultiLabelCounts
from w3ray.heads import Heads
from w3ray.training.batch_norm import BatchNormMode, apply_batch_norm_mode, average_buffers
from w3ray.training.freeze import frozen_names, rest
from w3ray.training.on_gpu import compiled

SETS = Heads(("a", "b", "c", "d"), label_sets=((0, 1), (1, 2), (2, 3), ()))
LOSS_WEIGHTS = {"cross_entropy": 1.0, "mfr": 0.3}
Split = list[list[int | None]]

# Scenario: batch-norm mode, DDP's buffer broadcast, and the microbatches of rank 0 and of rank 1 for 5 clips.
SCENARIOS: dict[str, tuple[BatchNormMode, bool, tuple[Split, Split]]] = {
    "even": ("frozen", False, ([[0, 1, None], [2]], [[3], [4]])),
    "one_rank_padded_at_the_end": ("frozen", False, ([[0, 1], [2, 3, 4]], [[None, None], [None, None, None]])),
    "padding_in_the_middle": ("frozen", True, ([[None], [0, 1], [None]], [[2, 3], [None, None], [4]])),
    "sync_uneven": ("sync", False, ([[0, 1, None, 2, 3]], [[4, None]])),
    "sync_one_rank_padded": ("sync", False, ([[0, 1, 2, 3, 4]], [[None]])),
    "sync_all_padded_first": ("sync", True, ([[None], [0, 1, 2]], [[None, None], [3, 4]])),
    "plain_one_rank_padded": ("train", False, ([[0, 1, 2, 3, 4]], [[None]])),
    "compiled": ("frozen", False, ([[0, 1], [2, 3]], [[4, None], [None, None]])),
}


def build(mode: BatchNormMode) -> tuple[nn.Module, nn.Module]:
    return apply_batch_norm_mode(small_model(1), mode), small_model(2)


def scores(rank: int | None) -> tuple[Tensor, Tensor]:
    """Scores and labels of one rank's 11 or 10 clips. None: all 21."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(21, NUM_CLASSES, generator=generator)
    rows = slice(None) if rank is None else slice(rank, None, 2)
    return logits[rows], torch.arange(21)[rows] % NUM_CLASSES


def resting_and_waking(split: Split, world_size: int) -> dict[str, Tensor]:
    """Three steps in which other parts rest. DDP wraps the network again before each of them."""
    student, teacher = build("frozen")
    trainable = {name for name, one in student.named_parameters() if one.requires_grad}
    step = training_step(student, teacher=teacher, loss_weights=LOSS_WEIGHTS)
    for freeze in (["backbone"], ["stem", "stage1"], []):
        rest(student, frozen_names(student, freeze), trainable)
        step.model = student
        if world_size > 1:
            step.model = DistributedDataParallel(student, broadcast_buffers=False, gradient_as_bucket_view=True)
        run_microbatches(step, *batch(5), split, normalizer=5, world_size=world_size)
        step.update(0.01)
    return {name: value.detach().clone() for name, value in student.named_parameters()}


def run_rank(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    clips, labels = batch(5)
    left: dict[str, dict[str, dict[str, Tensor]]] = {}
    for name, (mode, broadcast, splits) in SCENARIOS.items():
        student, teacher = build(mode)
        trained = student
        if name == "compiled":
            trained, teacher = compiled(student, "aot_eager"), compiled(teacher, "aot_eager")
        wrapped = DistributedDataParallel(trained, broadcast_buffers=broadcast, gradient_as_bucket_view=True)
        step = training_step(wrapped, teacher=teacher, loss_weights=LOSS_WEIGHTS)
        run_microbatches(step, clips, labels, splits[rank], normalizer=5, world_size=2)
        found = {"gradients": gradients(student), "buffers": buffers(student)}
        step.update(0.01)
        found["parameters"] = {key: value.detach().clone() for key, value in student.named_parameters()}
        average_buffers(student)
        found["averaged"] = buffers(student)
        average_buffers(student)
        found["averaged_twice"] = buffers(student)
        left[name] = found
    left["resting"] = {"parameters": resting_and_waking([[0, 1, None], [2]] if rank == 0 else [[3], [4]], 2)}
    counts = Counts(NUM_CLASSES)
    counts.update(*scores(rank))
    left["counts"] = {"all": {"state": counts.all_reduce().state()}}
    sets = MultiLabelCounts(SETS)
    sets.update(*scores(rank))
    left["sets"] = {"all": {"state": sets.all_reduce().state()}}
    torch.save(left, Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(run_rank, args=(free_port(), str(folder)), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def alone(mode: BatchNormMode) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Gradients, buffers and updated parameters of one process with the whole batch."""
    student, teacher = build("train" if mode == "sync" else mode)
    step = training_step(student, teacher=teacher, loss_weights=LOSS_WEIGHTS)
    run_microbatches(step, *batch(5), [[0, 1, 2, 3, 4]], normalizer=5)
    found = gradients(student)
    step.update(0.01)
    return found, buffers(student), dict(student.named_parameters())


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_gradient_and_update_equal_one_process(ranks: list[dict[str, Any]], scenario: str) -> None:
    expected, _, parameters = alone(SCENARIOS[scenario][0])
    for rank in range(2):
        assert_same(ranks[rank][scenario]["gradients"], expected)
        assert_same(ranks[rank][scenario]["parameters"], {name: value.detach() for name, value in parameters.items()})
    for name, value in ranks[0][scenario]["parameters"].items():
        assert torch.equal(value, ranks[1][scenario]["parameters"][name]), f"{name}: the ranks drift apart"


@pytest.mark.parametrize("scenario", [name for name, value in SCENARIOS.items() if value[0] == "sync"])
def test_synced_statistics_equal_one_process(ranks: list[dict[str, Any]], scenario: str) -> None:
    _, expected, _ = alone("sync")
    for rank in range(2):
        assert_same(ranks[rank][scenario]["buffers"], expected)


def test_padded_rank_keeps_its_statistics(ranks: list[dict[str, Any]]) -> None:
    _, expected, _ = alone("train")
    assert_same(ranks[0]["plain_one_rank_padded"]["buffers"], expected)
    for name, value in buffers(small_model(1)).items():
        assert torch.equal(ranks[1]["plain_one_rank_padded"]["buffers"][name], value), name


def test_average_buffers_is_the_mean_and_the_same_everywhere(ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["plain_one_rank_padded"] for rank in ranks)
    for name, value in first["averaged"].items():
        assert torch.equal(value, second["averaged"][name]), name
        if value.is_floating_point():
            mean = (first["buffers"][name] + second["buffers"][name]) / 2
            torch.testing.assert_close(value, mean, rtol=1e-12, atol=1e-12)
    for rank in ranks:
        for name, value in rank["plain_one_rank_padded"]["averaged"].items():
            assert torch.equal(value, rank["plain_one_rank_padded"]["averaged_twice"][name]), name


def test_counts_equal_one_process(ranks: list[dict[str, Any]]) -> None:
    counts = Counts(NUM_CLASSES)
    counts.update(*scores(None))
    for rank in ranks:
        assert torch.equal(rank["counts"]["all"]["state"], counts.state())


def test_scores_of_multi_label_clips_are_gathered(ranks: list[dict[str, Any]]) -> None:
    """One rank has a clip more than the other."""
    sets = MultiLabelCounts(SETS)
    sets.update(*scores(None))
    assert sets.rows == 21
    for rank in ranks:
        assert torch.equal(rank["sets"]["all"]["state"], sets.state())


def test_parts_rest_and_wake_as_in_one_process(ranks: list[dict[str, Any]]) -> None:
    expected = resting_and_waking([[0, 1, 2, 3, 4]], 1)
    for rank in ranks:
        assert_same(rank["resting"]["parameters"], expected)
    for name, value in ranks[0]["resting"]["parameters"].items():
        assert torch.equal(value, ranks[1]["resting"]["parameters"][name]), f"{name}: the ranks drift apart"
