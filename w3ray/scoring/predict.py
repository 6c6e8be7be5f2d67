"""What does a model predict for these videos?

A few videos are scored in this process, many on a Ray cluster. Both use the same code and give the same scores.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from w3ray.data.clip import ClipSpec
from w3ray.data.decoders import DecodeError
from w3ray.data.manifest import CLIP_COLUMNS, SCHEMA, Manifest, read_manifest
from w3ray.data.side_inputs import extras_of_views
from w3ray.data.views import Protocol, parse_protocol, read_views
from w3ray.errors import InputError
from w3ray.evaluation.best import best_classes
from w3ray.heads import Heads
from w3ray.models.bundle import ModelDescription, model_folder
from w3ray.plugins import shipment
from w3ray.scoring.multi_label import said, thresholds_of
from w3ray.scoring.question import boxes_for, check_average, model_bank, plan_scoring, require_views
from w3ray.scoring.videos import videos_of

if TYPE_CHECKING:
    from w3ray.evaluation.scorer import Average, Scorer
    from w3ray.scoring.model_files import ModelFiles

FEW = 32
"""At most so many videos are scored without starting Ray: starting it would take longer than scoring them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model predicts for one video: (class name, score), best first; or why the video could not be read.

    For a model with several heads, `top` holds the best combinations. `heads` maps each head's name to its best
    classes.

    For a multi-label model, `classes` holds the classes from their thresholds on; None for other models.
    """

    video: str
    top: tuple[tuple[str, float], ...]
    reason: str | None = None
    heads: Mapping[str, tuple[tuple[str, float], ...]] = field(default_factory=dict)
    classes: tuple[tuple[str, float], ...] | None = None

    def document(self) -> dict[str, Any]:
        if self.reason is not None:
            return {"video": self.video, "reason": self.reason}
        heads = {f"top_{name}": _as_documents(top) for name, top in self.heads.items()}
        classes = {} if self.classes is None else {"classes": _as_documents(self.classes)}
        return {"video": self.video, **classes, "top": _as_documents(self.top), **heads}


def _as_documents(top: Sequence[tuple[str, float]]) -> list[dict[str, Any]]:
    return [{"class": name, "score": score} for name, score in top]


def predict(
    model: str,
    videos: Sequence[str] = (),
    *,
    manifest: str | None = None,
    split: str | None = None,
    top: int = 5,
    protocol: str = "1clip-center",
    average: str = "scores",
    address: str | None = None,
    roots: Sequence[str] | None = None,
    boxes: str | None = None,
    bank: str | None = None,
    threshold: str | None = None,
    on_start: Callable[[int], None] = lambda count: None,
) -> Generator[Prediction, None, None]:
    """Predict the classes of videos, one after the other in the order of their names.

    Close the generator if you do not read it to its end.

    Args:
        model: folder of a model, or of its stage.
        videos: files, folders (with all videos below them), patterns such as `clips/*.mp4`, or `s3://...` files and
            folders.
        manifest, split: predict the clips of a manifest, or of one of its splits, instead.
        top: how many of the best classes to return.
        protocol, average, roots: as in `w3ray.scoring.evaluate.evaluate`.
        address: of a Ray cluster; None: a local one, if there are more than `FEW` videos.
        boxes: file of boxes, for a model that needs them. Its clips are those of the manifest, or the videos' paths.
        bank: folder of a bank of the videos, for a model that reads one.
        threshold: of a multi-label model: see `w3ray.scoring.multi_label.thresholds_of`.
        on_start: called with the number of videos before the first one is scored.

    Raises:
        InputError: no model, no video that matches, an unknown protocol, views that the model cannot take, or no
            boxes or bank for a model that needs them, or a bank for a model that reads none.
    """
    from w3ray.scoring.model_files import description_of, model_files, scorer_of

    looks, averaged = parse_protocol(protocol), check_average(average)
    if top < 1:
        raise InputError(f"--top must be at least 1, not {top}")
    files = model_files(model_folder(model))
    description = description_of(files)
    require_views(model, description, looks)
    thresholds = thresholds_of(threshold, description.heads)
    rows, flip_map, clips = _rows(videos, manifest, split)
    if (found := boxes_for(model, description, boxes)) is not None:
        own_times = None if clips is None else clips.own_times
        rows = found.joined(rows, manifest or "the videos", own_times=own_times)
    if (features := model_bank(model, description, [] if bank is None else [bank])) is not None:
        of_manifest = {} if clips is None else {"location": clips.location, "fingerprint": clips.fingerprint()}
        rows = features.joined(rows, manifest or "the prediction", **of_manifest)
    elif bank is not None:
        raise InputError(f"--bank {bank}: {model} reads no bank; leave it out")
    on_start(rows.num_rows)
    if rows.num_rows <= FEW and address is None:
        scorer = scorer_of(files, looks, averaged, flip_map)
        spec = ClipSpec(**scorer.description.clip)
        for row in rows.to_pylist():
            yield _look(row, scorer, spec, looks, top, thresholds, roots)
        return
    yield from _on_cluster(files, description, rows, flip_map, looks, averaged, top, thresholds, address, roots)


def _look(
    row: dict[str, Any],
    scorer: "Scorer",
    spec: ClipSpec,
    protocol: Protocol,
    top: int,
    thresholds: Sequence[float] | None,
    roots: Sequence[str] | None,
) -> Prediction:
    try:
        views = read_views(
            row["uri"], spec=spec, protocol=protocol, start_s=row["start_s"], end_s=row["end_s"],
            reversed=row["reversed"], roots=roots,
        )  # fmt: skip
    except DecodeError as error:
        return Prediction(video=row["clip_id"], top=(), reason=error.reason)
    pixels = np.stack([view.frames_TSSC for view in views])
    extras = {name: values[None] for name, values in extras_of_views(row, views, spec).items()}
    return told(row["clip_id"], scorer(pixels[None], extras)[0], scorer.description.heads, top, thresholds)


def _on_cluster(
    files: "ModelFiles",
    description: ModelDescription,
    rows: pa.Table,
    flip_map: dict[int, int],
    protocol: Protocol,
    average: "Average",
    top: int,
    thresholds: Sequence[float] | None,
    address: str | None,
    roots: Sequence[str] | None,
) -> Iterator[Prediction]:
    from w3ray.cluster.connection import Connection
    from w3ray.scoring.score_clips import score_clips

    connection = Connection(address)
    try:
        plan = plan_scoring(connection.nodes())
        plugins = shipment((), description.sources)
        connection.require(plugins)
        scored = score_clips(
            files, rows, spec=ClipSpec(**description.clip), protocol=protocol, average=average, plan=plan,
            flip_map=flip_map, roots=roots, plugins=plugins,
        )  # fmt: skip
        with closing(scored):
            for some in scored:
                reasons = {failure.clip_id: failure.reason for failure in some.failures}
                names = rows["clip_id"].slice(some.first_row, len(some.scores)).to_pylist()
                for name, scores_K in zip(names, some.scores, strict=True):
                    if name in reasons:
                        yield Prediction(video=name, top=(), reason=reasons[name])
                    else:
                        yield told(name, scores_K, description.heads, top, thresholds)
    finally:
        connection.close()


def told(video: str, scores_S: np.ndarray, heads: Heads, top: int, thresholds: Sequence[float] | None) -> Prediction:
    """The prediction for a video with these scores, [S]."""
    best = best_classes(scores_S, heads, top)
    classes = None if thresholds is None else said(scores_S, heads, thresholds)
    return Prediction(video=video, top=best.top, heads=best.heads, classes=classes)


def _rows(
    videos: Sequence[str], manifest: str | None, split: str | None
) -> tuple[pa.Table, dict[int, int], Manifest | None]:
    """The clips, the flip map, and the manifest; None: there is none."""
    if (manifest is None) == (not videos):
        raise InputError("name videos, or a manifest with --manifest (exactly one of the two)")
    if manifest is not None:
        clips = read_manifest(manifest)
        names = list(CLIP_COLUMNS)
        rows = clips.table.select(names) if split is None else clips.split(clips.split_named(split), names)
        return rows.set_column(names.index("uri"), "uri", clips.resolved(rows["uri"])), clips.flip_map, clips
    if split is not None:
        raise InputError("--split names a split of a manifest; add --manifest")
    found = sorted({video for name in videos for video in videos_of(name)})
    count = len(found)
    columns = {
        "clip_id": found, "uri": found, "start_s": [None] * count, "end_s": [None] * count,
        "reversed": [False] * count, "label": [0] * count,
    }  # fmt: skip
    return pa.table({name: pa.array(columns[name], SCHEMA.field(name).type) for name in CLIP_COLUMNS}), {}, None
