"""Which sources become a manifest? A new data set is one file here and one entry in IMPORTERS.

Those of published data sets are called as `importer(annotations, videos=..., partial=..., note=...)`, with `fold` where
the data set has several official splits and with `val_groups` where it has no validation part; each is a command of
`w3ray data import` by its name.
"""

from collections.abc import Callable

from w3ray._registry import Registry
from w3ray.data.clip_files import VIDEO_EXTENSIONS
from w3ray.data.importers._common import Clip, Dealing, to_manifest
from w3ray.data.importers.csv import Columns, import_csv
from w3ray.data.importers.egogesture import import_egogesture
from w3ray.data.importers.epic_kitchens_55 import import_epic_kitchens_55
from w3ray.data.importers.epic_kitchens_100 import import_epic_kitchens_100
from w3ray.data.importers.folder import import_folder
from w3ray.data.importers.hmdb51 import import_hmdb51
from w3ray.data.importers.jester import import_jester
from w3ray.data.importers.jhmdb import import_jhmdb
from w3ray.data.importers.kinetics import import_kinetics
from w3ray.data.importers.reversed_twin import reversed_twin
from w3ray.data.importers.something_something_v1 import import_something_something_v1
from w3ray.data.importers.something_something_v2 import import_something_something_v2
from w3ray.data.importers.ucf101 import import_ucf101
from w3ray.data.manifest import Manifest

__all__ = [
    "IMPORTERS",
    "VIDEO_EXTENSIONS",
    "Clip",
    "Columns",
    "Dealing",
    "import_csv",
    "import_folder",
    "reversed_twin",
    "to_manifest",
]

IMPORTERS: Registry[Callable[..., Manifest]] = Registry(
    "importers",
    {
        "folder": import_folder,
        "csv": import_csv,
        "jester": import_jester,
        "something-something-v1": import_something_something_v1,
        "something-something-v2": import_something_something_v2,
        "ucf101": import_ucf101,
        "hmdb51": import_hmdb51,
        "jhmdb": import_jhmdb,
        "egogesture": import_egogesture,
        "epic-kitchens-55": import_epic_kitchens_55,
        "epic-kitchens-100": import_epic_kitchens_100,
        "kinetics": import_kinetics,
    },
    contract="w3ray.testing:check_importer_signature",
)
"""Name -> importer; a plugin's is called as one of a published data set."""
