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


@contextmanager
def opened_models(
    locations: Sequence[str], tracking: str | None, storage: str | None = None
) -> "Iterator[list[LocalModel]]":
    """The models as folders. See `w3ray.tracking.registered.local_models`.

    Args:
        tracking: value of `TrackingOption`.
        storage: the command's storage; its runs are tracked beside it. None: a recipe's default.
    """
    from w3ray.pipeline.tracked import tracking_root
    from w3ray.recipe import Recipe
    from w3ray.tracking import choose_uri, local_models

    root = tracking_root(storage or str(Recipe.model_fields["storage"].default))
    chosen = choose_uri(tracking, root, option="--tracking")
    with local_models(locations, uri=chosen.value, option=chosen.setting) as models:
        yield models
