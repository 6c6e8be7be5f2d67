"""Which row of the W3 paper's tables is closest to a recipe?

The values of a row are those of its shipped recipe. There, each line names the source of its value.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

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
    """As published, in percent. For EPIC-Kitchens: of actions in seen kitchens. For a network that the paper has only
    together with others: of all of them together."""
    model: str = "tsm"
    backbone: str = "resnet50"
    """Empty: the model has none."""
    kind: str | None = None
    """Kind of the attention, if it is not W3."""
    stages: int | None = None
    """Number of stages, where several rows have the same network."""
    options: tuple[tuple[str, Any], ...] = ()
    """Name and value of the model's options that tell this row from another one of the same model."""
    flow: bool = False
    """The network reads optical flow."""

    @property
    def network(self) -> tuple[str, str, str | None]:
        """Model, backbone and kind of the attention."""
        return self.model, self.backbone, self.kind or ("w3" if self.attention else None)

    @property
    def title(self) -> str:
        """The network, for people."""
        model, backbone, kind = self.network
        if (model, backbone) == ("tsm", "resnet50"):
            return {None: "TSM", "w3": "TSM+W3"}.get(kind, f"TSM+{kind}")
        words = [model, backbone, f"with {kind}" if kind else "", "for flow" if self.flow else ""]
        return " ".join(word for word in words if word)


SSV1, SSV2, EGOGESTURE, EPIC = "Something-Something V1", "Something-Something V2", "EgoGesture", "EPIC-Kitchens"

TSM_ROWS = tuple(
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
        ("ssv2-tsm-8f", SSV2, 8, False, "Table 2", 59.1),
    )
)
"""TSM with W3 and without. Every recipe has a closest one among them."""

