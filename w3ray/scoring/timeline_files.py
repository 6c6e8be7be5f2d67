"""How is a video's timeline written? As JSON, as a table (CSV), as subtitles (SRT), and as a picture."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from w3ray._format import clock, percent, without_nan
from w3ray._redact import redact, redacted
from w3ray._text import one_line
from w3ray.errors import InputError
from w3ray.evaluation.best import best_classes
from w3ray.heads import UNLABELLED
from w3ray.scoring.segments import best_over_time
from w3ray.scoring.timeline import VideoTimeline
from w3ray.storage import StoragePath, replacing, storage_path, write_text

SUFFIXES = {"json": ".json", "csv": ".csv", "srt": ".srt", "picture": ".png"}


def write_timeline(out: str, stem: str, timeline: VideoTimeline, *, about: dict[str, Any], top: int) -> dict[str, str]:
    """Write a timeline as four files in a folder, which is made. Files of an earlier call are replaced.

    Args:
        out: the folder, local or `s3://...`.
        stem: how the files are named, before their endings.
        about: goes into the JSON file: what made the timeline, such as the model.
        top: how many classes of each window the JSON file lists. The CSV file has the scores of all.

    Returns: kind of file (`SUFFIXES`) -> path.
    Raises: InputError if the folder cannot be written.
    """
    from w3ray.scoring.timeline_picture import timeline_figure

    folder = storage_path(out)
    paths: dict[str, StoragePath] = {kind: folder / f"{stem}{suffix}" for kind, suffix in SUFFIXES.items()}
    document = without_nan(redacted({**timeline_document(timeline, top), **about}))
    try:
        write_text(paths["json"], json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n")
        with replacing(paths["csv"]) as part, part.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(table_rows(timeline))
        write_text(paths["srt"], subtitles(timeline))
        with replacing(paths["picture"], suffix=SUFFIXES["picture"]) as part:
            timeline_figure(timeline).savefig(part)
    except OSError as error:
        raise InputError(
            f"--out {out}: cannot be written ({error.strerror or error}); choose another folder"
        ) from error
    return {kind: str(path) for kind, path in paths.items()}


def timeline_document(timeline: VideoTimeline, top: int) -> dict[str, Any]:
    """The timeline as JSON values: the segments, and the best classes of each window."""
    settings = timeline.settings
    return {
        "video": timeline.video,
        "duration_s": timeline.duration_s,
        "fps": timeline.fps,
        "num_frames": timeline.num_frames,
        "window_s": settings.window_s,
        "stride_s": settings.stride_s,
        "smooth_s": settings.smooth_s,
        "threshold": settings.threshold,
        "min_segment_s": settings.min_segment_s,
        "classes": list(timeline.heads.classes),
        **({"heads": dict(timeline.heads.sizes)} if timeline.heads.several else {}),
        "windows_without_scores": int((~np.isfinite(timeline.scores_WS).all(axis=1)).sum()),
        "segments": [segment.document() for segment in timeline.segments],
        "windows": list(_windows(timeline, top)),
    }


def _windows(timeline: VideoTimeline, top: int) -> Iterator[dict[str, Any]]:
    label_W, score_W = best_over_time(timeline.smoothed_WS, timeline.heads)
    for start_s, scores_S, label, score in zip(timeline.starts_s_W, timeline.scores_WS, label_W, score_W, strict=True):
        best = best_classes(scores_S, timeline.heads, top).top if np.isfinite(scores_S).all() else ()
        smoothed = None if label == UNLABELLED else {"class": timeline.heads.class_name(label), "score": float(score)}
        yield {
            "start_s": round(float(start_s), 6),
            "end_s": round(float(start_s) + timeline.settings.window_s, 6),
            "top": [{"class": name, "score": one} for name, one in best],
            "smoothed": smoothed,
        }


def table_rows(timeline: VideoTimeline) -> Iterator[list[str]]:
    """A heading, then a row for each window: its seconds, the best class after smoothing, and its own scores of all."""
    heads = timeline.heads
    columns = [f"{head.name}: {name}" if head.name else name for head in heads.each() for name in head.classes]
    yield ["start_s", "end_s", "class", "score", *columns]
    label_W, score_W = best_over_time(timeline.smoothed_WS, heads)
    for start_s, scores_S, label, score in zip(timeline.starts_s_W, timeline.scores_WS, label_W, score_W, strict=True):
        seconds = [f"{start_s:.3f}", f"{start_s + timeline.settings.window_s:.3f}"]
        best = ["", ""] if label == UNLABELLED else [heads.class_name(label), f"{score:.6g}"]
        yield [*seconds, *best, *("" if np.isnan(one) else f"{one:.6g}" for one in scores_S)]


def subtitles(timeline: VideoTimeline) -> str:
    """The segments as SubRip subtitles: class and mean score, from the segment's first moment to its last."""
    text = io.StringIO()
    for number, segment in enumerate(timeline.segments, start=1):
        shown = redact(one_line(segment.name)).replace("-->", "->")  # the arrow parts the times of a subtitle
        text.write(f"{number}\n{_stamp(segment.start_s)} --> {_stamp(segment.end_s)}\n")
        text.write(f"{shown} {percent(segment.score)}\n\n")
    return text.getvalue()


def _stamp(seconds: float) -> str:
    """As "01:02:03,450"."""
    return clock(seconds, digits=3).rjust(12, "0").replace(".", ",")
