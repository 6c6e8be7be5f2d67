"""A CSV file into a manifest: one row a clip, with path and label, and perhaps split, group, start and end.

Lists without a header, as other projects have them (`path label`, `path num_frames label`), are read in the same way
once their columns are named.

Rows become Arrow columns some ten thousand at a time, and no row is a Python object for longer: the memory that an
import takes is a small multiple of the finished table: 4.2 GiB for 12 million rows, a table of 1.2 GiB
(`benchmarks/results/imports.json`).
Only names are kept as Python objects: of the classes, and of the groups where they are dealt into splits.
"""

from w3ray.data.importers.csv.columns import NOT_READ, Columns
from w3ray.data.importers.csv.to_manifest import import_csv

__all__ = ["NOT_READ", "Columns", "import_csv"]
