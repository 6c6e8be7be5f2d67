"""The counts of the published data sets equal those of their papers and pages, and are in one place only."""

import re
from pathlib import Path

import pytest

import w3ray
from w3ray.data.importers import IMPORTERS
from w3ray.published_sets import PUBLISHED_SETS

CLIPS = {
    "egogesture": 24_161,
    "epic-kitchens-55": 39_448,
    "epic-kitchens-100": 89_977,
    "jester": 148_092,
    "something-something-v1": 108_499,
    "something-something-v2": 220_847,
}


def test_the_splits_add_up_to_what_was_published():
    assert {name: sum(one.clips.values()) for name, one in PUBLISHED_SETS.items()} == CLIPS
    assert set(PUBLISHED_SETS) <= set(IMPORTERS)


def test_heads_and_challenges():
    epic, jester = PUBLISHED_SETS["epic-kitchens-55"], PUBLISHED_SETS["jester"]
    assert (epic.heads, epic.num_classes) == ((("verb", 125), ("noun", 352)), 477)
    assert (jester.heads, jester.num_classes) == ((), 27)
    assert epic.challenge_clips == {"test-s1": 8_047, "test-s2": 2_929}
    assert epic.labelled_clips == 28_472
    assert PUBLISHED_SETS["egogesture"].challenge_clips == {}


@pytest.mark.parametrize("name", PUBLISHED_SETS)
def test_the_counts_stand_in_no_other_file(name):
    counts = {str(count) for count in PUBLISHED_SETS[name].clips.values()}
    for path in Path(w3ray.__file__).parent.rglob("*.py"):
        if path.name != "published_sets.py":
            found = set(re.findall(r"\d[\d_]{3,}", path.read_text(encoding="utf-8")))
            assert not {number for number in found if number.replace("_", "") in counts}, path
