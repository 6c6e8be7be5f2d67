"""How does a command get a model: from its folder, or by its name in MLflow?"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from w3ray.tracking.registered import LocalModel

MODEL_HELP = "Folder of a model or of its stage, or its name in MLflow, such as models:/NAME@ALIAS."

TrackingOption = Annotated[
    str | None,
    typer.Option(
        "--tracking",
        metavar="URI",
        help="MLflow server for models:/NAME@ALIAS; default: MLFLOW_TRACKING_URI, else the MLflow of the runs here.",
    ),
]

BanksOption = Annotated[
    list[str] | None,
    typer.Option("--bank", metavar="FOLDER", help="Bank of the videos, for models that read one. Can be repeated."),
]

ThresholdOption = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER|EVALUATION",
        help="Of a multi-label model: a clip has the classes with at least this score; a folder that `w3ray evaluate` "
        "wrote: those of each class with the highest F1 there. Default: 0.5.",
    ),
]


@contextmanager
def opened_models(
    locations: Sequence[str], tracking: str | None, storage: str | None = None
) -> "Iterator[list[LocalModel]]":
    """As `w3ray.pipeline.tracked.opened_models`. `tracking` is the value of `TrackingOption`."""
    from w3ray.pipeline.tracked import opened_models

    with opened_models(locations, tracking, storage, option="--tracking") as models:
        yield models
