"""Clips that trials share are decoded only once, and are never changed."""

import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from patience import PATIENCE_S

from w3ray.data.clip import ClipSpec
from w3ray.data.shared_clips import ClipFolder, SharedClips, _remove_unused

SPEC = ClipSpec(num_frames=4, size=32)
SPAWN = multiprocessing.get_context("spawn")
ROW = {"uri": "/videos/a.mp4", "start_s": None, "end_s": None, "reversed": False, "label": 1}
ON_DISK = 4 * 4096
"""Bytes of a clip: 12300 bytes need whole blocks."""


def pixels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path) -> ClipFolder:
    (tmp_path / "one").mkdir()
    return ClipFolder(tmp_path / "one", 100 * ON_DISK, SPEC)


def test_what_is_kept_comes_back_to_the_bit(folder):
    key = folder.key(ROW, 7, {}, None)
    assert folder.get(key) is None
    folder.keep(key, pixels(), 3)
    clip, label, extras = folder.get(key)
    assert (label, extras) == (3, {})
    assert np.array_equal(clip, pixels())
    assert clip.dtype == np.uint8


def test_side_inputs_are_kept_with_the_clip(tmp_path):
    spec = replace(SPEC, boxes_per_frame=3, bank_window=2, bank_channels=5, bank_every_s=1.0)
    (tmp_path / "one").mkdir()
    folder = ClipFolder(tmp_path / "one", 100 * ON_DISK, spec)
    row = {**ROW, "boxes": b"some", "bank": "/bank/a"}
    key, rng = folder.key(row, 7, {}, None), np.random.default_rng(0)
    made = {"boxes": rng.random((4, 3, 4), np.float32), "bank": rng.random((2, 6), np.float32)}
    folder.keep(key, pixels(), 3, made)
    clip, label, extras = folder.get(key)
    assert label == 3
    assert np.array_equal(clip, pixels())
    assert extras.keys() == made.keys()
    assert all(np.array_equal(extras[name], made[name]) for name in made)
    assert folder.key({**row, "boxes": b"other"}, 7, {}, None) != key
    assert folder.key({**row, "bank": "/bank/b"}, 7, {}, None) != key


@pytest.mark.parametrize(
    "other",
    [
        dict(row={**ROW, "uri": "/videos/b.mp4"}),
        dict(row={**ROW, "start_s": 1.0}),
        dict(row={**ROW, "end_s": 1.0}),
        dict(row={**ROW, "reversed": True}),
        dict(row={**ROW, "label": 2}),
        dict(draw=8),
        dict(draw=None),
        dict(flip_map={1: 2}),
        dict(roots=("/videos",)),
    ],
    ids=str,
)
def test_another_clip_has_another_key(folder, other):
    same = dict(row=ROW, draw=7, flip_map={}, roots=None)
    assert folder.key(**same) == folder.key(**same)
    assert folder.key(**{**same, **other}) != folder.key(**same)


def test_another_video_under_the_same_path_is_another_clip(folder, tmp_path):
    video = tmp_path / "a.mp4"
    video.write_bytes(b"one")
    row = {**ROW, "uri": str(video)}
    before = folder.key(row, 7, {}, None)
    video.write_bytes(b"two")
    os.utime(video, ns=(1, 1))
    assert folder.key(row, 7, {}, None) != before


def test_another_kind_of_clip_has_another_key(folder, tmp_path):
    smaller = ClipFolder(tmp_path / "one", 1 << 20, replace(SPEC, decoder="decord"))
    assert smaller.key(ROW, 7, {}, None) != folder.key(ROW, 7, {}, None)


def test_another_source_of_a_plugins_sampler_has_another_key(folder, tmp_path):
    other = ClipFolder(tmp_path / "one", 1 << 20, SPEC, "samplers/last=1")
    assert other.key(ROW, 7, {}, None) != folder.key(ROW, 7, {}, None)


@pytest.mark.parametrize(
    "damage", [lambda b: b"", lambda b: b[:-1], lambda b: bytes(len(b)), lambda b: b[:-1] + bytes([b[-1] ^ 1])]
)
def test_what_is_damaged_is_not_served(folder, tmp_path, damage):
    folder.keep("0" * 64, pixels(), 3)
    (file,) = (tmp_path / "one").glob("*.clip")
    file.write_bytes(damage(file.read_bytes()))
    assert folder.get("0" * 64) is None


