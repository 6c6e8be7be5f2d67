"""What does an evaluation write for people? A table by class, a confusion matrix, and a table of the gates' health."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w3ray._file_names import file_stem
from w3ray._text import one_line
from w3ray.attention import health
from w3ray.evaluation.counting import SplitCounts
from w3ray.evaluation.head_counts import HeadCounts
from w3ray.evaluation.metrics import Counts
from w3ray.evaluation.multi_label import MultiLabelCounts
from w3ray.storage import replacing, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PER_CLASS_CSV = "per_class.csv"
PER_CLASS_JSON = "per_class.json"
CONFUSION_PNG = "confusion.png"
ATTENTION_CSV = "attention.csv"
# With more classes the names would overlap, and the numbers would not fit into the cells.
_MAX_NAMED, _MAX_NUMBERED = 60, 20


def per_class_rows(counts: Counts, classes: Sequence[str]) -> list[dict[str, Any]]:
    """One row per class: label, class, rows, top1_hits, top1, top{k}_hits, top{k}, confused_with, confused_count.

    Accuracies are None for a class without clips. `confused_with` is the most frequent wrong class (the first one if
    several are equally frequent). It is None if no clip was predicted as another class.

    Raises:
        ValueError: the number of class names differs from the number of counted classes.
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
    """Row-normalised confusion matrix: rows are true classes, columns are predicted. Cells show counts if they fit."""
    from matplotlib.figure import Figure  # imported late: it is slow. No pyplot: its global state is not thread-safe

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
        axes.set_xticks(range(num_classes), names, rotation=90, parse_math=False)  # `$` in a name is no formula
        axes.set_yticks(range(num_classes), names, parse_math=False)
    if num_classes <= _MAX_NUMBERED:
        for true, predicted in confusion_KK.nonzero().tolist():
            color = "white" if share_KK[true, predicted] > 0.5 else "black"
            text = str(int(confusion_KK[true, predicted]))
            axes.text(predicted, true, text, ha="center", va="center", color=color, fontsize=8)
    return figure


def combination_rows(counts: HeadCounts) -> list[dict[str, Any]]:
    """One row for each combination that has clips: label, class, rows and hits, as in `per_class_rows`."""
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
    counts: SplitCounts,
    attention: Mapping[str, Sequence[health.StageHealth]] | None = None,
) -> list[Path]:
    """Write `per_class.csv`, `per_class.json` (with the totals) and `confusion.png`. Returns their paths.

    If a model has attention, also write `attention.csv`: the health of its gates in its own evaluation, one row per
    gate.

    With several heads, each head has its own files (`verb_per_class.csv`). The tables without a head's name are those
    of the combinations. Combinations have no confusion matrix, because there are too many. Multi-label clips have none,
    because it is not known which class was taken for which.

    Args:
        attention: model name -> health of its stages.

    Raises:
        ValueError: nothing was counted.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if isinstance(counts, MultiLabelCounts):
        written = _write_tables(directory, "", _multi_label_content(counts))
    else:
        written = _write_heads(directory, counts)
    table = [{"model": name, **row} for name, stages in (attention or {}).items() for row in health.rows(stages)]
    if table:
        written.append(_write_csv(directory / ATTENTION_CSV, table))
    return written


def _write_heads(directory: Path, counts: HeadCounts) -> list[Path]:
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
            confusion_figure(own, head.classes).savefig(partial, dpi=110, format="png")
        written.append(picture)
    if several:
        content = {
            "result": _finite(counts.result()),
            "not_finite": counts.not_finite,
            "classes": combination_rows(counts),
            "heads": list(heads.names),
        }
        written += _write_tables(directory, "", content)
    return written


def multi_label_rows(counts: MultiLabelCounts) -> list[dict[str, Any]]:
    """One row per class: label, class, rows (clips that have it), average_precision; threshold, and precision, recall
    and f1 at it; best_threshold and best_f1. Figures are None where they are not defined."""
    names = ("average_precision", "threshold", "precision", "recall", "f1", "best_threshold", "best_f1")
    return [
        {"label": label, "class": name, "rows": one.clips, **{figure: getattr(one, figure) for figure in names}}
        for label, (name, one) in enumerate(zip(counts.heads.classes, counts.figures, strict=True))
    ]


def _multi_label_content(counts: MultiLabelCounts) -> dict[str, Any]:
    return {
        "result": _finite(counts.result()),
        "not_finite": counts.not_finite,
        "classes": multi_label_rows(counts),
    }


def _finite(result: dict[str, Any]) -> dict[str, Any]:
    """Replace nan by None (null), because JSON has no nan."""
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
