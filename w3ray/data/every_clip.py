"""How is something done once for each clip of a manifest, on the whole cluster, even if a clip crashes its process?"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

CRASHED = "the decoder crashed its process"
# Clips one Ray task reads: enough to make the task worth its start, few enough to spread a small set over all cores.
_CLIPS_A_TASK = 16

Work = Callable[[pa.Table], pa.Table]
"""Rows of clips -> one entry for each row, with the columns `clip_id`, `uri`, `ok` and `reason`, and others."""


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
    """
    found: dict[str, dict[str, Any]] = {}
    for count in (clips_a_task, 1):
        missing = rows.filter(pc.invert(pc.is_in(rows["clip_id"], pa.array(found, pa.string()))))
        if missing.num_rows == 0:
            break
        for entry in _run(missing, work, count, gpus_a_task):
            found[entry["clip_id"]] = entry
            if progress is not None:
                progress(len(found), rows.num_rows)
    return [
        found.get(row["clip_id"], {"clip_id": row["clip_id"], "uri": row["uri"], "ok": False, "reason": CRASHED})
        for row in rows.to_pylist()
    ]


def _run(rows: pa.Table, work: Work, clips_a_task: int, gpus_a_task: float = 0.0) -> Iterator[dict[str, Any]]:
    """The ledger entries of `rows` as they arrive, without the entries of blocks whose process crashed."""
    import ray.data

    blocks = [rows.slice(start, clips_a_task) for start in range(0, rows.num_rows, clips_a_task)]
    context = ray.data.DataContext.get_current().copy()
    # A crashed block is dropped, not fatal: its clips are read again one by one.
    context.max_errored_blocks = -1
    context.enable_progress_bars = False
    with ray.data.DataContext.current(context), _quiet("ray.data"):
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
def _quiet(logger_name: str) -> Iterator[None]:
    """Keep a crashed block's traceback off the terminal: it is a finding here, and it stays in Ray's log files."""
    logger = logging.getLogger(logger_name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
