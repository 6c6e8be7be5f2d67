"""The summary that a command prints of a manifest that it made."""

from typing import Any

import numpy as np
import pyarrow.compute as pc

from w3ray._redact import redact
from w3ray.cli._console import Group, Line, RenderableType, Table
from w3ray.data.manifest import Manifest, known_labels
from w3ray.heads import UNLABELLED


def manifest_document(manifest: Manifest) -> dict[str, Any]:
    return {
        "manifest": redact(manifest.location),
        "clips": manifest.table.num_rows,
        "classes": list(manifest.classes),
        "heads": dict(manifest.head_sizes),
        "splits": manifest.splits(),
        "counts": _class_counts(manifest),
        "flip_map": {manifest.classes[label]: manifest.classes[to] for label, to in manifest.flip_map.items()},
        "fingerprint": manifest.fingerprint(),
    }


def _class_counts(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Clips by class, then by split. With several heads, a class is named with its head, such as "verb take"."""
    splits = manifest.table["split"]
    labels = {split: known_labels(manifest.table.filter(pc.equal(splits, split))) for split in manifest.splits()}
    counts: dict[str, dict[str, int]] = {}
    for head in manifest.heads.each():
        of = {split: np.bincount(head.label(some[some != UNLABELLED]), minlength=len(head.classes))
              for split, some in labels.items()}  # fmt: skip
        for place, name in enumerate(head.classes):
            counts[f"{head.name} {name}".strip()] = {split: int(count[place]) for split, count in of.items()}
    unlabelled = {split: int((some == UNLABELLED).sum()) for split, some in labels.items()}
    return counts | ({"(not known)": unlabelled} if any(unlabelled.values()) else {})


def manifest_text(manifest: Manifest) -> RenderableType:
    splits = manifest.splits()
    table = Table(title=None, box=None, pad_edge=False)
    table.add_column("class")
    for split in splits:
        table.add_column(split, justify="right")
    for name, counts in _class_counts(manifest).items():
        table.add_row(name, *(str(counts[split]) for split in splits))
    table.add_row("all", *(str(count) for count in splits.values()))
    return Group(table, Line(f"{manifest.table.num_rows} clips in {redact(manifest.location)}"))
