"""A stage that trains in a thread of its trial's process: its events, its signs of life, its failures.

That it gives the bits of a stage in processes of its own is tested in `tests/pipeline/test_chain.py`.
"""

import threading

import pytest
from in_process import in_process
from patience import PATIENCE_S

from w3ray.errors import RunError
from w3ray.events import CheckpointSaved, WorkerAlive
from w3ray.recipe import Recipe
from w3ray.runtime.event_channel import DriverGone, LocalChannel
from w3ray.runtime.heartbeat import Heartbeat


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_failure_is_told_as_it_is_of_workers(motion_manifest, tmp_path):
    values = {
        "name": "tiny",
        "storage": str(tmp_path / "runs"),
        "data": {"manifest": str(motion_manifest), "num_frames": 4, "size": 32},
        "model": {"name": "tsm", "backbone": "resnet_small", "attention": {"kind": "w3"}},
        "train": {"epochs": 5, "batch_size": 8, "microbatch_size": 3, "lr": 1e12, "clip_grad_norm": None},
        "stages": [{"name": "teacher"}],
        "tracking": {"enabled": False},
    }
    with pytest.raises(RunError, match="the loss is not finite"):
        in_process(Recipe.model_validate(values))


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
