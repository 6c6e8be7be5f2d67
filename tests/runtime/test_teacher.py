"""A worker waits for its teacher's model, but only for a short time, and not if its stage is abandoned."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from w3ray.models import build_model
from w3ray.models.bundle import ModelDescription, write_model
from w3ray.runtime import teacher
from w3ray.runtime.event_channel import LocalChannel
from w3ray.runtime.faults import TeacherMissing
from w3ray.runtime.heartbeat import Heartbeat
from w3ray.runtime.ranks import Ranks

MODEL = {"name": "tsn", "backbone": "resnet_small", "attention": None, "num_classes": 3}


@pytest.fixture
def events() -> Iterator[LocalChannel]:
    channel = LocalChannel()
    yield channel
    channel.close()


def load(folder: Path, events: LocalChannel) -> nn.Module:
    heartbeat = Heartbeat(LocalChannel(), stage="student", rank=0, world_size=1)
    return teacher.load_teacher(folder, stage="student", ranks=Ranks(), events=events, heartbeat=heartbeat)


def test_it_comes_late(tmp_path, events):
    torch.manual_seed(0)
    made = build_model(**MODEL)
    description = ModelDescription(model=MODEL, clip={}, classes=("a", "b", "c"), mean=(0, 0, 0), std=(1, 1, 1))
    writer = threading.Timer(0.5, write_model, args=(tmp_path / "model", made, description))
    writer.start()
    loaded = load(tmp_path / "model", events)
    writer.join()
    assert torch.equal(loaded.classifier.weight, made.classifier.weight)


def test_nobody_listens(tmp_path, events):
    events.close()
    started = time.monotonic()
    with pytest.raises(TeacherMissing, match="its teacher's model"):
        load(tmp_path / "model", events)
    assert time.monotonic() - started < teacher._TIMEOUT_S / 2, "at once"


def test_it_does_not_come_in_time(tmp_path, events, monkeypatch):
    monkeypatch.setattr(teacher, "_TIMEOUT_S", 0.3)
    started = time.monotonic()
    with pytest.raises(TeacherMissing, match=r"was not there within 0\.3 s"):
        load(tmp_path / "model", events)
    assert time.monotonic() - started > 0.3
