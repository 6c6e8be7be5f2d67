"""`w3ray predict`: what does a model see in these videos?"""

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from w3ray._format import percent
from w3ray._redact import redact, redacted
from w3ray.cli._common import JsonOption, finish, run_command
from w3ray.cli._console import Group, Line, RenderableType, Table
from w3ray.cli._models import MODEL_HELP, TrackingOption, opened_models
from w3ray.cli._options import AddressOption, AverageOption, RootsOption
from w3ray.cli._over_time import (
    DEFAULT_OUT,
    MinSegmentOption,
    SmoothOption,
    StrideOption,
    WindowOption,
    lowest_score,
    predict_over_time,
    refuse_with_window,
    require_window,
)
from w3ray.cli._progress import Progress
from w3ray.errors import InputError, RunError
from w3ray.heads import NO_CLASS

if TYPE_CHECKING:
    from w3ray.scoring.predict import Prediction

OUT_HELP = (
    "Write one JSON line per video to this file. With --window: folder for JSON, CSV, subtitles and picture of each "
    f"video; default: {DEFAULT_OUT}."
)

THRESHOLD_HELP = (
    "With --window: lowest score of a segment. Of a multi-label model: a clip has the classes with at least this "
    "score; a folder that `w3ray evaluate` wrote: those of each class with the highest F1 there. Default: 0.5."
)


@run_command
def predict(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    videos: Annotated[
        list[str] | None, typer.Argument(help="Files, folders, patterns, s3://...", metavar="VIDEO...")
    ] = None,
    manifest: Annotated[str | None, typer.Option(help="Manifest to classify instead of videos.")] = None,
    boxes: Annotated[str | None, typer.Option(help="File of boxes of the clips, for a model that needs them.")] = None,
    bank: Annotated[str | None, typer.Option(help="Bank of the videos, for a model that reads one.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the manifest; default: all splits.")] = None,
    top: Annotated[int, typer.Option(help="Number of best classes to print.")] = 5,
    protocol: Annotated[str, typer.Option(help="Views of a clip, as in `w3ray evaluate`.")] = "1clip-center",
    average: AverageOption = "scores",
    window: WindowOption = None,
    stride: StrideOption = None,
    smooth: SmoothOption = None,
    threshold: Annotated[str | None, typer.Option(metavar="NUMBER|EVALUATION", help=THRESHOLD_HELP)] = None,
    min_segment: MinSegmentOption = None,
    out: Annotated[str | None, typer.Option("--out", "-o", help=OUT_HELP)] = None,
    address: AddressOption = None,
    roots: RootsOption = None,
    tracking: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the best classes of each video, with their scores; with --window, which class is seen when."""
    of_windows = {"--stride": stride, "--smooth": smooth, "--min-segment": min_segment}
    if window is not None:
        refuse_with_window({"--manifest": manifest, "--split": split, "--boxes": boxes, "--bank": bank,
                            "--address": address})  # fmt: skip
        predict_over_time(
            model, videos or [], out=out, top=top, tracking=tracking, as_json=as_json, window_s=window, stride_s=stride,
            smooth_s=smooth, threshold=lowest_score(threshold), min_segment_s=min_segment, protocol=protocol,
            average=average, roots=roots,
        )  # fmt: skip
        return
    require_window(of_windows)
    from w3ray.scoring.predict import FEW
    from w3ray.scoring.predict import predict as run

    total: list[int] = []
    progress = Progress("classified {done}/{total} videos")
    found = []
    with ExitStack() as stack:
        lines = None if out is None else stack.enter_context(_opened(out))
        (local,) = stack.enter_context(opened_models([model], tracking))
        predictions = stack.enter_context(closing(run(
            local.folder, videos or [], manifest=manifest, split=split, top=top, protocol=protocol, average=average,
            address=address, roots=roots, boxes=boxes, bank=bank, threshold=threshold, on_start=total.append,
        )))  # fmt: skip
        for one in predictions:
            if lines is not None:
                lines.write(json.dumps(redacted(one.document()), ensure_ascii=False) + "\n")
            found.append(one)
            if total[0] > FEW and not as_json:
                progress(len(found), total[0])
    unread = [one for one in found if one.reason is not None]
    if len(unread) == len(found):
        raise RunError(f"none of {len(found)} videos can be read; the first: {unread[0].video}: {unread[0].reason}")
    document = {"model": model, "protocol": protocol, "predictions": [one.document() for one in found]}
    finish(document, as_json, shown(found))


def _opened(path: str) -> TextIO:
    try:
        return Path(path).open("w", encoding="utf-8", errors="backslashreplace")  # a path may hold invalid UTF-8
    except OSError as error:
        raise InputError(f"--out {path}: cannot be written ({error.strerror})") from error


def shown(found: Sequence["Prediction"]) -> RenderableType:
    """The predictions for people. If all videos are in one folder, its name is shown once."""
    folders = {os.path.dirname(one.video) for one in found}
    folder = os.path.commonpath(folders) if all(map(os.path.isabs, folders)) else ""
    table = Table(box=None, padding=(0, 2, 0, 0))
    multi_label = any(one.classes is not None for one in found)
    for title in ("video", "classes", "best") if multi_label else ("video", "class", "score", "next"):
        table.add_column(title, justify="right" if title == "score" else "left")
    for one in found:
        name = redact(os.path.relpath(one.video, folder) if folder else one.video)
        if one.reason is not None:
            table.add_row(name, Line(("not read:", "red"), f" {redact(one.reason)}"))
            continue
        if one.classes is not None:
            said = ", ".join(_scored(answer) for answer in one.classes)
            table.add_row(name, said or NO_CLASS, "" if said else _scored(one.top[0]))
            continue
        # With several heads, the best class of each head says more than the next combination.
        others = [f"{head} {_scored(best[0])}" for head, best in one.heads.items()] or map(_scored, one.top[1:3])
        following = ", ".join(others)
        table.add_row(name, one.top[0][0], percent(one.top[0][1]), following)
    return Group(Line(f"in {redact(folder)}"), table) if len(folder) > 1 else table


def _scored(answer: tuple[str, float]) -> str:
    return f"{answer[0]} {percent(answer[1])}"
