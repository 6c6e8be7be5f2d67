"""What is a manifest? One Parquet table that names every clip of a data set: the only form in which data enters.

Columns, one row a clip:

| column   | type    | required | meaning                                                               |
|----------|---------|----------|-----------------------------------------------------------------------|
| clip_id  | string  | yes      | unique name of the clip                                               |
| uri      | string  | yes      | video: absolute, `s3://...`, or relative to the manifest's folder     |
| start_s  | float64 | no       | where the clip begins in the video, seconds; null: the video's start  |
| end_s    | float64 | no       | where it ends (exclusive), seconds; null: the video's end             |
| reversed | bool    | no       | the clip is played backwards; absent: false                           |
| label    | int32   | yes      | index into the class names; null: not known, as of a test split       |
| split    | string  | yes      | `train`, `val`, `test` or any other name                              |
| group    | string  | no       | what a fold must not tear apart: a subject, a sequence, a camera      |

A uri may be a folder of numbered JPEG or PNG images in place of a video file; where it holds other images too, the
frames are named with what their names begin with, as `clips/17/img_*`. Such frames have no clock: whatever rate they
were taken at, by convention each one lasts 1 / 30 s (`FOLDER_FPS`), so the frames i to j - 1, counted from 0 at the
first image, are the clip with start_s = i / 30 and end_s = j / 30.

Columns that say what the files were when they were imported: see `w3ray.data.stamps`.

Schema metadata, JSON: `w3ray.version` (1), `w3ray.classes` (list of class names, in label order) and `w3ray.flip_map`
(object: a label -> the label of its mirror image, such as "moving left" -> "moving right"; a label that is not in it
keeps its meaning when mirrored; an empty object says that nothing is known about mirroring).

Clips with several labels, such as a verb and a noun, have `w3ray.heads` too: a list of [name, number of classes], an
entry a HEAD, in order. The class names are then those of all heads, one head behind the other, `label` is the number of
the combination (`w3ray.heads` says how it is counted), and a mirror image keeps its labels.
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
