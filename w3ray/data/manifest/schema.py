"""Which columns does a manifest have, and of which types?"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from w3ray.heads import UNLABELLED

MANIFEST_VERSION = 1

FOLDER_FPS = 30
"""Frames per second of a folder of images, by convention."""

SCHEMA = pa.schema(
    [
        pa.field("clip_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
        pa.field("reversed", pa.bool_(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("group", pa.string()),
    ]
)

CLIP_COLUMNS = ("clip_id", "uri", "start_s", "end_s", "reversed", "label")
"""The columns that are needed to read a clip and to score it."""

STAMPS = pa.schema([pa.field("size", pa.int64()), pa.field("modified_ns", pa.int64()), pa.field("sha256", pa.string())])
"""Optional columns: the state of the files at import (`w3ray.data.stamps`)."""

REQUIRED_COLUMNS = ("clip_id", "uri", "label", "split")


def known_labels(table: pa.Table) -> np.ndarray:
    """int64 [N]: the labels of a table of clips; `UNLABELLED` for unknown labels."""
    labels: np.ndarray = pc.fill_null(table["label"], UNLABELLED).to_numpy().astype(np.int64)
    return labels
