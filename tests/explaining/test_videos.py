"""Names of the output files of videos."""

import itertools

import pytest

from w3ray._file_names import file_stem
from w3ray.explaining.videos import _name, _stems


@pytest.mark.parametrize(
    ("video", "name"),
    [
        ("clips/a b.mp4", "a b.mp4"),
        ("odd?name.mp4", "odd?name.mp4"),
        ("s3://bucket/clips/c.mp4", "c.mp4"),
        ("https://host/c.mp4?access_key=secret.mp4", "c.mp4"),
        ("clips/17/../18/", "18"),
    ],
)
def test_a_name_holds_no_query(video, name):
    assert _name(video) == name


def test_names_are_told_apart():
    assert _stems(["a.mp4", "b.mp4", "a.avi"]) == ["a", "b", "a-2"]
    assert _stems(["x/a", "y/a", "z/a-2"]) == ["a", "a-3", "a-2"]
    assert _stems(["x/a.mp4", "y/A.mp4"]) == ["a", "A-2"]  # the same name on some file systems


@pytest.mark.parametrize(
    "videos",
    [
        ["x/a", "y/a", "z/a-2"],
        ["x/a", "y/a", "z/a-2", "z/a-3", "w/A-2", "w/a-2-2", "v/a-2"],
        ["x/a.mp4", "x/a.mp4", "x/a.avi"],
        [".", "..", "/", "s3://b/a", "s3://c/a", "https://h/"],
        ["x/" + "n" * 250, "y/" + "n" * 250, "x/" + "n" * 249 + "m"],
        ["a\nb", "a\tb", "a:b", "a_b", "\udcff", "\udcfe"],
    ],
)
def test_no_set_of_videos_shares_a_name(videos):
    stems = _stems(videos)
    assert len({stem.casefold() for stem in stems}) == len(videos)
    assert all(stem and "/" not in stem and len(stem.encode()) <= 200 for stem in stems)
    assert _stems(videos) == stems
    for some in itertools.permutations(videos):
        assert len({stem.casefold() for stem in _stems(some)}) == len(videos)


def test_plain_names_stay():
    for name in ("a", "take 2", "ü 日本", "test-s1", "v_Run_g01.c02", "x" * 150):
        assert file_stem(name) == name
    odd = ["a/b", "a\\b", "../..", "..", ".", " ", "", "a\0b", ".hidden", "x" * 151]
    stems = [file_stem(name) for name in odd]
    assert len(set(stems)) == len(odd)
    assert not any(set(stem) & set("/\\\0") or stem.startswith(".") for stem in stems)
