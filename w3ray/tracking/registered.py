"""Which model does an MLflow model URI name, and how does the model become a local folder?

    models:/NAME@ALIAS    models:/NAME/VERSION    models:/NAME/latest    models:/MODEL_ID    runs:/RUN_ID/NAME

MLflow resolves the version. Only w3ray's own files are read from the download: no downloaded code runs.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from w3ray._nearest import did_you_mean
from w3ray.errors import InputError, RunError
from w3ray.tracking import _mlflow
from w3ray.tracking.logged_models import DESCRIPTION_NAME
from w3ray.tracking.outbox import Refused, Unreachable
from w3ray.tracking.uri import check_readable

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SCHEMES = ("models:", "runs:")
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A model: the folder to read it from, and the name to show.

    An alias can move. So for an alias, `name` holds the version that it pointed to: `models:/NAME/3`.
    """

    folder: str
    name: str


def is_registered(location: str) -> bool:
    """Whether a location is an MLflow model URI and not a folder."""
    return location.startswith(_SCHEMES)


@contextmanager
def local_models(locations: Sequence[str], *, uri: str, option: str = "tracking.uri") -> Iterator[list[LocalModel]]:
    """Models by folder or by MLflow model URI; URIs are downloaded once and removed at the end.

    Errors raised inside the context show the names, not the temporary folders.

    Args:
        locations: folders (returned unchanged) and MLflow model URIs.
        uri: tracking URI; used only if a location is an MLflow model URI.
        option: the option that set `uri`, for the error message.

    Raises:
        InputError: MLflow does not answer, it has no such model, or w3ray did not log the model.
    """
    if not any(map(is_registered, locations)):
        yield [LocalModel(location, location) for location in locations]
        return
    with tempfile.TemporaryDirectory(prefix="w3ray-model-") as scratch:
        found: dict[str, LocalModel] = {}
        for number, location in enumerate(dict.fromkeys(locations)):
            if is_registered(location):
                found[location] = _fetched(location, uri, option, Path(scratch) / str(number))
            else:
                found[location] = LocalModel(location, location)
        try:
            yield [found[location] for location in locations]
        except (InputError, RunError) as error:
            text = str(error)
            for one in found.values():
                text = text.replace(one.folder, one.name)
            raise type(error)(text) from error


def _fetched(location: str, uri: str, option: str, target: Path) -> LocalModel:
    check_readable(uri, option)
    _mlflow.prepare()
    from mlflow import MlflowClient

    try:
        with _mlflow.sorted_errors():
            name, source = _resolved(MlflowClient(tracking_uri=uri), location)
    except (Refused, Unreachable) as error:  # MLflow has no separate error code for each kind of missing object
        hint = _what_is_there(uri, location)
        raise InputError(f"{location}: {hint or f'MLflow at {uri} cannot be asked ({error})'}") from error
    return LocalModel(str(_model_in(_downloaded(location, source, uri, target), location)), name)


def _resolved(client: "MlflowClient", location: str) -> tuple[str, str]:
    """The model's permanent name, and the address of its files."""
    if location.startswith("runs:"):
        return location, _made_by_run(client, location)
    name, alias, version = _name_and_version(location)
    if not alias and not version:
        return location, str(client.get_logged_model(name).artifact_location)
    found = _version(client, name, alias, version)
    if found.model_id is not None:
        source = client.get_logged_model(found.model_id).artifact_location
    else:
        source = client.get_model_version_download_uri(name, found.version)
    return f"models:/{name}/{found.version}", str(source)


def _version(client: "MlflowClient", name: str, alias: str, version: str) -> Any:
    """MLflow's record of a version of a registered model.

    Raises:
        Refused: there is no such version.
    """
    if alias:
        return client.get_model_version_by_alias(name, alias)
    if version == "latest":
        known = client.search_model_versions(f"name='{name}'")
        if not known:
            raise Refused(f"no version of {name!r}")
        return max(known, key=lambda one: int(one.version))
    return client.get_model_version(name, version)


