"""How do the clips of a table become scores, on all of a cluster, each one once and in order?

    item numbers -> decoders (all views of a few clips) -> scorers (the network) -> this process

The first half is the stream of training (`w3ray.data.stream`): the same decoders, which give up a clip that hangs or
crashes them, and the same failures, told by name. The second is a pool of actors of Ray Data. Which clips go through
the network together depends on nothing but their place in the table, so any number of scorers gives the same scores.
"""

import json
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy

from w3ray.cluster.plan import ResourcePlan
from w3ray.data.clip import ClipSpec
from w3ray.data.microbatch import ClipFailure, ClipTables, from_row
from w3ray.data.stream import DecoderPool, blocks, build_dataset
from w3ray.data.stream_spec import CLIP_TIMEOUT_S, StreamSpec
from w3ray.data.video_cache import VideoCache
from w3ray.data.views import Protocol
from w3ray.evaluation.scorer import VIEWS_AT_ONCE, Average, Scorer
from w3ray.models.bundle import DESCRIPTION_NAME, WEIGHTS_NAME, ModelDescription, load_model, read_description
from w3ray.ray_internals import stream_coordinator
from w3ray.scoring.items import RowsInOrder
from w3ray.storage import StoragePath, fetched

ModelFiles = Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredClips:
    """Some neighbouring rows of the table.

    `scores` float32 [M, K]; `readable` bool [M] is False where the clip could not be read, `failures` says why.
    """

    first_row: int
    scores: np.ndarray
    readable: np.ndarray
    failures: tuple[ClipFailure, ...]


def model_files(folder: StoragePath) -> ModelFiles:
    """The files of a model, to be sent to nodes that do not see its folder.

    Raises:
        InputError: the folder is no model.
    """
    with fetched(folder) as local:
        read_description(local)
        return {name: (local / name).read_bytes() for name in (WEIGHTS_NAME, DESCRIPTION_NAME)}


def clips_together(protocol: Protocol) -> int:
    """Clips of one microbatch. Whole frames have a shape of their own."""
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
) -> Generator[ScoredClips, None, None]:
    """Score the rows from `first_row` (a multiple of `clips_together`) on, in order; to be closed.

    Args:
        files: of `model_files`.
        rows: the columns of `ClipTables`.
        spec: what a clip is to this model.
        plan: its workers are the scorers.

    Raises:
        RunError: the processes that decode or score are gone for good.
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
        ),
        ClipTables.of({"test": rows}),
        DecoderPool(size=plan.decoders, cpus=plan.decoder_cpus, resources=plan.decoder_resources),
        first_item=first_row // together,
    ).map_batches(
        _ScorerActor,
        fn_constructor_args=(ray.put(dict(files)), protocol, average, dict(flip_map or {}), plan.trainer_threads),
        batch_size=1,
        compute=ActorPoolStrategy(size=plan.workers, max_tasks_in_flight_per_actor=2),
        num_cpus=plan.worker_cpus,
        num_gpus=plan.worker_gpus or None,
        resources=dict(plan.worker_resources) or None,
    )
    (shard,) = dataset.streaming_split(1, equal=False)  # its coordinator is a process of its own, not this one
    try:
        with closing(blocks(shard)) as scored:
            yield from _in_order(scored, first_row, rows.num_rows, together)
    finally:
        ray.kill(stream_coordinator(shard))  # it would go on where nobody reads any more


def _in_order(
    rows: Iterator[dict[str, np.ndarray]], first_row: int, num_rows: int, together: int
) -> Iterator[ScoredClips]:
    due = first_row
    for batch in rows:
        row = {name: values[0] for name, values in batch.items()}
        count = min(together, num_rows - due)
        if int(row["first_row"]) != due:
            raise RuntimeError(f"scores: row {due} is due, found row {row['first_row']}")
        failures = tuple(ClipFailure(**failure) for failure in json.loads(str(row["failures"])))
        yield ScoredClips(
            first_row=due, scores=row["scores"][:count], readable=row["readable"][:count], failures=failures
        )
        due += count


class _ScorerActor:
    """One model in a process of Ray."""

    def __init__(
        self,
        files: "ray.ObjectRef[ModelFiles]",
        protocol: Protocol,
        average: Average,
        flip_map: Mapping[int, int],
        threads: int,
    ) -> None:
        import torch

        torch.set_num_threads(threads)
        self._scorer = scorer_of(ray.get(files), protocol, average, flip_map)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        microbatch = from_row(batch)
        return {
            "first_row": microbatch.positions[:1],
            "scores": self._scorer(microbatch.clips)[None],
            "readable": microbatch.valid[None],
            "failures": np.asarray(json.dumps([failure._asdict() for failure in microbatch.failures]))[None],
        }


def scorer_of(files: ModelFiles, protocol: Protocol, average: Average, flip_map: Mapping[int, int]) -> Scorer:
    """A `Scorer` of a model's files, on this process's GPU where it has one."""
    import torch

    with _unpacked(files) as folder:
        model, description = load_model(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Scorer(model, description, mirrored_V=protocol.mirrored_V, average=average, flip_map=flip_map, device=device)


def description_of(files: ModelFiles) -> ModelDescription:
    """What the files say of the model."""
    with _unpacked(files) as folder:
        return read_description(folder)


@contextmanager
def _unpacked(files: ModelFiles) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="w3ray-model-") as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        yield Path(folder)
