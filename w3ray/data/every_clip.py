"""How is something done once for each clip of a manifest, on the whole cluster, even if a clip crashes its process?"""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from w3ray._file_names import unique_stems
from w3ray.data.manifest import SCHEMA, Manifest
from w3ray.errors import InputError
from w3ray.storage import StorageFailing, StoragePath, StorageRefused
from w3ray.storage.writing import write_json

CRASHED = "the decoder crashed its process"
# Clips one Ray task reads: enough to make the task worth its start, few enough to spread a small set over all cores.
_CLIPS_A_TASK = 16

ENTRY_FIELDS = (
    pa.field("clip_id", pa.string(), nullable=False),
    pa.field("uri", pa.string(), nullable=False),
    pa.field("ok", pa.bool_(), nullable=False),
    pa.field("reason", pa.string()),
)
"""The first columns of every result of a clip. `reason` says why it is not `ok`."""

Work = Callable[[pa.Table], pa.Table]
"""Rows of clips -> one entry for each row, with the columns `ENTRY_FIELDS`, and others."""

_STOPPED, _REFUSED = "stopped", "refused"


def for_every_clip(
    rows: pa.Table,
    work: Work,
    progress: Callable[[int, int], None] | None = None,
    *,
    clips_a_task: int = _CLIPS_A_TASK,
    gpus_a_task: float = 0.0,
) -> list[dict[str, Any]]:
    """Do `work` for each row with Ray Data. Returns the entries in the order of the rows.

    Runs on the cluster that this process is connected to, or starts a local one. If a clip crashes its process, the
    clips of its block are done again one by one. Only the clip that caused the crash gets the reason `CRASHED`.

    Args:
        rows: with the columns `clip_id` and `uri`.
        work: what is done with some of the rows.
        progress: called with the number of clips done and of all clips.
        clips_a_task: rows that one call of `work` gets.
        gpus_a_task: share of a GPU that one call of `work` gets.

    Raises:
        StorageRefused, StorageFailing: a file cannot be read or written. This says nothing about the clip.
    """
    found: dict[str, dict[str, Any]] = {}
    for count in (clips_a_task, 1):
        missing = rows.filter(pc.invert(pc.is_in(rows["clip_id"], pa.array(found, pa.string()))))
        if missing.num_rows == 0:
            break
        for entry in _run(missing, _Guarded(work), count, gpus_a_task):
            if _STOPPED in entry:
                raise (StorageRefused if entry[_REFUSED] else StorageFailing)(entry[_STOPPED])
            found[entry["clip_id"]] = entry
            if progress is not None:
                progress(len(found), rows.num_rows)
    return [
        found.get(row["clip_id"], {"clip_id": row["clip_id"], "uri": row["uri"], "ok": False, "reason": CRASHED})
        for row in rows.to_pylist()
    ]


def distinct_spans(manifest: Manifest) -> tuple[pa.Table, list[int]]:
    """One row for each different span of a video, and for each row of the manifest the number of its span.

    Returns:
        Rows with the columns `clip_id` (the first clip of the span), `uri` (resolved), `start_s`, `end_s` and `stem`,
        a different file name for each; and the numbers.
    """
    numbers: dict[tuple[Any, ...], int] = {}
    place, spans = [], []
    uris = manifest.resolved_uris()
    for uri, row in zip(uris, manifest.table.select(["clip_id", "start_s", "end_s"]).to_pylist(), strict=True):
        key = (uri, row["start_s"], row["end_s"])
        if key not in numbers:
            numbers[key] = len(numbers)
            spans.append({**row, "uri": uri})
        place.append(numbers[key])
    stems = unique_stems([span["clip_id"] for span in spans])
    schema = pa.schema(
        [*(SCHEMA.field(name) for name in ("clip_id", "uri", "start_s", "end_s")), ("stem", pa.string())]
    )
    return pa.Table.from_pylist(
        [{**span, "stem": stem} for span, stem in zip(spans, stems, strict=True)], schema=schema
    ), place


@dataclass(frozen=True, slots=True)
class _Guarded:
    """Work whose storage errors reach the driver. Ray Data would count the block as crashed and drop the error."""

    work: Work

    def __call__(self, rows: pa.Table) -> pa.Table:
        try:
            return self.work(rows)
        except (StorageFailing, StorageRefused) as error:
            return pa.table({_STOPPED: [str(error)], _REFUSED: [isinstance(error, StorageRefused)]})
        except OSError as error:
            return pa.table({_STOPPED: [f"{error.filename or 'a file'}: {error.strerror}"], _REFUSED: [False]})


def _run(rows: pa.Table, work: Work, clips_a_task: int, gpus_a_task: float = 0.0) -> Iterator[dict[str, Any]]:
    """The ledger entries of `rows` as they arrive, without the entries of blocks whose process crashed."""
    import ray.data

    blocks = [rows.slice(start, clips_a_task) for start in range(0, rows.num_rows, clips_a_task)]
    context = ray.data.DataContext.get_current().copy()
    # A crashed block is dropped, not fatal: its clips are read again one by one.
    context.max_errored_blocks = -1
    context.enable_progress_bars = False
    with ray.data.DataContext.current(context), quiet_log("ray.data"):
        # Ray Data retries a crashed task without end, so a clip that crashes its process would hang the check.
        # There is no named parameter for that; Ray 2.60 warns that the keyword goes away in 2.64.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
            dataset = ray.data.from_arrow(blocks).map_batches(
                work,
                batch_format="pyarrow",
                batch_size=None,
                num_cpus=1,
                max_retries=0,
                num_gpus=gpus_a_task or None,
            )
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from batch.to_pylist()


@contextmanager
def quiet_log(logger_name: str) -> Iterator[None]:
    """Keep a library's messages off the terminal, such as the traceback of a crashed block."""
    logger = logging.getLogger(logger_name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def claim(path: StoragePath, wanted: Mapping[str, Any], refusal: Callable[[str], str]) -> None:
    """Write the settings of a folder of results that is new. Refuse a folder that was begun with others.

    Args:
        path: the file of the settings.
        wanted: the settings, as JSON values.
        refusal: the message, from the names of the settings that differ.

    Raises:
        InputError: the folder has other settings.
    """
    if not path.exists():
        write_json(path, wanted)
        return
    try:
        found = json.loads(path.read_text())
    except ValueError:
        found = {}
    if different := sorted(name for name in wanted if found.get(name) != wanted[name]):
        raise InputError(refusal(", ".join(different)))
