"""What are the files of a video called?"""

import pytest

from w3ray.explain.videos import _name, _stems


@pytest.mark.parametrize(
    ("video", "name"),
    [
        ("clips/a b.mp4", "a b.mp4"),
        ("odd?name.mp4", "odd?name.mp4"),
        ("s3://bucket/clips/c.mp4", "c.mp4"),
        ("https://host/c.mp4?access_key=secret.mp4", "c.mp4"),
    ],
)
def test_a_name_holds_no_query(video, name):
    assert _name(video) == name


def test_names_are_told_apart():
    assert _stems(["a.mp4", "b.mp4", "a.avi"]) == ["a", "b", "a-2"]
