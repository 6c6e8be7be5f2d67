"""The bounded cache of videos: real processes share it, and a real S3 API counts their requests."""

import multiprocessing
import os
import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from decoders_here import each_decoder

from w3ray.data import video_cache
from w3ray.data.decoders import open_video
from w3ray.data.manifest import read_manifest
from w3ray.data.video_cache import VideoCache
from w3ray.storage import RemotePath

KIB = 1024
SPAWN = multiprocessing.get_context("spawn")


def content(number: int) -> bytes:
    return random.Random(number).randbytes(20 * KIB)


@pytest.fixture
def videos(s3, request) -> list[RemotePath]:
    folder = RemotePath(f"s3://bucket/{request.node.name}")
    paths = [folder / f"{number}.mp4" for number in range(8)]
    for number, path in enumerate(paths):
        path.write_bytes(content(number))
    s3.heal()
    s3.forget()
    video_cache._version.cache_clear()
    return paths


def held(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.name != "lock")


def test_a_second_epoch_asks_for_nothing(s3, videos, tmp_path):
    cache = VideoCache(folder=tmp_path / "cache", limit_bytes=1 << 20)
    for _ in range(2):
        assert [cache.read(path) for path in videos] == [content(number) for number in range(8)]
    assert len(s3.requests("GET", "mp4")) == 8


def test_without_a_cache_nothing_is_kept(s3, videos, tmp_path, monkeypatch):
    assert video_cache.read_video(videos[0]) == content(0)
    assert video_cache.read_video(videos[0]) == content(0)
    assert len(s3.requests("GET", "mp4")) == 2
    cache = VideoCache(folder=tmp_path, limit_bytes=1 << 20)
    assert video_cache.read_video(videos[0], cache) == content(0)
    assert held(tmp_path) > 20 * KIB


@each_decoder
def test_a_decoder_reads_through_the_cache_that_it_is_given(s3, tmp_path, motion_manifest, decoder):
    """It does not use the cache of another stream in the same process."""
    local = Path(read_manifest(motion_manifest).resolved_uris()[0])
    video = RemotePath(f"s3://bucket/{decoder}.mp4")
    video.write_bytes(local.read_bytes())
    s3.forget()
    cache = VideoCache(folder=tmp_path, limit_bytes=1 << 20)
    with open_video(str(video), decoder, cache=cache) as opened:
        expected = opened.frames([0])
    asked = len(s3.requests("GET", "mp4"))
    assert held(tmp_path) > local.stat().st_size
    with open_video(str(video), decoder, cache=cache) as again:
        np.testing.assert_array_equal(again.frames([0]), expected)
    assert len(s3.requests("GET", "mp4")) == asked
    with open_video(str(video), decoder):
        assert len(s3.requests("GET", "mp4")) > asked


def test_the_longest_unread_goes_first(s3, videos, tmp_path):
    cache = VideoCache(folder=tmp_path, limit_bytes=64 * KIB)  # three videos
    for number in (0, 1, 2):
        cache.read(videos[number])
    for number, file in enumerate(sorted(tmp_path.glob("*.video"), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(file, ns=(number, number))
    cache.read(videos[0])
    cache.read(videos[3])
    s3.forget()
    cache.read(videos[0])
    assert s3.requests("GET", "mp4") == [], "the last one that was read is still cached"
    cache.read(videos[1])
    assert len(s3.requests("GET", "mp4")) == 1


def test_an_object_that_was_replaced_is_fetched_anew(videos, tmp_path):
    cache = VideoCache(folder=tmp_path, limit_bytes=1 << 20)
    cache.read(videos[0])
    videos[0].write_bytes(b"another video")
    video_cache._version.cache_clear()  # as in the next run
    assert cache.read(videos[0]) == b"another video"


@pytest.mark.parametrize("damage", [b"", b"short", b"\0" * 20 * KIB])
def test_what_is_damaged_is_not_served(s3, videos, tmp_path, damage):
    cache = VideoCache(folder=tmp_path, limit_bytes=1 << 20)
    cache.read(videos[0])
    next(tmp_path.glob("*.video")).write_bytes(damage)
    assert cache.read(videos[0]) == content(0)
    assert cache.read(videos[0]) == content(0)
    assert len(s3.requests("GET", "mp4")) == 2


def test_what_a_killed_process_left_is_cleared_away(videos, tmp_path):
    cache = VideoCache(folder=tmp_path, limit_bytes=64 * KIB)
    (tmp_path / "left.part").write_bytes(bytes(50 * KIB))
    (tmp_path / "lock").write_text("9999999")
    cache.read(videos[0])
    assert held(tmp_path) < 21 * KIB


def test_a_disk_that_can_not_be_written_only_costs_time(videos, tmp_path):
    (tmp_path / "file").touch()
    assert VideoCache(folder=tmp_path / "file" / "cache", limit_bytes=1 << 20).read(videos[0]) == content(0)


def test_a_video_beyond_the_bound_is_not_kept(videos, tmp_path):
    cache = VideoCache(folder=tmp_path, limit_bytes=10 * KIB)
    assert cache.read(videos[0]) == content(0)
    assert list(tmp_path.glob("*.video")) == []


def _read_all(cache: VideoCache, videos: list[RemotePath], seed: int, wrong) -> None:
    dice = random.Random(seed)
    for _ in range(60):
        number = dice.randrange(len(videos))
        if cache.read(videos[number]) != content(number):
            wrong.value += 1
        if held_safely(cache.folder) > cache.limit_bytes:
            wrong.value += 1000


def held_safely(folder: Path) -> int:
    total = 0
    for path in list(folder.iterdir()):
        with suppress(FileNotFoundError):
            total += path.stat().st_size if path.name != "lock" else 0
    return total


def test_processes_share_it_and_the_bound_holds_at_every_moment(videos, tmp_path):
    cache = VideoCache(folder=tmp_path, limit_bytes=64 * KIB)
    wrong = SPAWN.Value("i", 0)
    processes = [SPAWN.Process(target=_read_all, args=(cache, videos, seed, wrong)) for seed in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert wrong.value == 0