def _made_by_run(client: "MlflowClient", location: str) -> str:
    """The address of a model that a run logged, or of a path inside it.

    MLflow's own `runs:/` repository is not used: it looks models up at the process-wide tracking URI.

    Raises:
        Refused: the run logged no such model.
    """
    run_id, path = _parts(location)
    name, _, inner = path.partition("/")
    for model in _models_of_run(client, run_id):
        if model.name == name:
            return f"{model.artifact_location}/{inner}" if inner else str(model.artifact_location)
    raise Refused(f"run {run_id} has no model {name!r}")


def _models_of_run(client: "MlflowClient", run_id: str) -> list[Any]:
    outputs = client.get_run(run_id).outputs
    links = [] if outputs is None else outputs.model_outputs
    return [client.get_logged_model(link.model_id) for link in links]


def _downloaded(location: str, source: str, uri: str, target: Path) -> Path:
    from mlflow.artifacts import download_artifacts

    try:
        return Path(download_artifacts(artifact_uri=source, dst_path=str(target), tracking_uri=uri))
    # Clients of artifact stores share no error class, so catch everything.
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{location}: its files cannot be fetched from {source} ({reason})") from error


def _model_in(folder: Path, location: str) -> Path:
    """The w3ray folder within a logged model, or `folder` itself if the name already points to it.

    Raises:
        InputError: w3ray did not log the model.
    """
    if (folder / DESCRIPTION_NAME).is_file():
        return folder
    try:
        # Not with MLflow's `Model.load`: it treats a path as an address and so resolves a `%20` in it.
        document = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
        inner = document["flavors"]["python_function"]["artifacts"]["model"]["path"]
        candidate = (folder / inner).resolve()
    except (yaml.YAMLError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{location}: no model that w3ray logged") from error
    # The folder's name comes from a file that anyone may have written.
    if not candidate.is_relative_to(folder.resolve()) or not (candidate / DESCRIPTION_NAME).is_file():
        raise InputError(f"{location}: no model that w3ray logged")
    return candidate


def _what_is_there(uri: str, location: str) -> str | None:
    """What MLflow has instead of the requested model; None if that is unknown."""
    from mlflow import MlflowClient

    try:
        with _mlflow.sorted_errors():
            client = MlflowClient(tracking_uri=uri)
            return _about_run(client, location, uri) if location.startswith("runs:") else _about(client, location, uri)
    except (Refused, Unreachable):
        return None


def _about(client: "MlflowClient", location: str, uri: str) -> str | None:
    name, alias, second = _name_and_version(location)
    known = {model.name: model for model in client.search_registered_models(max_results=1000)}
    if name not in known:
        return f"no registered model {name!r} in {uri}; {did_you_mean(name, known)}{_listed('it has', known)}"
    if not alias and not second:
        return f"which version of {name!r}? Add @ALIAS, /VERSION or /latest; {_aliases(known[name])}"
    if alias:
        if alias in known[name].aliases:
            return None
        return f"{name!r} has no alias {alias!r}; {did_you_mean(alias, known[name].aliases)}{_aliases(known[name])}"
    versions = sorted(int(one.version) for one in client.search_model_versions(f"name='{name}'"))
    if second in map(str, versions):
        return None
    return f"{name!r} has no version {second!r}; {_listed('its versions are', map(str, versions))}"


def _aliases(model: Any) -> str:
    return _listed("its aliases are", [f"{alias} (version {version})" for alias, version in model.aliases.items()])


def _about_run(client: "MlflowClient", location: str, uri: str) -> str | None:
    from mlflow.exceptions import MlflowException

    run_id, path = _parts(location)
    name = path.partition("/")[0]
    try:
        models = [model.name for model in _models_of_run(client, run_id)]
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return f"no run {run_id!r} in {uri}"
    if name in models:
        return None
    return f"run {run_id} has no model {name!r}; {did_you_mean(name, models)}{_listed('its models are', models)}"


def _name_and_version(location: str) -> tuple[str, str, str]:
    """Name, alias and version of `models:/...`; at least one of alias and version is ""."""
    first, version = _parts(location)
    name, _, alias = first.rpartition("@") if "@" in first and not version else (first, "", "")
    return name, alias, version


def _parts(location: str) -> tuple[str, str]:
    """The parts before and after the first slash of a name."""
    first, _, second = location.partition(":")[2].strip("/").partition("/")
    return first, second


def _listed(what: str, names: Any) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what} {', '.join(names[:_SHOWN])}{more}" if names else f"{what} none"
