"""A stage in processes of a cluster leaves nothing behind, in whatever way it ends."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from patience import PATIENCE_S, wait_until

from w3ray.cluster.connect import node_resources
from w3ray.data.stream_spec import StreamSpec
from w3ray.pipeline.chain import plan_recipe
from w3ray.pipeline.prepare import plan_stages, prepare_data
from w3ray.recipe import Recipe
from w3ray.runtime.cluster_stage import ClusterStage
from w3ray.runtime.event_channel import ChannelLost, EventChannel
from w3ray.runtime.faults import StageLost
from w3ray.runtime.stage_spec import StageSpec

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

CONTROLLER, WORKER = "ray::TrainController", "ray::RayTrainWorker"


@contextmanager
def started(manifest, storage) -> Iterator[ClusterStage]:
    """The only stage of a small recipe with a long training. It is ended even if the test fails."""
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "storage": str(storage),
            "data": {"manifest": str(manifest), "num_frames": 4, "size": 32, "test_split": "test"},
            "model": {"name": "tsm", "backbone": "resnet_small"},
            "train": {"epochs": 1000, "batch_size": 8, "microbatch_size": 8, "lr": 0.05, "log_every_steps": 1},
            "stages": [{"name": "teacher"}],
            "evaluation": {"split": "test"},
            "tracking": {"enabled": False},
        }
    )
    data = prepare_data(recipe)
    (item,) = plan_stages(recipe, data)
    item.store.create(item.determinants)
    spec = StageSpec(
        name="teacher",
        directory=item.store.directory,
        seed=item.seed,
        model=item.model_arguments(data),
        teacher=None,
        loss_weights={"cross_entropy": 1.0},
        train=item.stage.train,
        stream=StreamSpec(schedule=item.schedule, clip=data.clip, flip_map=data.flip_map),
        heads=data.heads,
        class_counts=data.class_counts(),
        plan=plan_recipe(recipe, node_resources()),
        num_clips=data.num_clips,
        max_failed_share=0.0,
    )
    stage = ClusterStage(spec, data.splits)
    try:
        yield stage
    finally:
        stage.end()


def pids(title: str) -> list[int]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(title) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found


def wait_until_it_trains(folder: Path) -> None:
    wait_until(lambda: list(folder.glob("runs/stages/*/checkpoints/step_*")), every_s=0.2, what="it trains")


def wait_until_free(*titles: str) -> None:
    """Until no CPU is taken, and no process has one of these titles."""
    import ray

    def all_is_free() -> bool:
        return ray.available_resources().get("CPU", 0) == ray.cluster_resources()["CPU"]

    wait_until(
        lambda: all_is_free() and not any(pids(title) for title in titles),
        every_s=0.2,
        what=lambda: f"free are {ray.available_resources()}, processes: {[pids(title) for title in titles]}",
    )


def test_one_whose_controller_was_killed_before_anyone_listened_frees_its_workers(motion_manifest, tmp_path):
    """Like a stage that started before its turn and is abandoned."""
    wait_until_free()
    with started(motion_manifest, tmp_path / "runs") as stage:
        wait_until_it_trains(tmp_path)
        (controller,) = pids(CONTROLLER)
        os.kill(controller, signal.SIGKILL)
        stage.end()
        wait_until_free(WORKER)
    # A second call, at the end of `started`, is harmless.


def test_one_whose_controller_was_killed_while_its_workers_started_frees_their_place(motion_manifest, tmp_path):
    """The resources are reserved some seconds before a worker runs."""
    from ray.util import placement_group_table

    wait_until_free()
    before = set(placement_group_table())
    with started(motion_manifest, tmp_path / "runs"):
        wait_until(lambda: set(placement_group_table()) - before, every_s=0.01, what="it reserves resources")
        (controller,) = pids(CONTROLLER)
        os.kill(controller, signal.SIGKILL)
    wait_until_free(WORKER)


@pytest.mark.slow
def test_a_restarted_worker_has_the_only_stream_and_a_controller_that_hangs_is_killed(
    motion_manifest, tmp_path, monkeypatch
):
    """The stream of before could hold the processors that the new one's decoders need."""
    wait_until_free()
    monkeypatch.setattr(ClusterStage, "end_timeout_s", 2.0)
    with started(motion_manifest, tmp_path / "runs") as stage:
        wait_until_it_trains(tmp_path)
        (worker,) = pids(WORKER)
        os.kill(worker, signal.SIGKILL)
        before = set(tmp_path.glob("runs/stages/*/checkpoints/step_*"))
        wait_until(
            lambda: (
                pids(WORKER) not in ([], [worker]) and set(tmp_path.glob("runs/stages/*/checkpoints/step_*")) - before
            ),
            every_s=0.2,
            what="it trains again",
        )
        assert len(pids("ray::SplitCoordinator")) == 1
        for event in stage._channel.unread():  # as the driver does that follows the stage
            stage._keep(event)
        (controller,) = pids(CONTROLLER)
        os.kill(controller, signal.SIGSTOP)
    wait_until_free(WORKER, CONTROLLER)


def test_one_that_cannot_be_made_frees_what_it_has(motion_manifest, tmp_path, monkeypatch):
    def no_trainer(*_, **__):
        raise ValueError("no trainer")

    monkeypatch.setattr("w3ray.runtime.cluster_stage._trainer", no_trainer)
    with pytest.raises(ValueError, match="no trainer"), started(motion_manifest, tmp_path / "runs"):
        pass
    wait_until_free("ray::SplitCoordinator")


def test_a_lost_queue_of_events_is_a_lost_stage(motion_manifest, tmp_path):
    import ray

    with started(motion_manifest, tmp_path / "runs") as stage:
        ray.kill(stage._channel._queue.actor)
        with pytest.raises(StageLost, match=r"stage teacher: the queue of events is gone \("):
            stage.outcome(lambda event: None)
    wait_until_free()


def test_events_are_read_at_once_or_waited_for():
    import ray

    channel = EventChannel()
    sender = ray.get(ray.put(channel.sender()))  # the copy of a worker
    for number in range(3):
        sender.send(number)
        sender.flush()
    assert channel.receive(PATIENCE_S) == [0]
    assert channel.unread() == [1, 2]
    assert channel.unread() == []
    assert sender.driver_listens()
    channel.close()
    assert not sender.driver_listens()
    assert channel.unread() == []
    channel.close()


def _receive_forever(channel: EventChannel) -> None:
    """A killed queue dies after a moment. Until then it may answer, or be unreachable."""
    while True:
        channel.receive(1.0)


def test_a_channel_that_is_gone_says_so():
    import ray

    channel = EventChannel()
    channel.sender().send(0)
    ray.kill(channel._queue.actor)
    with pytest.raises(ChannelLost, match="is gone"):
        _receive_forever(channel)
    with pytest.raises(ChannelLost, match="is gone"):
        channel.unread()
