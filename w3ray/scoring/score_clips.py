"""How are the clips of a table scored on a whole cluster, each clip once and in order?

    item numbers -> decoders (all views of a few clips) -> scorers (the network) -> this process

The first half is the stream that training uses (`w3ray.data.stream`). Its decoders give up a clip that hangs or crashes
them, and report each failed clip by name. The second half is a pool of Ray Data actors on GPUs, and of tasks without.
Which clips go through the network together depends only on their position in the table, so any number of scorers gives
the same scores.
"""

import json
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, TaskPoolStrategy

from w3ray.cluster.plan import ResourcePlan
from w3ray.data.clip import ClipSpec
from w3ray.data.every_clip import quiet_log
from w3ray.data.microbatch import ClipFailure, ClipTables, MicrobatchDecoder
from w3ray.data.stream import DecoderPool, blocks, build_dataset
from w3ray.data.stream_spec import CLIP_TIMEOUT_S, StreamSpec
from w3ray.data.video_cache import VideoCache
from w3ray.data.views import Protocol
from w3ray.evaluation.scorer import VIEWS_AT_ONCE, Average, Kept
from w3ray.plugins import NO_PLUGINS, Shipment
from w3ray.scoring.items import RowsInOrder
from w3ray.scoring.model_files import ModelFiles
from w3ray.scoring.scorer_actor import ScorerActor, score_in_task


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredClips:
    """Scores of some neighbouring rows of the table.

    `scores` float32 [M, K]. `readable` bool [M] is False where the clip could not be read; `failures` says why.
    """

    first_row: int
    scores: np.ndarray
    readable: np.ndarray
    failures: tuple[ClipFailure, ...]


def clips_together(protocol: Protocol) -> int:
    """Number of clips in a microbatch. Whole frames differ in shape from clip to clip, so each goes alone."""
    return 1 if protocol.whole_frame else max(1, VIEWS_AT_ONCE // protocol.num_views)


def score_clips(
    files: ModelFiles,
    rows: pa.Table,
    *,
    spec: ClipSpec,
    protocol: Protocol,
    average: Average,
    plan: ResourcePlan,
    flip_map: Mapping[int, int] | None = None,
    first_row: int = 0,
    roots: Sequence[str] | None = None,
    cache: VideoCache | None = None,
    clip_timeout_s: float = CLIP_TIMEOUT_S,
    plugins: Shipment = NO_PLUGINS,
    keep: Kept = "scores",
) -> Generator[ScoredClips, None, None]:
    """Score the rows in order, starting at `first_row` (a multiple of `clips_together`). Close the generator.

    Args:
        files: from `model_files`.
        rows: a table with the columns of `ClipTables`.
        spec: frames and size of this model's clips.
        plan: its workers are the scorers.
        plugins: what decoders and scorers must load.
        keep: "features": `ScoredClips.scores` holds pooled features. The protocol then has one view.

    Raises:
        RunError: the processes that decode or score died and cannot be restarted.
    """
    together = clips_together(protocol)
    dataset = build_dataset(
        StreamSpec(
            schedule=RowsInOrder(num_rows=rows.num_rows, together=together),
            clip=spec,
            roots=None if roots is None else tuple(roots),
            protocol=protocol,
            cache=cache,
            clip_timeout_s=clip_timeout_s,
            plugins=plugins,
        ),
        ClipTables.of({"test": rows}),
        # As tasks: the next evaluation finds processes that have imported all they need.
        DecoderPool(size=plan.decoders, cpus=plan.decoder_cpus, resources=plan.decoder_resources, as_tasks=True),
        first_item=first_row // together,
    )
    arguments = (
        ray.put(dict(files)), protocol, average, dict(flip_map or {}), plan.trainer_threads, plugins, keep,
    )  # fmt: skip
    dataset = dataset.map_batches(
        **_scorers(plan, arguments),
        batch_size=1,
        num_cpus=plan.worker_cpus,
        num_gpus=plan.worker_gpus or None,
        resources=dict(plan.worker_resources) or None,
    )
    # Ray Data would print a line at the end, in the middle of what the command shows.
    with quiet_log("ray.data"), closing(blocks(dataset)) as scored:
        yield from _in_order(scored, first_row, rows.num_rows, together)


def _scorers(plan: ResourcePlan, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Actors where networks stay on their GPUs. Else tasks: decoders and the next scoring get the same processes."""
    if plan.worker_gpus:
        pool = ActorPoolStrategy(size=plan.workers, max_tasks_in_flight_per_actor=2)
        return {"fn": ScorerActor, "fn_constructor_args": arguments, "compute": pool}
    named = (uuid.uuid4().hex, *arguments)
    return {"fn": score_in_task, "fn_args": named, "compute": TaskPoolStrategy(size=plan.workers)}


def score_clips_here(
    files: ModelFiles,
    rows: pa.Table,
    *,
    spec: ClipSpec,
    protocol: Protocol,
    average: Average = "scores",
    flip_map: Mapping[int, int] | None = None,
    first_row: int = 0,
    roots: Sequence[str] | None = None,
    cache: VideoCache | None = None,
    plugins: Shipment = NO_PLUGINS,
    keep: Kept = "scores",
) -> Generator[ScoredClips, None, None]:
    """As `score_clips`, in this process alone and without Ray. A clip that crashes the process ends it."""
    from w3ray.scoring.model_files import kept_of

    together = clips_together(protocol)
    order = RowsInOrder(num_rows=rows.num_rows, together=together)
    stream = StreamSpec(
        schedule=order, clip=spec, roots=None if roots is None else tuple(roots), protocol=protocol, cache=cache,
        plugins=plugins,
    )  # fmt: skip
    decoder = MicrobatchDecoder(stream, {"test": rows})
    scorer = kept_of(files, protocol, average, flip_map or {}, keep)
    for number in range(first_row // together, order.total_items):
        some = decoder.decode(number)
        first, count = number * together, min(together, rows.num_rows - number * together)
        yield ScoredClips(
            first_row=first, scores=scorer(some.clips, some.extras)[:count], readable=some.valid[:count],
            failures=some.failures,
        )  # fmt: skip


def _in_order(
    rows: Iterator[dict[str, np.ndarray]], first_row: int, num_rows: int, together: int
) -> Iterator[ScoredClips]:
    due = first_row
    for batch in rows:
        row = {name: values[0] for name, values in batch.items()}
        count = min(together, num_rows - due)
        if int(row["first_row"]) != due:
            raise RuntimeError(f"scores: expected row {due}, found row {row['first_row']}")
        failures = tuple(ClipFailure(**failure) for failure in json.loads(str(row["failures"])))
        yield ScoredClips(
            first_row=due, scores=row["scores"][:count], readable=row["readable"][:count], failures=failures
        )
        due += count
