"""What can be asked of a checked manifest?"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from w3ray.data.manifest._columns import json_values, slices_of_rows
from w3ray.data.manifest.schema import MANIFEST_VERSION, SCHEMA
from w3ray.data.split_names import split_among
from w3ray.errors import InputError
from w3ray.heads import Heads


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checked manifest.

    `table` has the columns of SCHEMA, and those columns of STAMPS that its file has. `location` is the Parquet file of
    the table (read from or to be written), or "" without a file (then every uri must be absolute). `classes` are the
    class names of all heads; `head_sizes` and `label_sets` are as in `w3ray.heads.Heads`. `flip_map` is one of classes:
    `label_flips` is that of the labels.
    """

    table: pa.Table
    classes: tuple[str, ...]
    flip_map: dict[int, int]
    location: str = ""
    head_sizes: tuple[tuple[str, int], ...] = ()
    flow: bool = False
    """The clips are folders of optical flow (`w3ray data flow`), not videos."""
    label_sets: tuple[tuple[int, ...], ...] | None = None
    """Of multi-label clips; None: a clip has one class (of each head)."""
    rebased: bool = False
    """Some clips were parts of videos and are files of their own now, whose times begin at 0 (`w3ray data pack`)."""

    @property
    def heads(self) -> Heads:
        return Heads(self.classes, self.head_sizes, self.label_sets)

    @property
    def label_flips(self) -> dict[int, int]:
        """A label -> the label of its mirror image. It is the flip map of the classes, unless clips are multi-label.

        Raises:
            KeyError: the mirror image of a set of classes is not among the sets. The manifest was not checked.
        """
        if self.label_sets is None or not self.flip_map:
            return self.flip_map
        label_of = {one: label for label, one in enumerate(self.label_sets)}
        return {label: label_of[mirrored_set(one, self.flip_map)] for one, label in label_of.items()}

    @property
    def own_times(self) -> bool:
        """The times of the clips are not those of the videos that they were made of: see `rebased`.

        Nor are those of optical flow: its folders have a rate of their own.
        """
        return self.rebased or self.flow

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def splits(self) -> dict[str, int]:
        """Number of clips in each split, by name."""
        counted = pc.value_counts(self.table["split"]).to_pylist()
        return {row["values"]: row["counts"] for row in sorted(counted, key=lambda row: row["values"])}

    def split_named(self, name: str) -> str:
        """The split of this manifest with this name; case does not matter: "Train" is "train".

        Raises:
            InputError: the manifest has no clip in that split (the splits it has are listed), or several splits have
                that name.
        """
        splits = self.splits()
        where = self.location or "manifest"
        found = split_among(name, splits, where)
        if found is None:
            known = ", ".join(f"{known} ({count})" for known, count in splits.items())
            raise InputError(f"{where}: split {name!r} is empty; it has {known}")
        return found

    def split(self, name: str, columns: Sequence[str] = tuple(SCHEMA.names)) -> pa.Table:
        """The rows of one split, with only the given `columns`.

        Raises:
            InputError: as `split_named`.
        """
        table = self.table.select(columns)
        rows = table.filter(pc.equal(self.table["split"], name))
        return rows if rows.num_rows else table.filter(pc.equal(self.table["split"], self.split_named(name)))

    def resolve(self, uri: str) -> str:
        """A uri of the table, made absolute."""
        if "://" in uri or os.path.isabs(uri):
            return uri
        if not self.location:
            raise InputError(f"the relative uri {uri!r} needs a manifest with a location; write the manifest first")
        return f"{folder_of(self.location)}/{uri}"

    def resolved(self, uris: pa.ChunkedArray) -> pa.ChunkedArray:
        """`resolve` for a column of uris."""
        return pa.chunked_array([self._resolved_slice(piece) for piece in slices_of_rows(uris)], pa.string())

    def resolved_uris(self, rows: pa.Table | None = None) -> list[str]:
        """`resolve` for every row (of the whole table if `rows` is None)."""
        uris: list[str] = self.resolved((self.table if rows is None else rows)["uri"]).to_pylist()
        return uris

    def _resolved_slice(self, uris: pa.Array) -> pa.Array:
        as_they_are = pc.or_(pc.match_substring(uris, "://"), pc.starts_with(uris, "/"))
        relative = pc.index(as_they_are, False).as_py()
        if relative < 0:
            return uris
        if not self.location:
            self.resolve(uris[relative].as_py())
        return pc.if_else(as_they_are, uris, pc.binary_join_element_wise(folder_of(self.location), uris, "/"))

    def fingerprint(self) -> str:
        """SHA-256 of the rows and the metadata, as hex; independent of the file's location and compression.

        It covers the uris as written, but not the bytes of the videos or their stamps. It reads every row: one or two
        seconds per million rows.
        """
        digest = hashlib.sha256(json.dumps(metadata_of(self), sort_keys=True).encode())
        for name in SCHEMA.names:
            digest.update(f'["{name}",['.encode())
            for i, piece in enumerate(slices_of_rows(self.table[name])):
                digest.update(b"," if i else b"")
                digest.update(json_values(piece))
            digest.update(b"]]")
        return digest.hexdigest()

    def with_fold(self, fold: int, folds: int, seed: int = 0) -> "Manifest":
        """The same clips with new train and val splits by group: fold `fold` of `folds` becomes val, the rest train.

        Groups are assigned to folds round robin in sorted order (shuffled by `seed` if it is not 0). Rows of other
        splits, such as `test`, do not change.

        Raises:
            InputError: `fold` is outside 0..folds-1, a clip has no group, or there are fewer groups than folds.
        """
        where = self.location or "manifest"
        if folds < 2 or not 0 <= fold < folds:
            raise InputError(f"{where}: fold {fold} of {folds}: needs at least 2 folds and a fold in 0..folds-1")
        splits, groups = self.table["split"], self.table["group"]
        anew = [name for name in self.splits() if name.casefold() in ("train", "val")]
        dealt = pc.is_in(splits, pa.array(anew, pa.string()))
        if pc.any(pc.and_(dealt, pc.is_null(groups))).as_py():
            raise InputError(f"{where}: folds need a group for every clip; import with --group or a group column")
        names = sorted(pc.unique(groups.filter(dealt)).to_pylist())
        if len(names) < folds:
            raise InputError(f"{where}: {len(names)} groups are too few for {folds} folds")
        if seed:
            names = [names[place] for place in np.random.default_rng(seed).permutation(len(names))]
        held_out = pc.is_in(groups, pa.array(names[fold::folds], pa.string()))
        fresh = pc.if_else(dealt, pc.if_else(held_out, "val", "train"), splits)
        place = SCHEMA.get_field_index("split")
        table = self.table.set_column(place, SCHEMA.field("split"), fresh)
        return replace(self, table=table)

    def with_head(self, name: str) -> "Manifest":
        """The same clips with the labels and classes of one of several heads, such as "verb".

        Raises:
            InputError: the clips have no such head.
        """
        where = self.location or "manifest"
        found = [head for head in self.heads.each() if head.name == name]
        if not self.head_sizes or not found:
            one = "its clips have one label each" if self.label_sets is None else "its sets of classes are of one head"
            known = f"it has {', '.join(self.heads.names)}" if self.head_sizes else one
            raise InputError(f"{where}: no head {name!r}; {known}")
        (head,) = found
        place = SCHEMA.get_field_index("label")
        field, labels = SCHEMA.field("label"), self.table["label"]
        known_labels = np.asarray(pc.fill_null(labels, 0))
        own = pa.array(head.label(known_labels), field.type, mask=np.asarray(pc.is_null(labels)))
        # A mirror image of a clip with several labels keeps them.
        flip_map = {label: label for label in range(len(head.classes))} if self.flip_map else {}
        table = self.table.set_column(place, field, own)
        return replace(self, table=table, classes=head.classes, head_sizes=(), flip_map=flip_map)


def mirrored_set(classes: Sequence[int], flip_map: Mapping[int, int]) -> tuple[int, ...]:
    """The classes of the mirror image of a multi-label clip."""
    return tuple(sorted(flip_map.get(label, label) for label in classes))


def metadata_of(manifest: Manifest) -> dict[str, object]:
    metadata: dict[str, object] = {
        "w3ray.version": MANIFEST_VERSION,
        "w3ray.classes": list(manifest.classes),
        "w3ray.flip_map": {str(label): mirror for label, mirror in sorted(manifest.flip_map.items())},
    }
    if manifest.head_sizes:  # otherwise absent, so that older fingerprints stay valid
        metadata["w3ray.heads"] = [list(head) for head in manifest.head_sizes]
    if manifest.label_sets is not None:
        metadata["w3ray.label_sets"] = [list(one) for one in manifest.label_sets]
    if manifest.flow:
        metadata["w3ray.flow"] = True
    if manifest.rebased:
        metadata["w3ray.rebased"] = True
    return metadata


def folder_of(location: str) -> str:
    return location.rpartition("/")[0]