PEERS = (
    Row(recipe="ssv1-tsn-8f", data=SSV1, frames=8, attention=False, table="Table 1", top1=19.7, model="tsn"),
    Row(
        recipe="ssv1-tsn-bninception-8f", data=SSV1, frames=8, attention=False, table="Table 1", top1=19.5,
        model="tsn", backbone="bninception",
    ),
    Row(recipe="epic-tsn-8f", data=EPIC, frames=8, attention=False, table="Table 4", top1=24.0, model="tsn"),
    Row(
        recipe="ssv1-cbam-16f", data=SSV1, frames=16, attention=True, table="Table 6", top1=49.1, kind="cbam", stages=1,
    ),
    Row(
        recipe="ssv1-cbam-mfr-16f", data=SSV1, frames=16, attention=True, table="Table 7", top1=50.5, kind="cbam",
        stages=2,
    ),
    Row(recipe="ssv1-nonlocal-16f", data=SSV1, frames=16, attention=True, table="Table 6", top1=49.8, kind="nonlocal"),
    Row(recipe="ssv1-tam-8f", data=SSV1, frames=8, attention=False, table="Table 8", top1=49.6, model="tam"),
    Row(recipe="ssv1-tam-w3-8f", data=SSV1, frames=8, attention=True, table="Table 8", top1=50.1, model="tam"),
    *(
        Row(recipe=recipe, data=data, frames=frames, attention=attention, table=table, top1=top1, model=model,
            backbone=backbone)
        for recipe, data, frames, attention, table, top1, model, backbone in (
            ("ssv1-trn-multiscale-8f", SSV1, 8, False, "Table 1", 38.9, "trn_multiscale", "resnet50"),
            ("ssv1-trn-multiscale-bninception-8f", SSV1, 8, False, "Table 1", 34.4, "trn_multiscale", "bninception"),
            ("ssv2-trn-multiscale-bninception-8f", SSV2, 8, False, "Table 2", 48.4, "trn_multiscale", "bninception"),
            ("epic-trn-8f", EPIC, 8, False, "Table 4", 26.6, "trn", "resnet50"),
            ("epic-trn-multiscale-8f", EPIC, 8, False, "Table 4", 28.2, "trn_multiscale", "resnet50"),
            ("ssv1-i3d-r18-32f", SSV1, 32, False, "Table 8", 34.9, "i3d_r18", ""),
            ("ssv1-i3d-r18-w3-32f", SSV1, 32, True, "Table 8", 35.3, "i3d_r18", ""),
            ("ssv1-i3d-r18-64f", SSV1, 64, False, "Table 8", 36.4, "i3d_r18", ""),
            ("ssv1-i3d-r18-w3-64f", SSV1, 64, True, "Table 8", 36.6, "i3d_r18", ""),
            ("egogesture-c3d-8f", EGOGESTURE, 8, False, "Table 3", 81.7, "c3d", ""),
            ("egogesture-c3d-16f", EGOGESTURE, 16, False, "Table 3", 86.4, "c3d", ""),
            ("egogesture-vgg16-lstm-16f", EGOGESTURE, 16, False, "Table 3", 74.7, "lstm", "vgg16"),
            ("ssv1-i3d-r50-32f", SSV1, 32, False, "Table 1", 41.6, "i3d_r50", ""),
            ("ssv1-slowfast-r50-32f", SSV1, 32, False, "Table 1", 47.5, "slowfast_r50", ""),
            ("egogesture-i3d-inception-32f", EGOGESTURE, 32, False, "Table 3", 90.3, "i3d_inception", ""),
            ("egogesture-c3d-rsttm-40f", EGOGESTURE, 40, False, "Table 3", 89.3, "c3d_rsttm", ""),
        )
    ),
    Row(
        recipe="ssv1-i3d-r50-nl-32f", data=SSV1, frames=32, attention=True, table="Table 1", top1=44.4, model="i3d_r50",
        backbone="", kind="nonlocal",
    ),
    *(
        Row(recipe=recipe, data=EPIC, frames=32, attention=True, table="Table 4", top1=32.7, model="lfb", backbone="",
            kind="nonlocal", options=(("window", window),))
        for recipe, window in (("epic-lfb-verb-32f", 40), ("epic-lfb-noun-32f", 12))
    ),
    *(
        Row(recipe=recipe, data=SSV1, frames=frames, attention=False, table="Table 1", top1=top1, model="eco",
            backbone="", options=(("lite", lite),))
        for recipe, frames, top1, lite in (
            ("ssv1-eco-8f", 8, 39.6, False),
            ("ssv1-eco-16f", 16, 41.4, False),
            ("ssv1-eco-lite-16f", 16, 46.4, True),
            ("ssv1-eco-lite-20f", 20, 46.4, True),
            ("ssv1-eco-lite-24f", 24, 46.4, True),
            ("ssv1-eco-lite-32f", 32, 46.4, True),
        )
    ),
    *(
        Row(recipe=f"ssv1-eco-lite-flow-{frames}f", data=SSV1, frames=frames, attention=False, table="Table 1",
            top1=49.5, model="eco", backbone="", options=(("lite", True),), flow=True)
        for frames in (16, 20, 24, 32)
    ),
    Row(
        recipe="ssv1-i3d-nl-gcn", data=SSV1, frames=32, attention=True, table="Table 1", top1=46.1, model="i3d_gcn",
        backbone="", kind="nonlocal",
    ),
    *(
        Row(recipe=recipe, data=data, frames=8, attention=False, table=table, top1=top1, model="trn_multiscale",
            backbone="bninception", flow=True)
        for recipe, data, table, top1 in (
            ("ssv1-trn-multiscale-bninception-flow-8f", SSV1, "Table 1", 42.0),
            ("ssv2-trn-multiscale-bninception-flow-8f", SSV2, "Table 2", 55.5),
        )
    ),
)  # fmt: skip
"""Other networks. A recipe is compared with one of them only if it has the same data set, network, input and frames."""

ROWS = TSM_ROWS + PEERS

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

    The row is that of the recipe's network on its data set, if the paper has one. Else it is a row of TSM with the same
    data set, with W3 if the recipe has an attention, and with the closest number of frames. A recipe for other data is
    compared with a row of Something-Something V1, the data set of the paper's ablations.
    """
    data = data_set_of(recipe, manifest)
    if (peer := _peer(recipe, data)) is not None:
        return peer, True
    attention = any(stage.model.attention is not None for stage in recipe.resolved_stages())
    rows = [row for row in TSM_ROWS if row.data == (data or SSV1) and row.attention == attention]
    return min(rows, key=lambda row: abs(math.log2(row.frames / recipe.data.num_frames))), data is not None


def _peer(recipe: Recipe, data: str | None) -> Row | None:
    """The row of another network than TSM with W3 or without, if it is that of the recipe."""
    model = recipe.resolved_stages()[-1].model
    backbone = model.backbone if model.takes_backbone else ""
    network = (model.name, backbone, None if model.attention is None else model.attention.kind)
    flow = recipe.data.flow_fields is not None
    for row in PEERS:
        alike = (row.data, row.network, row.frames, row.flow) == (data, network, recipe.data.num_frames, flow)
        alike = alike and all(getattr(model.options, name) == value for name, value in row.options)
        if alike and row.stages in (None, len(recipe.stages)):
            return row
    return None


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
