"""`w3ray predict --window`: what happens when in a long video?"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer

from w3ray._file_names import unique_stems
from w3ray._format import clock, percent
from w3ray._redact import redact
from w3ray.cli._common import finish
from w3ray.cli._console import Group, Line, RenderableType, Table
from w3ray.cli._models import opened_models
from w3ray.cli._progress import Progress
from w3ray.errors import InputError, RunError
from w3ray.storage import probe_folder, storage_path

if TYPE_CHECKING:
    from w3ray.scoring.timeline import NoTimeline, VideoTimeline

DEFAULT_OUT = "timelines"
_ROWS = 40
"""At most so many segments of a video are printed; the files hold all."""

WindowOption = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Score windows of this length that slide over each video.")
]
StrideOption = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="With --window: from one window to the next; default: half a window."),
]
SmoothOption = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="With --window: moving average over scores; default: a window; 0: none."),
]
MinSegmentOption = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="With --window: shorter segments are left out; default: 0.")
]


def require_window(of_windows: Mapping[str, Any]) -> None:
    """Raises: InputError if an option is given that only windows have."""
    for option, value in of_windows.items():
        if value is not None:
            raise InputError(f"{option} is about windows that slide over a video; add --window SECONDS")


def lowest_score(threshold: str | None) -> float | None:
    """The value of --threshold with --window. Raises: InputError if it is not a number."""
    try:
        return None if threshold is None else float(threshold)
    except ValueError:
        raise InputError(f"--threshold {threshold}: with --window it must be a number from 0 to 1") from None


def refuse_with_window(others: Mapping[str, Any]) -> None:
    """Raises: InputError if an option is given that windows do not have."""
    for option, value in others.items():
        if value is not None:
            raise InputError(f"{option} cannot be used with --window, which scores whole videos in this process; leave "
                             "it out")  # fmt: skip


def predict_over_time(
    model: str,
    videos: Sequence[str],
    *,
    out: str | None,
    top: int,
    tracking: str | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Write the timeline of each video, and print its segments.

    Args:
        out: folder; None: `DEFAULT_OUT`.
        settings: of `w3ray.scoring.timeline.predict_windows`; None stands for its default.
    """
    from w3ray.scoring.timeline import NoTimeline, each_video, predict_windows
    from w3ray.scoring.timeline_files import write_timeline

    if top < 1:
        raise InputError(f"--top must be at least 1, not {top}")
    if not videos:
        raise InputError("--window: name one or more videos")
    folder = out or DEFAULT_OUT
    _require_folder(folder)
    found = each_video(videos)
    stems = dict(zip(found, unique_stems([_stem(video) for video in found]), strict=True))
    about = {"model": model, "protocol": settings["protocol"]}
    settings = {name: value for name, value in settings.items() if value is not None}
    if not as_json:
        settings["on_windows"] = _Told()
    rows: list[dict[str, Any]] = []
    unread: list[NoTimeline] = []
    with opened_models([model], tracking) as (local,), closing(
        predict_windows(local.folder, found, **settings)
    ) as timelines:  # fmt: skip
        for one in timelines:
            if isinstance(one, NoTimeline):
                unread.append(one)
                rows.append(one.document())
                continue
            files = write_timeline(folder, stems[one.video], one, about=about, top=top)
            rows.append(_row(one, files))
    _require_some(found, unread)
    finish({**about, "timelines": rows}, as_json, shown(rows))


class _Told:
    """Shows the progress of each video in turn."""

    def __init__(self) -> None:
        self._video, self._progress = "", Progress("")

    def __call__(self, video: str, done: int, total: int) -> None:
        if video != self._video:
            name = redact(_stem(video)).replace("{", "{{").replace("}", "}}")
            self._video, self._progress = video, Progress(f"{name}: scored {{done}}/{{total}} windows")
        self._progress(done, total)


def _require_folder(out: str) -> None:
    """Raises: InputError if this is no folder that can be written, so that no hour of video is scored in vain."""
    if Path(out).suffix.lower() in (".json", ".jsonl", ".csv", ".srt", ".png"):
        raise InputError(f"--out {out}: with --window this is a folder, for four files of each video; name a folder")
    folder = storage_path(out)
    if not isinstance(folder, Path):
        return
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        probe_folder(there)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror}); choose another folder") from error


def _stem(video: str) -> str:
    """The video's name without its ending, and without the query of an address, which may hold a secret."""
    return Path(urlsplit(video).path if "://" in video else video).stem


def _row(timeline: "VideoTimeline", files: Mapping[str, str]) -> dict[str, Any]:
    return {
        "video": timeline.video,
        "duration_s": timeline.duration_s,
        "windows": len(timeline.starts_s_W),
        "segments": [segment.document() for segment in timeline.segments],
        "files": dict(files),
    }


def _require_some(found: Sequence[str], unread: "Sequence[NoTimeline]") -> None:
    if len(unread) < len(found):
        return
    first = unread[0]
    if all(one.wrong_setting for one in unread):
        raise InputError(f"{first.video}: {first.reason}")
    raise RunError(f"none of {len(found)} videos can be read; the first: {first.video}: {first.reason}")


def shown(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """The segments for people, video by video."""
    parts: list[RenderableType] = []
    for row in rows:
        if "reason" in row:
            parts.append(Line(redact(row["video"]), ("  not scored:", "red"), f" {redact(row['reason'])}"))
            continue
        segments = row["segments"]
        parts.append(Line(redact(row["video"]), f"  {clock(row['duration_s'])}, {row['windows']} windows"))
        parts.append(_table(segments[:_ROWS]) if segments else Line("no segment: no score is high enough for long"))
        if len(segments) > _ROWS:
            parts.append(Line(f"... and {len(segments) - _ROWS} more segments"))
        parts.append(Line("written: " + ", ".join(redact(path) for path in row["files"].values())))
    return Group(*parts)


def _table(segments: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("start", "end", "class", "score"):
        table.add_column(title, justify="left" if title == "class" else "right")
    for one in segments:
        table.add_row(clock(one["start_s"]), clock(one["end_s"]), redact(one["class"]), percent(one["score"]))
    return table
