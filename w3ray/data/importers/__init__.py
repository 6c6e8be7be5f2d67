"""Which sources become a manifest? A new data set is one file here and one entry in IMPORTERS."""

from collections.abc import Callable

from w3ray.data.importers._common import VIDEO_EXTENSIONS, Dealing
from w3ray.data.importers.csv import Columns, import_csv
from w3ray.data.importers.folder import import_folder
from w3ray.data.importers.reversed_twin import reversed_twin
from w3ray.data.manifest import Manifest

__all__ = ["IMPORTERS", "VIDEO_EXTENSIONS", "Columns", "Dealing", "import_csv", "import_folder", "reversed_twin"]

IMPORTERS: dict[str, Callable[..., Manifest]] = {
    "folder": import_folder,
    "csv": import_csv,
}
