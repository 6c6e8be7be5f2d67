"""Where do files lie, on this machine's disk or on object storage? Paths, atomic writes, folders and their locks.

Every remote operation is retried until a deadline (`W3RAY_STORAGE_DEADLINE_S`).
"""

from w3ray.storage._patient import DEADLINE_VARIABLE, deadline_s
from w3ray.storage._systems import is_remote
from w3ray.storage.errors import StorageFailing, StorageRefused
from w3ray.storage.folders import fetched, upload, written_whole
from w3ray.storage.lease import Lease, LeaseLost, check_intent
from w3ray.storage.lock import Lock, take_lock, wait_for_lock
from w3ray.storage.paths import (
    RemotePath,
    StoragePath,
    file_digest,
    file_size,
    file_system,
    modified_s,
    storage_path,
)
from w3ray.storage.writing import (
    PART_SUFFIX,
    append_text,
    probe_folder,
    remove_tree,
    replacing,
    replacing_folder,
    require_writable,
    write_bytes,
    write_json,
    write_text,
)

__all__ = [
    "DEADLINE_VARIABLE",
    "PART_SUFFIX",
    "Lease",
    "LeaseLost",
    "Lock",
    "RemotePath",
    "StorageFailing",
    "StoragePath",
    "StorageRefused",
    "append_text",
    "check_intent",
    "deadline_s",
    "fetched",
    "file_digest",
    "file_size",
    "file_system",
    "is_remote",
    "modified_s",
    "probe_folder",
    "remove_tree",
    "replacing",
    "replacing_folder",
    "require_writable",
    "storage_path",
    "take_lock",
    "upload",
    "wait_for_lock",
    "write_bytes",
    "write_json",
    "write_text",
    "written_whole",
]
