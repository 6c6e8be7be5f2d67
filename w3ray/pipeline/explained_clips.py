"""Which clips does training draw pictures of? Those that the recipe names."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from w3ray._nearest import did_you_mean
from w3ray.errors import InputError
from w3ray.heads import Heads
from w3ray.recipe import Recipe
from w3ray.runtime.explained import ExplainedClip

_NAMES_COMPARED = 20_000
"""The nearest name is searched only among this many clips: each comparison takes tens of microseconds."""


def explained_clips(recipe: Recipe, splits: Mapping[str, pa.Table], heads: Heads) -> tuple[ExplainedClip, ...]:
    """The clips of `tracking.explain_clips`, in the same order.

    Raises:
        InputError: a clip is in no split.
    """
    wanted = recipe.tracking.explain_clips if recipe.tracking.enabled else ()
    if not wanted:
        return ()
    found: dict[str, ExplainedClip] = {}
    for rows in splits.values():
        for row in rows.filter(pc.is_in(rows["clip_id"], pa.array(wanted))).to_pylist():
            true = heads.class_name(row.pop("label"))
            found.setdefault(row["clip_id"], ExplainedClip(**row, true=true))
    if missing := [name for name in wanted if name not in found]:
        known = [name for rows in splits.values() for name in rows["clip_id"].slice(0, _NAMES_COMPARED).to_pylist()]
        hint = did_you_mean(missing[0], known[:_NAMES_COMPARED])
        raise InputError(
            f"tracking.explain_clips: {missing[0]!r} is no clip of the splits {', '.join(splits)}; {hint}"
            f"the splits hold {known[0]!r} and others"
        )
    return tuple(found[name] for name in wanted)
