"""From a CSV file to a manifest: one row per clip, with path and label, and optionally split, group, start and end.

Lists without a header, as other projects have them (`path label`, `path num_frames label`), are read in the same way if
their columns are named.

Rows become Arrow columns in chunks of some ten thousand; only one chunk at a time consists of Python objects. So an
import needs a small multiple of the finished table's memory: 4.2 GiB for 12 million rows, a table of 1.2 GiB
(`benchmarks/results/imports.json`).
Only names stay Python objects: those of the classes, and those of the groups if groups are assigned to splits.
"""

from w3ray.data.importers.csv.columns import NOT_READ, Columns
from w3ray.data.importers.csv.to_manifest import import_csv

__all__ = ["NOT_READ", "Columns", "import_csv"]
