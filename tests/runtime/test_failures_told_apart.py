"""Which failures of a worker end a stage at once, also if Ray shows them only as text."""

import traceback

import pytest

from w3ray.errors import RunError
from w3ray.runtime.faults import is_hopeless, last_line
from w3ray.storage import StorageFailing, StorageRefused


def shown(error: Exception) -> str:
    try:
        raise error
    except Exception:
        return traceback.format_exc()


@pytest.mark.parametrize("kind", [StorageFailing, StorageRefused])
def test_what_a_decoder_says_of_its_storage_is_found_in_rays_text(kind):
    wrapped = RuntimeError("ray::MapWorker() failed\n" + shown(kind("s3://bucket/a.mp4: reading is refused")))
    assert is_hopeless(wrapped)
    assert last_line(wrapped) == "s3://bucket/a.mp4: reading is refused"


def test_another_text_is_worth_another_start():
    wrapped = RuntimeError("ray::MapWorker() failed\n" + shown(RunError("StorageFailing: not one of ours")))
    assert not is_hopeless(wrapped)
