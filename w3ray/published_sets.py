"""How many clips and classes have the published data sets, whose counts more than one part of w3ray asks for?

Importers hold lists against them, submissions name what a challenge wants, and `w3ray lint` tells the sets apart. Each
count's source is in the first lines of the set's importer.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSet:
    """A data set as it was published."""

    title: str
    """As people write it."""
    clips: Mapping[str, int]
    """Split -> clips of the published list."""
    classes: Mapping[str, int]
    """Head -> classes; a set with one label a clip has the one head ""."""
    unlabelled: tuple[str, ...] = ()
    """Splits whose labels were not published: what a challenge asks for."""

    @property
    def num_classes(self) -> int:
        """Of all heads together."""
        return sum(self.classes.values())

    @property
    def heads(self) -> tuple[tuple[str, int], ...]:
        """As `w3ray.heads.Heads.sizes` has them: () for one head."""
        return () if "" in self.classes else tuple(self.classes.items())

    @property
    def challenge_clips(self) -> dict[str, int]:
        """Split -> clips whose labels were not published."""
        return {split: self.clips[split] for split in self.unlabelled}

    @property
    def labelled_clips(self) -> int:
        """Clips of all splits whose labels were published."""
        return sum(count for split, count in self.clips.items() if split not in self.unlabelled)


EGOGESTURE = PublishedSet(
    title="EgoGesture", clips={"train": 14_416, "val": 4_768, "test": 4_977}, classes={"": 83}
)  # fmt: skip
EPIC_KITCHENS_55 = PublishedSet(
    title="EPIC-KITCHENS-55",
    clips={"train": 28_472, "test-s1": 8_047, "test-s2": 2_929},
    classes={"verb": 125, "noun": 352},
    unlabelled=("test-s1", "test-s2"),
)
EPIC_KITCHENS_100 = PublishedSet(
    title="EPIC-KITCHENS-100",
    clips={"train": 67_217, "val": 9_668, "test": 13_092},
    classes={"verb": 97, "noun": 300},
    unlabelled=("test",),
)
JESTER = PublishedSet(
    title="Jester",
    clips={"train": 118_562, "val": 14_787, "test": 14_743},
    classes={"": 27},
    unlabelled=("test",),
)
SOMETHING_SOMETHING_V1 = PublishedSet(
    title="Something-Something v1",
    clips={"train": 86_017, "val": 11_522, "test": 10_960},
    classes={"": 174},
    unlabelled=("test",),
)
SOMETHING_SOMETHING_V2 = PublishedSet(
    title="Something-Something v2",
    clips={"train": 168_913, "val": 24_777, "test": 27_157},
    classes={"": 174},
    unlabelled=("test",),
)

PUBLISHED_SETS: Mapping[str, PublishedSet] = {
    "egogesture": EGOGESTURE,
    "epic-kitchens-55": EPIC_KITCHENS_55,
    "epic-kitchens-100": EPIC_KITCHENS_100,
    "jester": JESTER,
    "something-something-v1": SOMETHING_SOMETHING_V1,
    "something-something-v2": SOMETHING_SOMETHING_V2,
}
"""By the names of their importers."""
