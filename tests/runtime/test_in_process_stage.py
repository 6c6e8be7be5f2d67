"""A stage that trains in a thread of its trial's process gives the same bits, and resumes like any other stage."""

import json
import threading
from pathlib import Path

import pytest
import torch
from patience import PATIENCE_S
from safetensors.torch import load_file

from w3ray.cluster.connect import node_resources
from w3ray.data.sample_log import read_samples
from w3ray.data.shared_clips import SharedClips
from w3ray.data.stream import build_dataset
from w3ray.errors import RunError
from w3ray.events import CheckpointSaved, StepDone, WorkerAlive
from w3ray.pipeline import run
from w3ray.pipeline.plan import plan_recipe
from w3ray.pipeline.sweep_part import SweepPart
from w3ray.recipe import Recipe
from w3ray.runtime.event_channel import DriverGone, LocalChannel
from w3ray.runtime.heartbeat import Heartbeat
from w3ray.training.checkpoint_files import by_step, read_index


def recipe(manifest, storage, **train) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tiny",
            "storage": str(storage),
            "data": {"manifest": str(manifest), "num_frames": 4, "size": 32, "test_split": "test"},
            "model": {"name": "tsm", "backbone": "resnet_small", "attention": {"kind": "w3"}},
            "train": {"epochs": 5, "batch_size": 8, "microbatch_size": 3, "lr": 0.05, "log_samples": True,
                      "log_every_steps": 1, **train},
            "stages": [{"name": "teacher"}],
            "evaluation": {"split": "test"},
            "tracking": {"enabled": False},
        }
    )  # fmt: skip


def in_process(one: Recipe, on_event=None, shared: SharedClips | None = None):
    plan = plan_recipe(one, node_resources())
    part = SweepPart(name="trial", identity="trial", plan=plan, in_process=True, shared=shared)
    return run(one, on_event=on_event, part_of=part)


