"""A recipe's synthetic clips are generated while its first stage starts."""

import threading
import time
from types import SimpleNamespace

import pytest
from patience import wait_until

from w3ray.data import microbatch
from w3ray.data.clip import ClipSpec
from w3ray.data.manifest import read_manifest
from w3ray.data.microbatch import ClipTables, MicrobatchDecoder
from w3ray.data.synthetic import motion_manifest
from w3ray.errors import InputError, RunError
from w3ray.pipeline.drawing import Drawing
from w3ray.plugins import NO_PLUGINS

ARGUMENTS = {"clips": 16, "val_clips": 8, "test_clips": 8, "seed": 3, "size": 32}


def test_the_set_is_the_one_that_was_foreseen(tmp_path):
    root = tmp_path / "data" / "motion"
    foreseen = motion_manifest(root, **ARGUMENTS)
    assert not root.exists()
    drawing = Drawing(root, ARGUMENTS)
    wait_until(root.exists)
    drawing.check()
    drawn = read_manifest(root / "manifest.parquet")
    assert drawn.table.equals(foreseen.table)
    assert drawn.fingerprint() == foreseen.fingerprint()
    assert drawn.resolved_uris() == foreseen.resolved_uris()


def test_abandoned_leaves_nothing(tmp_path):
    drawing = Drawing(tmp_path / "runs" / "data" / "motion", {**ARGUMENTS, "clips": 5_000})
    wait_until((tmp_path / "runs" / "data").exists)
    drawing.abandon()
    drawing.check()
    assert list(tmp_path.iterdir()) == []


def test_abandoned_leaves_what_is_not_its_own(tmp_path):
    drawing = Drawing(tmp_path / "runs" / "data" / "motion", {**ARGUMENTS, "clips": 5_000})
    wait_until((tmp_path / "runs" / "data").exists)
    (tmp_path / "runs" / "mine").touch()
    drawing.abandon()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]


def test_failure_is_told(tmp_path):
    (tmp_path / "data").write_text("a file where the folder should be")
    drawing = Drawing(tmp_path / "data" / "motion", ARGUMENTS)
    drawing.abandon()  # it is already done
    with pytest.raises(InputError, match="cannot write the synthetic data set"):
        drawing.check()


def decoder(clips_ready) -> MicrobatchDecoder:
    """A decoder without schedule and rows: only its waiting is tested."""
    return MicrobatchDecoder(
        SimpleNamespace(clip=ClipSpec(), shared=None, clips_ready=clips_ready, plugins=NO_PLUGINS),
        ClipTables(splits={}),
    )


class TestDecoder:
    def test_waits_for_the_clips(self, tmp_path):
        ready = tmp_path / "motion"
        started = time.monotonic()
        threading.Timer(0.5, ready.mkdir).start()
        decoder(ready)
        assert ready.is_dir()
        assert time.monotonic() - started >= 0.5

    def test_gives_up_in_time(self, tmp_path, monkeypatch):
        monkeypatch.setattr(microbatch, "_CLIPS_TIMEOUT_S", 0.2)
        with pytest.raises(RunError, match="are not there after"):
            decoder(tmp_path / "motion")

    def test_no_wait_without_a_folder(self):
        assert decoder(None)._tables == {}
