"""`w3ray evaluate`: how good is a model on a manifest, with a test protocol?"""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from w3ray._format import percent
from w3ray.cli._common import JsonOption, finish, run_command
from w3ray.cli._console import Group, Line, RenderableType, Table
from w3ray.cli._console import lines as as_lines
from w3ray.cli._models import MODEL_HELP, BanksOption, ThresholdOption, TrackingOption, opened_models
from w3ray.cli._options import AddressOption, AverageOption, RootsOption
from w3ray.cli._progress import Progress
from w3ray.data.views import PROTOCOLS

FlowOption = Annotated[str | None, typer.Option(help="The same clips as optical flow, for the models that read flow.")]
FoldOption = Annotated[
    int | None, typer.Option(help="Split train and val by group, as the recipe's data.fold does; needs --folds.")
]
FoldsOption = Annotated[int | None, typer.Option(help="Number of folds, as the recipe's data.folds.")]
CombineOption = Annotated[
    bool, typer.Option("--combine", help="Two models, one for each head of the clips, such as verbs and nouns.")
]
PriorOption = Annotated[
    str | None,
    typer.Option(help="With --combine: split, or MANIFEST:SPLIT, whose pairs of classes weigh the actions."),
]


@run_command
def evaluate(
    models: Annotated[
        list[str], typer.Argument(help=f"{MODEL_HELP} Several models form an ensemble.", metavar="MODEL...")
    ],
    manifest: Annotated[str, typer.Option(help="Manifest of the clips.")],
    flow_manifest: FlowOption = None,
    boxes: Annotated[str | None, typer.Option(help="Boxes of the clips, for models that need them.")] = None,
    bank: BanksOption = None,
    split: Annotated[str, typer.Option(help="Split to score.")] = "val",
    fold: FoldOption = None,
    folds: FoldsOption = None,
    protocol: Annotated[
        str, typer.Option(help=f"Views of a clip: {', '.join(PROTOCOLS)}, or with other numbers of clips.")
    ] = "1clip-center",
    average: AverageOption = "scores",
    weight: Annotated[
        list[float] | None,
        typer.Option(help="Weight of a model's scores in the mean, one for each MODEL in order; default: equal."),
    ] = None,
    combine: CombineOption = False,
    prior: PriorOption = None,
    threshold: ThresholdOption = None,
    storage: Annotated[str, typer.Option(help="Evaluations are stored in STORAGE/evaluations.")] = "runs",
    tracking: TrackingOption = None,
    address: AddressOption = None,
    roots: RootsOption = None,
    max_failed_share: Annotated[
        float, typer.Option(min=0, max=1, help="Fail if more than this share of the clips cannot be read.")
    ] = 0.01,
    as_json: JsonOption = False,
) -> None:
    """Score every clip of a split once, and write a report. A second call reuses finished scores."""
    from w3ray.scoring.evaluate import evaluate as run

    with opened_models(models, tracking, storage) as found:
        result = run(
            [one.folder for one in found],
            manifest,
            flow_manifest=flow_manifest,
            boxes=boxes,
            banks=bank or (),
            combine=combine,
            prior=prior,
            threshold=threshold,
            split=split,
            fold=fold,
            folds=folds,
            protocol=protocol,
            average=average,
            weights=weight or (),
            storage=storage,
            address=address,
            roots=roots,
            max_failed_share=max_failed_share,
            on_progress=None if as_json else Progress("scoring {done}/{total} clips"),
            names=[one.name for one in found],
        )
    finish(result.document(), as_json, shown(result))


def shown(result: Any) -> RenderableType:
    """The result for people."""
    metrics = result.metrics
    read = f"{result.clips - result.unreadable} of {result.clips} clips of {result.split}"
    if result.folds is not None:
        read += f" in fold {result.fold} of {result.folds}"
    lines = [f"{read}, {result.protocol}, {result.average} averaged"]
    if result.combine:
        lines[0] += f", two models combined{'' if result.prior is None else f' with the prior of {result.prior}'}"
    elif len(result.models) > 1:
        lines[0] += f", ensemble of {len(result.models)} models"
    if result.weights is not None:
        lines[0] += f" with weights {', '.join(f'{weight:g}' for weight in result.weights)}"
    if result.unreadable:
        lines.append(
            f"{result.unreadable} clips could not be read and are left out; the reasons are stored with the scores"
        )
    if result.reused:
        lines.append(f"{result.reused} scores were reused")
    if result.unlabelled:
        lines.append(f"{result.unlabelled} clips have no label: their scores are stored, but not in any accuracy")
    lines.append(f"report  {result.directory}/report" if metrics else f"scores  {result.directory}")
    return Group(_accuracies(metrics), as_lines(lines)) if metrics else as_lines(lines)


def _accuracies(metrics: Mapping[str, Any]) -> Table:
    """A block of rows. With several heads: one block for their combinations, and one for each head."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    if "map" in metrics:
        return _multi_label(table, metrics)
    prefixes = [key.removesuffix("top1") for key in metrics if key.endswith("top1")]
    for prefix in prefixes:
        if len(prefixes) > 1:
            table.add_row(Line(prefix.rstrip("_") or "all heads", style="bold"))
        for name, key in (("top-1", "top1"), ("top-5", "top5"), ("mean class", "mean_class_accuracy")):
            interval = metrics.get(f"{prefix}{key}_interval")
            spread = f"{percent(interval[0])} to {percent(interval[1])} (95%)" if interval else ""
            table.add_row(name, percent(metrics[prefix + key]), spread)
        calibration = f"calibration error {metrics[prefix + 'calibration_error']:.3f}"
        table.add_row("loss", f"{metrics[prefix + 'loss']:.3f}", calibration)
    return table


def _multi_label(table: Table, metrics: Mapping[str, Any]) -> Table:
    interval = metrics.get("map_interval")
    spread = f"{percent(interval[0])} to {percent(interval[1])} (95%)" if interval else ""
    table.add_row("mAP", percent(metrics["map"]), spread)
    table.add_row("hit@1", percent(metrics["hit1"]), "")
    parts = f"precision {percent(metrics['micro_precision'])}, recall {percent(metrics['micro_recall'])}"
    table.add_row("F1, all together", percent(metrics["micro_f1"]), parts)
    table.add_row("F1, mean class", percent(metrics["macro_f1"]), "")
    table.add_row("loss", f"{metrics['loss']:.3f}", "")
    return table
