"""Where are a model's scores of a split kept, and how are they read again? They are written in parts, one file each.

    <storage>/evaluations/<split>-<protocol>-<identity>/scores/<first row>-<stop row>.parquet

The stop row is the last row of the part plus one. The identity is the hash of everything that decides the scores
(weights, clips, protocol). The rows are in the manifest's order. An interrupted evaluation resumes after its last
part. Scores that exist are read, not computed again.
"""

import hashlib
import json
import re
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from w3ray._digest import digest_of
from w3ray._file_names import file_stem
from w3ray.cluster.plan import ResourcePlan
from w3ray.data.clip import ClipSpec
from w3ray.data.manifest import known_labels
from w3ray.errors import InputError, RunError
from w3ray.heads import UNLABELLED, Heads
from w3ray.models.bundle import DESCRIPTION_NAME, WEIGHTS_NAME, ModelDescription
from w3ray.plugins import Shipment, shipment
from w3ray.scoring.question import Question
from w3ray.storage import StoragePath, fetched, storage_path, write_bytes

SCORES_FOLDER, RESULT_NAME = "scores", "result.json"

_PART_EVERY_S = 30.0
_PART_ROWS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipScores:
    """Scores of N clips, in the manifest's order.

    `labels` int [N], `UNLABELLED` where the label is not known. `scores` float32 [N, S]; for several heads, the scores
    of the first head, then of the second, and so on. `reasons` maps a clip without scores to the reason (its scores
    are nan).
    """

    clip_ids: tuple[str, ...]
    labels: np.ndarray
    scores: np.ndarray
    reasons: Mapping[str, str]

    @property
    def readable(self) -> np.ndarray:
        """bool [N]."""
        return np.array([clip not in self.reasons for clip in self.clip_ids])

    @property
    def measurable(self) -> np.ndarray:
        """bool [N]: the clip is readable and has a label."""
        return self.readable & (self.labels != UNLABELLED)


def read_scores(directory: str) -> tuple[dict[str, Any], ClipScores]:
    """The document of a finished evaluation (its `result.json`), and its scores.

    Raises:
        InputError: the folder holds no finished evaluation.
    """
    folder = storage_path(directory)
    try:
        document = json.loads((folder / RESULT_NAME).read_text())
        with fetched(folder / SCORES_FOLDER) as local:
            table = _read_parts(local)
        return document, _scores_of(table)
    except (OSError, ValueError, KeyError, pa.ArrowInvalid) as error:
        raise InputError(
            f"{directory}: no finished evaluation ({error}); name a folder that `w3ray evaluate` wrote"
        ) from error


def require_no_prior(directory: str, document: Mapping[str, Any]) -> None:
    """Raises: InputError if the evaluation's accuracies have a part that its scores do not hold."""
    if document.get("prior") is not None:
        raise InputError(
            f"{directory}: was made with --prior {document['prior']}, which is not in its scores; evaluate without it"
        )


def heads_of(document: Mapping[str, Any]) -> Heads:
    """The heads and classes that the scores of a finished evaluation are for, from its document."""
    sets = document.get("label_sets")
    label_sets = None if sets is None else tuple(tuple(one) for one in sets)
    sizes = tuple((name, size) for name, size in document.get("heads", ()))
    return Heads(tuple(document["classes"]), sizes, label_sets)


