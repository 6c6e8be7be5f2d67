"""Where is a run recorded, and why there?"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from w3ray.recipe import Recipe
from w3ray.storage import RemotePath, storage_path
from w3ray.tracking import LocalModel, Tracker, choose_experiment, choose_uri, local_models
from w3ray.tracking.uri import Chosen


def open_tracker(recipe: Recipe, *, run_name: str, notify: Callable[[str], None], must_answer: bool = True) -> Tracker:
    """The MLflow side of a run, or of a sweep of this recipe: see `Tracker.open`."""
    uri, experiment = tracked(recipe)
    return Tracker.open(
        uri.value if recipe.tracking.enabled else None,
        experiment.value,
        run_name=run_name,
        buffer_dir=tracking_root(recipe.storage) / "tracking",
        artifacts=_artifacts(recipe),
        notify=notify,
        setting=uri.setting,
        must_answer=must_answer,
    )


def tracked(recipe: Recipe) -> tuple[Chosen, Chosen]:
    """The MLflow address and the experiment in which a run of this recipe is recorded."""
    uri = choose_uri(recipe.tracking.uri, tracking_root(recipe.storage))
    return uri, choose_experiment(recipe.tracking.experiment, recipe.name)


def tracked_here(recipe: Recipe) -> Recipe:
    """The recipe with the tracking of this process, for another process whose environment may name another MLflow."""
    uri, experiment = tracked(recipe)
    tracking = recipe.tracking.model_copy(update={"uri": uri.value, "experiment": experiment.value})
    return recipe.model_copy(update={"tracking": tracking})


def describe_tracking(recipe: Recipe) -> dict[str, Any]:
    """Where a run is recorded, and why there, for the plan."""
    if not recipe.tracking.enabled:
        return {"uri": None, "uri_from": "tracking.enabled is false", "experiment": None, "experiment_from": None}
    uri, experiment = tracked(recipe)
    return {
        "uri": uri.value, "uri_from": uri.why, "experiment": experiment.value, "experiment_from": experiment.why
    }  # fmt: skip


def tracking_root(storage: str) -> Path:
    """The folder of a run's tracking, unless `tracking.uri` says otherwise, and of data not yet sent to the server.

    A database cannot lie on object storage. Then the folder is the default storage, `runs` in the current folder.
    """
    root = storage_path(storage)
    return root if isinstance(root, Path) else Path(str(Recipe.model_fields["storage"].default)).absolute()


@contextmanager
def opened_models(
    locations: Sequence[str], tracking: str | None, storage: str | None = None, *, option: str = "tracking"
) -> Iterator[list[LocalModel]]:
    """The models as folders. See `w3ray.tracking.registered.local_models`.

    Args:
        locations: folders, and names in MLflow.
        tracking: the address of MLflow. None: that of the environment, else the MLflow of runs in `storage`.
        storage: of the runs. None: a recipe's default.
        option: what the caller calls `tracking`, for messages.
    """
    root = tracking_root(storage or str(Recipe.model_fields["storage"].default))
    chosen = choose_uri(tracking, root, option=option)
    with local_models(locations, uri=chosen.value, option=chosen.setting) as models:
        yield models


def _artifacts(recipe: Recipe) -> str | None:
    """Where a local tracking database keeps models and reports; None: next to the database."""
    root = storage_path(recipe.storage)
    return (root / "mlartifacts").uri if isinstance(root, RemotePath) and root.uri.startswith("s3://") else None
