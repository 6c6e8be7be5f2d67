"""What is a manifest? One Parquet table that lists every clip of a data set. w3ray reads data in no other form.

Columns, one row per clip:

| column   | type    | required | meaning                                                               |
|----------|---------|----------|-----------------------------------------------------------------------|
| clip_id  | string  | yes      | unique name of the clip                                               |
| uri      | string  | yes      | video: absolute, `s3://...`, or relative to the manifest's folder     |
| start_s  | float64 | no       | where the clip begins in the video, seconds; null: the video's start  |
| end_s    | float64 | no       | where it ends (exclusive), seconds; null: the video's end             |
| reversed | bool    | no       | the clip is played backwards; absent: false                           |
| label    | int32   | yes      | index into the class names; null: unknown, such as in a test split    |
| split    | string  | yes      | `train`, `val`, `test` or any other name                              |
| group    | string  | no       | a fold keeps a group together: a subject, a sequence, a camera        |

A uri may also be a folder of numbered JPEG or PNG images. If the folder holds other images, too, the uri ends with the
prefix of the frames' names and a star: `clips/17/img_*`. Image files have no timestamps: whatever their real frame
rate, by convention each one lasts 1 / 30 s (`FOLDER_FPS`). So the frames i to j - 1, counted from 0 at the first image,
are the clip with start_s = i / 30 and end_s = j / 30.

More columns record the state of the files at import: see `w3ray.data.stamps`.

Schema metadata, JSON: `w3ray.version` (1), `w3ray.classes` (list of class names, in label order) and `w3ray.flip_map`
(object: a label -> the label of its mirror image, such as "moving left" -> "moving right"; a label that is not in it
keeps its meaning when mirrored; an empty object: nothing is known about mirroring).

If clips have several labels, such as a verb and a noun, the metadata also holds `w3ray.heads`: a list of
[name, number of classes], one entry per HEAD, in order. Then the class names are those of the first head, followed by
those of the next; `label` is the number of the combination (counted as in `w3ray.heads`), and a mirror image keeps its
labels.

If clips are MULTI-LABEL, which means that each has any number of the classes, the metadata also holds
`w3ray.label_sets`: a list of the different sets of classes, each a list of ascending class numbers. An empty one means
none of the classes. Then `label` is an index into this list. The flip map is still one of classes; the mirror image of
each set must be in the list, too.
"""

from w3ray.data.manifest.files import build_manifest, read_manifest, write_manifest
from w3ray.data.manifest.schema import (
    CLIP_COLUMNS,
    FOLDER_FPS,
    MANIFEST_VERSION,
    REQUIRED_COLUMNS,
    SCHEMA,
    STAMPS,
    known_labels,
)
from w3ray.data.manifest.table import Manifest

__all__ = [
    "CLIP_COLUMNS",
    "FOLDER_FPS",
    "MANIFEST_VERSION",
    "REQUIRED_COLUMNS",
    "SCHEMA",
    "STAMPS",
    "Manifest",
    "build_manifest",
    "known_labels",
    "read_manifest",
    "write_manifest",
]