def test_what_is_kept_stays_and_the_limit_holds(folder, tmp_path):
    keys = [folder.key(ROW, draw, {}, None) for draw in range(120)]
    for draw, key in enumerate(keys):
        with folder.alone(key):
            folder.keep(key, pixels(draw), draw)
    assert len(list((tmp_path / "one").glob("*.clip"))) == 100
    assert all(folder.get(key)[1] == draw for draw, key in enumerate(keys[:100]))
    assert all(folder.get(key) is None for key in keys[100:])


def test_half_of_a_small_disk_is_left(small_disk):
    disk = small_disk("4m")
    opened = ClipFolder(disk, 1 << 30, SPEC)
    for draw in range(400):
        opened.keep(opened.key(ROW, draw, {}, None), pixels(), 0)
    room = os.statvfs(disk)
    assert 0.4 < room.f_bavail / room.f_blocks < 0.6


def test_a_disk_that_can_not_be_written_only_costs_time(tmp_path):
    (tmp_path / "file").touch()
    assert SharedClips(folder=tmp_path / "file" / "sweep", limit_bytes=1 << 20).opened(SPEC) is None


def test_the_folder_of_another_user_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr("os.getuid", lambda: 12345)
    assert SharedClips(folder=tmp_path / "sweep", limit_bytes=1 << 20).opened(SPEC) is None


def _decode(folder: Path, ready, go, decoded) -> None:
    opened = ClipFolder(folder, 1 << 30, SPEC)
    ready.release()
    go.wait()
    for draw in range(20):
        key = opened.key(ROW, draw, {}, None)
        with opened.alone(key):
            if opened.get(key) is None:
                time.sleep(0.01)
                with decoded.get_lock():
                    decoded.value += 1
                opened.keep(key, pixels(draw), draw)


def test_processes_at_the_same_clip_decode_it_once(tmp_path):
    ready, go, decoded = SPAWN.Semaphore(0), SPAWN.Event(), SPAWN.Value("i", 0)
    processes = [SPAWN.Process(target=_decode, args=(tmp_path, ready, go, decoded)) for _ in range(3)]
    for process in processes:
        process.start()
    for _ in processes:
        assert ready.acquire(timeout=PATIENCE_S)
    go.set()
    for process in processes:
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    assert decoded.value == 20


def _die(folder: Path, inside) -> None:
    opened = ClipFolder(folder, 1 << 30, SPEC)
    with opened.alone("0" * 64):
        inside.set()
        time.sleep(600)


def test_who_dies_at_a_clip_lets_others_go_on(tmp_path):
    inside = SPAWN.Event()
    process = SPAWN.Process(target=_die, args=(tmp_path, inside))
    process.start()
    assert inside.wait(PATIENCE_S)
    process.kill()
    process.join()
    opened = ClipFolder(tmp_path, 1 << 30, SPEC)
    with opened.alone("0" * 64):
        opened.keep("0" * 64, pixels(), 3)
    assert opened.get("0" * 64)[1] == 3


def _hold_open(shared: SharedClips, inside) -> None:
    assert shared.opened(SPEC) is not None
    inside.set()
    time.sleep(600)


def test_the_next_sweep_removes_what_a_killed_one_left_and_no_other(tmp_path):
    inside = SPAWN.Event()
    used = SharedClips(folder=tmp_path / "used", limit_bytes=1 << 20)
    process = SPAWN.Process(target=_hold_open, args=(used, inside))
    process.start()
    try:
        assert inside.wait(PATIENCE_S)
        left = tmp_path / "left"
        left.mkdir()
        (left / "lock").touch()
        (left / f"{'0' * 64}.clip").write_bytes(b"clip")
        assert SharedClips(folder=tmp_path / "next", limit_bytes=1 << 20).opened(SPEC) is not None
        assert not left.exists()
        assert used.folder.exists()
    finally:
        process.kill()
        process.join()
    _remove_unused(used.folder)
    assert not used.folder.exists()
