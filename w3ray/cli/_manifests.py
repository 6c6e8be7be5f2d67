"""The summary that a command prints of a manifest that it made."""

from typing import Any

import numpy as np
import pyarrow.compute as pc

from w3ray._redact import redact
from w3ray.cli._console import Group, Line, RenderableType, Table
from w3ray.data.manifest import Manifest, known_labels
from w3ray.heads import NO_CLASS, UNLABELLED


def manifest_document(manifest: Manifest) -> dict[str, Any]:
    return {
        "manifest": redact(manifest.location),
        "clips": manifest.table.num_rows,
        "classes": list(manifest.classes),
        "heads": dict(manifest.head_sizes),
        "multi_label": manifest.heads.multi_label,
        "splits": manifest.splits(),
        "counts": _class_counts(manifest),
        "flip_map": {manifest.classes[label]: manifest.classes[to] for label, to in manifest.flip_map.items()},
        "fingerprint": manifest.fingerprint(),
    }


def _class_counts(manifest: Manifest) -> dict[str, dict[str, int]]:
    """Clips by class, then by split. With several heads, a class is named with its head, such as "verb take". A
    multi-label clip is counted in each of its classes."""
    splits = manifest.table["split"]
    labels = {split: known_labels(manifest.table.filter(pc.equal(splits, split))) for split in manifest.splits()}
    counts: dict[str, dict[str, int]] = {}
    if manifest.heads.multi_label:
        return _counts_of_sets(manifest, labels)
    for head in manifest.heads.each():
        of = {split: np.bincount(head.label(some[some != UNLABELLED]), minlength=len(head.classes))
              for split, some in labels.items()}  # fmt: skip
        for place, name in enumerate(head.classes):
            counts[f"{head.name} {name}".strip()] = {split: int(count[place]) for split, count in of.items()}
    return counts | _unlabelled(labels)


def _counts_of_sets(manifest: Manifest, labels: dict[str, np.ndarray]) -> dict[str, dict[str, int]]:
    heads = manifest.heads
    clips = {
        split: np.bincount(some[some != UNLABELLED], minlength=heads.num_labels).tolist()
        for split, some in labels.items()
    }
    of = {split: heads.clips_of_classes(count) for split, count in clips.items()}
    counts = {name: {split: of[split][label] for split in of} for label, name in enumerate(heads.classes)}
    none = [label for label, classes in enumerate(heads.label_sets or ()) if not classes]
    without = {split: sum(count[label] for label in none) for split, count in clips.items()}
    return counts | ({NO_CLASS: without} if any(without.values()) else {}) | _unlabelled(labels)


def _unlabelled(labels: dict[str, np.ndarray]) -> dict[str, dict[str, int]]:
    unlabelled = {split: int((some == UNLABELLED).sum()) for split, some in labels.items()}
    return {"(not known)": unlabelled} if any(unlabelled.values()) else {}


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
