"""Loads the teacher's model in a worker; the model may not be finished yet."""

import time

from torch import nn

from w3ray.models.bundle import DESCRIPTION_NAME, load_model
from w3ray.runtime.event_channel import Sender
from w3ray.runtime.faults import TeacherMissing
from w3ray.runtime.heartbeat import Heartbeat
from w3ray.runtime.ranks import Ranks
from w3ray.storage import StoragePath, fetched

_TIMEOUT_S = 60.0
_POLL_S = 0.2


def load_teacher(folder: StoragePath, *, stage: str, ranks: Ranks, events: Sender, heartbeat: Heartbeat) -> nn.Module:
    """Load the teacher's model. Wait for it if this stage was started before its turn.

    The wait is short, because the teacher may have lost its workers and may need the resources that these workers hold.
    All ranks continue or give up together.

    Args:
        folder: where the teacher's stage writes its model (`w3ray.models.bundle`).
        stage: the name of the stage that needs it.
        ranks: all wait; the first rank checks the folder.
        events: tells whether the driver still wants this stage.
        heartbeat: reports what this rank waits for.

    Raises:
        TeacherMissing: it did not come in time, or the driver no longer wants this stage.
    """
    heartbeat.doing("waits for its teacher's model")
    given_up_at = time.monotonic() + _TIMEOUT_S
    whole = folder / DESCRIPTION_NAME  # on object storage this file is written last
    while ranks.rank == 0 and not whole.is_file() and time.monotonic() < given_up_at and events.driver_listens():
        time.sleep(_POLL_S)
    if not ranks.first_says(whole.is_file()):
        raise TeacherMissing(f"stage {stage}: its teacher's model {folder} was not there within {_TIMEOUT_S:g} s")
    with fetched(folder) as local:
        return load_model(local)[0]
