"""Which row of the W3 paper's tables is closest to a recipe?

The values of a row are those of its shipped recipe. There, each line names the source of its value.
"""

import math
import re
from dataclasses import dataclass

from w3ray import published_sets
from w3ray.data.manifest import Manifest
from w3ray.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of the paper's tables."""

    recipe: str
    """Name of the row's shipped recipe."""
    data: str
    frames: int
    attention: bool
    table: str
    top1: float
    """As published, in percent. For EPIC-Kitchens: of actions in seen kitchens."""


SSV1, SSV2, EGOGESTURE, EPIC = "Something-Something V1", "Something-Something V2", "EgoGesture", "EPIC-Kitchens"

ROWS = tuple(
    Row(recipe=recipe, data=data, frames=frames, attention=attention, table=table, top1=top1)
    for recipe, data, frames, attention, table, top1 in (
        ("ssv1-w3-8f", SSV1, 8, True, "Table 1", 49.0),
        ("ssv1-tsm-8f", SSV1, 8, False, "Table 1", 45.6),
        ("ssv1-w3-16f", SSV1, 16, True, "Table 1", 52.6),
        ("ssv1-tsm-16f", SSV1, 16, False, "Table 1", 47.2),
        ("ssv2-w3-16f", SSV2, 16, True, "Table 2", 66.5),
        ("ssv2-tsm-16f", SSV2, 16, False, "Table 2", 63.1),
        ("egogesture-w3-8f", EGOGESTURE, 8, True, "Table 3", 94.3),
        ("egogesture-tsm-8f", EGOGESTURE, 8, False, "Table 3", 80.5),
        ("epic-w3-8f", EPIC, 8, True, "Table 4", 33.5),
        ("epic-tsm-8f", EPIC, 8, False, "Table 4", 28.2),
    )
)

_NAMES = {
    SSV1: re.compile(r"(something-something|smth-smth|something|sth|ss)-?v1", re.IGNORECASE),
    SSV2: re.compile(r"(something-something|smth-smth|something|sth|ss)-?v2", re.IGNORECASE),
    EGOGESTURE: re.compile(r"ego-?gesture", re.IGNORECASE),
    EPIC: re.compile(r"epic(?!.*100)", re.IGNORECASE),
}

_PUBLISHED = {
    SSV1: published_sets.SOMETHING_SOMETHING_V1,
    SSV2: published_sets.SOMETHING_SOMETHING_V2,
    EGOGESTURE: published_sets.EGOGESTURE,
    EPIC: published_sets.EPIC_KITCHENS_55,
}


def closest_row(recipe: Recipe, manifest: Manifest | None) -> tuple[Row, bool]:
    """The closest row, and whether it has the recipe's own data set.

    The row has the same data set, attention if the recipe has it, and the closest number of frames. A recipe for other
    data is compared with a row of Something-Something V1, the data set of the paper's ablations.
    """
    data = data_set_of(recipe, manifest)
    attention = any(stage.model.attention is not None for stage in recipe.resolved_stages())
    rows = [row for row in ROWS if row.data == (data or SSV1) and row.attention == attention]
    return min(rows, key=lambda row: abs(math.log2(row.frames / recipe.data.num_frames))), data is not None


def data_set_of(recipe: Recipe, manifest: Manifest | None) -> str | None:
    """The paper's data set that the recipe uses: found by the names of manifest and recipe, else by the counts."""
    if recipe.data.synthetic is not None:
        return None
    for text in (str(recipe.data.manifest), recipe.name):
        for data, pattern in _NAMES.items():
            if pattern.search(text):
                return data
    if manifest is None:
        return None
    factors = {
        data: abs(math.log2(published.labelled_clips / manifest.table.num_rows))
        for data, published in _PUBLISHED.items()
        if published.num_classes == manifest.num_classes
    }
    return min((data for data in factors if factors[data] < 1), key=factors.__getitem__, default=None)
