"""What does a person read after an evaluation? A table by class, a picture of the confusions, what the gates did."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w3ray._file_names import file_stem
from w3ray._text import one_line
from w3ray.attention import health
from w3ray.evaluation.head_counts import HeadCounts
from w3ray.evaluation.metrics import Counts
from w3ray.storage import replacing, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PER_CLASS_CSV = "per_class.csv"
PER_CLASS_JSON = "per_class.json"
CONFUSION_PNG = "confusion.png"
ATTENTION_CSV = "attention.csv"
# Above this many classes the names would cover each other, and numbers in the cells say nothing.
_MAX_NAMED, _MAX_NUMBERED = 60, 20


def per_class_rows(counts: Counts, classes: Sequence[str]) -> list[dict[str, Any]]:
    """One row a class: label, class, rows, top1_hits, top1, top{k}_hits, top{k}, and what it was most taken for.

    Accuracies are None for a class without clips; `confused_with` is the most frequent wrong class (the first of
    equals), None where nothing was wrong or the scores were not finite.

    Raises:
        ValueError: another number of class names than counted classes.
    """
    if len(classes) != counts.num_classes:
        raise ValueError(f"{len(classes)} class names for {counts.num_classes} classes")
    confusion_KP = counts.confusion_KP.cpu()
    top = counts.top
    rows = []
    for label, name in enumerate(classes):
        total = int(confusion_KP[label].sum())
        hits, top_hits = int(confusion_KP[label, label]), int(counts.top_hits_K[label])
        wrong_K = confusion_KP[label, :-1].clone()
        wrong_K[label] = 0
        most = int(wrong_K.argmax())
        rows.append(
            {
                "label": label,
                "class": name,
                "rows": total,
                "top1_hits": hits,
                "top1": hits / total if total else None,
                f"top{top}_hits": top_hits,
                f"top{top}": top_hits / total if total else None,
                "confused_with": classes[most] if int(wrong_K[most]) else None,
                "confused_count": int(wrong_K[most]),
            }
        )
    return rows


def confusion_figure(counts: Counts, classes: Sequence[str]) -> "Figure":
    """Row-normalised confusion matrix, true classes down, predicted ones across; counts in the cells if they fit."""
    from matplotlib.figure import Figure  # heavy; and without pyplot there is no global state, so threads are safe

    num_classes = counts.num_classes
    confusion_KK = counts.confusion_KP[:, :-1].cpu()
    share_KK = confusion_KK.double() / counts.rows_K.cpu().clamp(min=1)[:, None]
    side_inch = min(16.0, 3.5 + 0.35 * num_classes)
    figure = Figure(figsize=(side_inch, side_inch * 0.9), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share_KK.numpy(), cmap="Blues", vmin=0.0, vmax=1.0)
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if counts.rows:
        axes.set_title(f"top-1 {counts.result()['top1']:.1%} of {counts.rows} clips")
    if num_classes <= _MAX_NAMED:
        names = [one_line(name) for name in classes]
        axes.set_xticks(range(num_classes), names, rotation=90, parse_math=False)  # `$` in a name begins no formula
        axes.set_yticks(range(num_classes), names, parse_math=False)
    if num_classes <= _MAX_NUMBERED:
        for true, predicted in confusion_KK.nonzero().tolist():
            color = "white" if share_KK[true, predicted] > 0.5 else "black"
            text = str(int(confusion_KK[true, predicted]))
            axes.text(predicted, true, text, ha="center", va="center", color=color, fontsize=8)
    return figure


def combination_rows(counts: HeadCounts) -> list[dict[str, Any]]:
    """One row a combination of which there are clips: label, class, rows and hits, as `per_class_rows`."""
    top, combinations_3P = counts.top, counts.combinations_3P.cpu()
    rows = []
    for label in combinations_3P[0].nonzero().flatten().tolist():
        total, hits, top_hits = (int(count) for count in combinations_3P[:, label])
        rows.append(
            {
                "label": label,
                "class": counts.heads.class_name(label),
                "rows": total,
                "top1_hits": hits,
                "top1": hits / total,
                f"top{top}_hits": top_hits,
                f"top{top}": top_hits / total,
            }
        )
    return rows


def write_report(
    directory: str | Path,
    counts: HeadCounts,
    attention: Mapping[str, Sequence[health.StageHealth]] | None = None,
) -> list[Path]:
    """Write `per_class.csv`, `per_class.json` (with the totals) and `confusion.png`; returns their paths.

    Where a model has attention, also `attention.csv`: what its gates did in its own evaluation, a row a gate.

    Of several heads each has files of its own (`verb_per_class.csv`), and the tables without a head's name are of the
    combinations, which have no confusion matrix: there are too many.

    Args:
        attention: by the models' names.

    Raises:
        ValueError: nothing counted.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    heads, several = counts.heads, counts.heads.several
    written: list[Path] = []
    for head, own in zip(heads.each(), counts.parts, strict=True):
        content = {
            "result": _finite(own.result()),
            "not_finite": own.not_finite,
            "classes": per_class_rows(own, head.classes),
            "confusion": own.confusion_KP[:, :-1].cpu().tolist(),
        }
        prefix = head.metric("") and file_stem(head.metric(""))
        written += _write_tables(directory, prefix, content)
        picture = directory / f"{prefix}{CONFUSION_PNG}"
        with replacing(picture) as partial:
            confusion_figure(own, head.classes).savefig(partial, dpi=110)
        written.append(picture)
    if several:
        content = {
            "result": _finite(counts.result()),
            "not_finite": counts.not_finite,
            "classes": combination_rows(counts),
            "heads": list(heads.names),
        }
        written += _write_tables(directory, "", content)
    table = [{"model": name, **row} for name, stages in (attention or {}).items() for row in health.rows(stages)]
    if table:
        written.append(_write_csv(directory / ATTENTION_CSV, table))
    return written


def _finite(result: dict[str, Any]) -> dict[str, Any]:
    """nan is no JSON: a loss that is not finite is written as null."""
    return {key: value if value == value else None for key, value in result.items()}


def _write_tables(directory: Path, prefix: str, content: dict[str, Any]) -> list[Path]:
    table, document = directory / f"{prefix}{PER_CLASS_CSV}", directory / f"{prefix}{PER_CLASS_JSON}"
    _write_csv(table, content["classes"])
    write_text(document, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return [table, document]


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path