class KeptScores:
    """One model's scores of a split, in a folder of their own.

    Args:
        root: the storage.
        model: folder of the model.
        description: of that model.
        question: which clips are scored, and how.
    """

    def __init__(
        self, root: StoragePath, model: StoragePath, description: ModelDescription, question: Question
    ) -> None:
        self.model, self.question, self.description = model, question, description
        with fetched(model) as local:
            weights = hashlib.sha256()
            for name in (WEIGHTS_NAME, DESCRIPTION_NAME):
                weights.update((local / name).read_bytes())
        self._sources = description.sources
        of_plugins = {"plugins": self._sources} if self._sources else {}
        self.identity = digest_of({**question.about, **of_plugins, "model": weights.hexdigest()})
        name = f"{file_stem(question.split)}-{question.protocol.name}-{self.identity[:12]}"
        self.directory = root / "evaluations" / name
        self._folder = self.directory / SCORES_FOLDER
        self.done = self._count()

    @property
    def plugins(self) -> Shipment:
        """What the processes that score must load."""
        return shipment((), self._sources)

    @property
    def whole(self) -> bool:
        """Whether every row has scores."""
        return self.done == self.question.rows.num_rows

    def _count(self) -> int:
        """How many rows have scores, from the first row to the first gap."""
        names = [path.name for path in self._folder.iterdir()] if self._folder.is_dir() else []
        return max((stop for _, _, stop in _in_order(names)), default=0)

    def score(self, plan: ResourcePlan, roots: Sequence[str] | None) -> Generator[int, None, None]:
        """Score the rows that are left; yields the number of rows done. Close it: closing writes the last part.

        Args:
            plan: its workers are the scorers.
            roots: the folders that videos may lie in; None: anywhere.
        """
        from w3ray.scoring.model_files import model_files
        from w3ray.scoring.score_clips import clips_together, score_clips

        question = self.question
        first = self.done - self.done % clips_together(question.protocol)
        waiting: list[pa.Table] = []
        began, written_s = first, time.monotonic()
        scored = score_clips(
            model_files(self.model), question.resolved_rows(), spec=ClipSpec(**self.description.clip),
            protocol=question.protocol, average=question.average, plan=plan, flip_map=question.clips.flip_map,
            first_row=first, roots=roots, plugins=self.plugins,
        )  # fmt: skip
        try:
            with closing(scored):
                for some in scored:
                    waiting.append(_table(question.rows, some))
                    self.done = some.first_row + len(some.scores)
                    if self.done - began >= _PART_ROWS or time.monotonic() - written_s > _PART_EVERY_S:
                        began, written_s = self._keep(waiting, began), time.monotonic()
                    yield self.done
        finally:
            self._keep(waiting, began)

    def _keep(self, waiting: list[pa.Table], began: int) -> int:
        """Write a part; returns its stop row."""
        if not waiting:
            return began
        table = pa.concat_tables(waiting)
        stop = began + table.num_rows
        _write(self._folder, began, table)
        waiting.clear()
        return stop

    def scores(self) -> ClipScores:
        """The scores that are kept.

        Raises:
            RunError: they are for other clips.
        """
        with fetched(self._folder) as local:
            result = _scores_of(_read_parts(local))
        if list(result.clip_ids) != self.question.rows["clip_id"].to_pylist():
            raise RunError(f"{self.directory}: its clips are not the manifest's; remove the folder and run again")
        return result


def write_scores(directory: StoragePath, result: ClipScores) -> None:
    """Keep scores that were computed from other scores, such as an ensemble's."""
    _write(directory / SCORES_FOLDER, 0, _as_table(result))


def _write(folder: StoragePath, first: int, table: pa.Table) -> None:
    target = folder / f"{first:09d}-{first + table.num_rows:09d}.parquet"
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_bytes(target, sink.getvalue().to_pybytes())


def _table(rows: pa.Table, some: Any) -> pa.Table:
    these = rows.slice(some.first_row, len(some.scores))
    return _as_table(
        ClipScores(
            clip_ids=tuple(these["clip_id"].to_pylist()),
            labels=known_labels(these),
            scores=np.where(some.readable[:, None], some.scores, np.nan).astype(np.float32),
            reasons={failure.clip_id: failure.reason for failure in some.failures},
        )
    )


def _as_table(result: ClipScores) -> pa.Table:
    flat = pa.array(result.scores.reshape(-1), pa.float32())
    return pa.table(
        {
            "clip_id": pa.array(result.clip_ids, pa.string()),
            "label": pa.array(result.labels, pa.int32(), mask=result.labels == UNLABELLED),
            "scores": pa.FixedSizeListArray.from_arrays(flat, result.scores.shape[1]),
            "reason": pa.array([result.reasons.get(clip) for clip in result.clip_ids], pa.string()),
        }
    )


def _read_parts(folder: Path) -> pa.Table:
    """The parts up to the first gap, without the rows that were scored twice because of a restart."""
    parts = _in_order([path.name for path in folder.iterdir()])
    if not parts:
        raise ValueError("the folder holds no scores")
    return pa.concat_tables([pq.read_table(folder / name).slice(skipped) for name, skipped, _ in parts])


def _in_order(names: Sequence[str]) -> list[tuple[str, int, int]]:
    """The parts from row 0 to the first gap: (file, number of its rows that earlier parts have, stop row)."""
    parts, done = [], 0
    for name in sorted(names):
        if match := re.fullmatch(r"(\d+)-(\d+)\.parquet", name):
            first, stop = int(match[1]), int(match[2])
            if first <= done < stop:
                parts.append((name, done - first, stop))
                done = stop
    return parts


def _scores_of(table: pa.Table) -> ClipScores:
    scores = table["scores"].combine_chunks()
    clip_ids, reasons = table["clip_id"].to_pylist(), table["reason"].to_pylist()
    return ClipScores(
        clip_ids=tuple(clip_ids),
        labels=known_labels(table),
        scores=scores.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1),
        reasons={clip: reason for clip, reason in zip(clip_ids, reasons, strict=True) if reason is not None},
    )
