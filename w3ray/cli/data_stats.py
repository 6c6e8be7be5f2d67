"""`w3ray data stats`: what is in a manifest, by split?"""

from typing import Annotated, Any

import typer

from w3ray._format import duration, percent
from w3ray._redact import redacted
from w3ray.cli._common import JsonOption, finish, run_command
from w3ray.cli._console import Group, RenderableType, Table
from w3ray.cli._console import lines as as_lines
from w3ray.cli._options import RootsOption
from w3ray.cli._progress import Progress
from w3ray.data.manifest import read_manifest

_SHOWN = 3


@run_command
def stats(
    manifest: Annotated[str, typer.Argument(help="Manifest to describe.")],
    videos: Annotated[int, typer.Option(min=1, help="Maximum number of videos to read, drawn at random.")] = 1000,
    roots: RootsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count clips and classes, and show lengths, frame rates, sizes and codecs of the videos.

    Only the header and the first frame of each video are read. `w3ray data check` reads the clips.
    """
    from w3ray.data.stats import manifest_stats

    clips = read_manifest(manifest)
    progress = Progress("read {done} of {total} videos")
    document = redacted(manifest_stats(clips, max_videos=videos, roots=roots or None, progress=progress))
    finish(document, as_json=as_json, text=stats_text(document))


def stats_text(document: dict[str, Any]) -> RenderableType:
    """One column per split, then what could not be read, then which videos were read."""
    splits = document["splits"]
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in splits:
        table.add_column(name, justify="right")
    facts = {name: _facts(split, document["classes"], document["heads"]) for name, split in splits.items()}
    for fact in next(iter(facts.values())):
        table.add_row(fact, *(facts[name][fact] for name in splits))
    lines = []
    for name, split in splits.items():
        lines += [f"{count} unreadable in {name}: {reason}" for reason, count in split["reasons"].items()]
    read = f"{document['videos_read']} of {document['videos']} videos"
    if document["sampled"]:
        lines.append(f"lengths, rates, sizes and codecs are from {read}, drawn at random (--videos)")
    else:
        lines.append(f"read the header and first frame of {read} ('w3ray data check' reads every clip)")
    return Group(table, as_lines(lines))


def _facts(split: dict[str, Any], num_classes: int, heads: dict[str, int]) -> dict[str, str]:
    classes, length, fps, side = (split[name] for name in ("classes", "length_s", "fps", "short_side"))
    partly = length["known"] < split["clips"]
    balances = _balance(classes, num_classes) if not heads else {"combinations": str(classes["present"])}
    for name, size in heads.items():
        balances |= {f"{name}: {fact}": text for fact, text in _balance(classes["heads"][name], size).items()}
    return {
        "clips": str(split["clips"]),
        "without label": str(classes["unlabelled"]),
        "videos": str(split["videos"]),
        **balances,
        **_of_sets(classes),
        "clip length, s": _range(length) + (f" (of {length['known']} clips)" if partly else ""),
        "total length": ("about " if partly else "") + duration(length["total"]),
        "frames per second": _range(fps),
        "short side, px": _range(side),
        "sizes": _most(split["sizes"]),
        "codecs": _most(split["codecs"]),
        "unreadable videos": str(split["unreadable"]),
    }


def _of_sets(classes: dict[str, Any]) -> dict[str, str]:
    """Facts of multi-label clips."""
    if "labels_per_clip" not in classes:
        return {}
    mean = classes["labels_per_clip"]
    return {"classes of a clip": "-" if mean is None else f"{mean:.2f}", "without a class": str(classes["no_class"])}


def _balance(classes: dict[str, Any], num_classes: int) -> dict[str, str]:
    facts = {"classes": f"{classes['present']} of {num_classes}"}
    names = ("largest class", "smallest class", "largest / smallest")
    if not classes["present"]:
        return facts | dict.fromkeys(names, "-")
    largest, smallest = classes["largest"], classes["smallest"]
    texts = (
        f"{largest}: {classes['clips'][largest]} ({percent(classes['majority'])})",
        f"{smallest}: {classes['clips'][smallest]}",
        f"{classes['imbalance']:.1f}",
    )
    return facts | dict(zip(names, texts, strict=True))


def _range(spread: dict[str, Any]) -> str:
    """One number if all are equal, else "minimum .. median .. maximum"."""
    if spread["min"] is None:
        return "-"
    least, median, most = (f"{spread[name]:.4g}" for name in ("min", "median", "max"))
    return least if least == most else f"{least} .. {median} .. {most}"


def _most(counts: dict[str, int]) -> str:
    shown = [f"{name} ({count})" for name, count in list(counts.items())[:_SHOWN]]
    more = len(counts) - _SHOWN
    return ", ".join(shown) + (f", {more} more" if more > 0 else "") if counts else "-"