def left_over() -> list[str]:
    """Threads that remain after a stage."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("fit-", "StreamingExecutor"))]


def weights(result) -> bytes:
    return (Path(result.stages[-1].model) / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def plain(ray_session, motion_manifest, tmp_path_factory):
    """The result of the recipe on workers of Ray Train."""
    return run(recipe(motion_manifest, tmp_path_factory.mktemp("plain")))


def folder_of(result) -> Path:
    return Path(result.stages[-1].model).parent


@pytest.mark.ray
def test_options_for_gpus_reach_the_network_and_are_other_stages(plain, motion_manifest, tmp_path, monkeypatch):
    """On a CPU they change the last bits at most."""
    seen = []

    def compiled(model):
        convolution = model.get_submodule("backbone.layer2.0.conv1").weight
        last = convolution.is_contiguous(memory_format=torch.channels_last)
        seen.append((type(model).__name__, last, torch.backends.cuda.matmul.allow_tf32))
        return torch.compile(model, dynamic=False, backend="eager")

    for module in ("worker", "building"):
        monkeypatch.setattr(f"w3ray.runtime.{module}.compiled", compiled)
    one = recipe(motion_manifest, tmp_path / "runs", compile=True, channels_last=True, tf32=True, precision="auto")
    student = {"name": "student", "teacher": "teacher", "loss_weights": {"mfr": 0.5}}
    one = Recipe.model_validate(one.to_dict() | {"stages": [{"name": "teacher"}, student]})
    found = in_process(one)
    assert seen == [("TSM", True, True)] * 3, "the teacher, the student, and the teacher in the student's stage"
    assert not torch.backends.cuda.matmul.allow_tf32
    assert found.stages[0].identity != plain.stages[0].identity
    stored = json.loads((folder_of(found) / "stage.json").read_text())
    assert '"precision": "fp32"' in json.dumps(stored)
    assert '"auto"' not in json.dumps(stored)
    mine, other = (load_file(Path(each.stages[0].model) / "model.safetensors") for each in (found, plain))
    assert mine.keys() == other.keys()
    for name, value in other.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-2, atol=1e-2)


@pytest.mark.ray
def test_the_same_bits_also_after_an_interruption(plain, motion_manifest, tmp_path):
    one = recipe(motion_manifest, tmp_path / "runs", checkpoint_every_steps=2)

    def interrupt(event):
        if isinstance(event, StepDone) and event.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_process(one, interrupt)
    assert not [
        thread.name for thread in threading.enumerate() if thread.name.startswith(("fit-", "StreamingExecutor"))
    ]
    seen: list[int] = []
    result = in_process(one, lambda event: seen.append(event.step) if isinstance(event, StepDone) else None)
    assert seen[0] >= 7, "it resumed at its newest checkpoint"
    assert not left_over()
    assert weights(result) == weights(plain)
    assert result.stages[0].metrics == plain.stages[0].metrics
    folder, undisturbed = folder_of(result), folder_of(plain)
    assert read_samples(folder) == read_samples(undisturbed)

    kept = [read_index(path)["meta"] for path in by_step(folder / "checkpoints")]
    assert kept[0]["step"] == 15
    theirs = [read_index(path)["meta"]["step"] for path in by_step(undisturbed / "checkpoints")]
    assert [meta["step"] for meta in kept] == theirs, "the same ones that Ray Train keeps"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_failure_is_told_as_it_is_of_workers(motion_manifest, tmp_path):
    with pytest.raises(RunError, match="the loss is not finite"):
        in_process(recipe(motion_manifest, tmp_path / "runs", lr=1e12, clip_grad_norm=None))


@pytest.mark.ray
def test_clips_that_another_trial_decoded_make_the_same_bits(plain, motion_manifest, tmp_path, monkeypatch):
    shared = SharedClips(folder=tmp_path / "clips" / "sweep", limit_bytes=1 << 30)
    first = in_process(recipe(motion_manifest, tmp_path / "first"), shared=shared)
    one = recipe(motion_manifest, tmp_path / "later", checkpoint_every_steps=2)
    streams = []

    def built(*arguments, first_item):
        streams.append(first_item)
        return build_dataset(*arguments, first_item=first_item)

    monkeypatch.setattr("w3ray.runtime.in_process_stage.build_dataset", built)

    def interrupt(event):
        if isinstance(event, StepDone) and event.step == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_process(one, interrupt, shared)
    later = in_process(one, shared=shared)
    assert streams == [], "no clip was decoded"
    gone = sorted(shared.folder.glob("*.clip"))[::3]
    for file in gone:
        file.unlink()
    some = in_process(recipe(motion_manifest, tmp_path / "some"), shared=shared)
    assert len(streams) == 1
    assert all(file.exists() for file in gone)
    assert {weights(result) for result in (first, later, some)} == {weights(plain)}
    assert read_samples(folder_of(later)) == read_samples(folder_of(plain))


def test_what_is_sent_comes_in_order_until_nobody_listens():
    channel = LocalChannel()
    sender = channel.sender().twin()
    for number in range(3):
        sender.send(number)
    assert channel.receive(0.1) == [0, 1, 2]
    assert channel.receive(0.0) == []
    assert sender.driver_listens()
    channel.close()
    assert not sender.driver_listens()
    with pytest.raises(DriverGone):
        sender.send(3)


def test_signs_of_life_end_with_the_channel(monkeypatch):
    monkeypatch.setattr("w3ray.runtime.heartbeat.BEAT_S", 0.01)
    channel = LocalChannel()
    Heartbeat(channel, stage="teacher", rank=0, world_size=1)
    assert isinstance(channel.receive(PATIENCE_S)[0], WorkerAlive)
    thread = next(one for one in threading.enumerate() if one.name == "heartbeat")
    channel.close()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert not [event for event in channel.receive(0.0) if isinstance(event, CheckpointSaved)]
