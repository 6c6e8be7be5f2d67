"""Which MLflow is it, and can its address work at all?

The latter is answered within seconds and, but for a server that wants a password, without MLflow, which would try for
minutes.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from w3ray._address import quoted_sqlite, sqlite_address, sqlite_path
from w3ray.errors import InputError

PROBE_S = 5.0

URI_VARIABLE = "MLFLOW_TRACKING_URI"
EXPERIMENT_VARIABLE = "MLFLOW_EXPERIMENT_NAME"
FILE_STORE_VARIABLE = "MLFLOW_ALLOW_FILE_STORE"
"""All three are MLflow's own, which its commands read as well."""

DATABASE_NAME = "mlflow.db"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A setting of the tracking.

    Args:
        value: the address, or the name.
        why: where it comes from.
        setting: option, recipe's field or variable to change it by: errors begin with it.
    """

    value: str
    why: str
    setting: str


def choose_uri(given: str | None, root: Path, *, option: str = "tracking.uri") -> Chosen:
    """Which MLflow: the one that is given, else the environment's, else a database in `root`.

    Args:
        given: by the recipe or on the command line.
        root: folder that holds the stages.
        option: by which it is given.
    """
    if given:
        return Chosen(quoted_sqlite(given), option, option)
    if found := os.environ.get(URI_VARIABLE):
        return Chosen(quoted_sqlite(found), URI_VARIABLE, URI_VARIABLE)
    return Chosen(sqlite_address(root / DATABASE_NAME), "default", option)


def choose_experiment(given: str | None, name: str) -> Chosen:
    """Which experiment: the recipe's, else the environment's, else the one named like the recipe."""
    if given:
        return Chosen(given, "tracking.experiment", "tracking.experiment")
    if found := os.environ.get(EXPERIMENT_VARIABLE):
        return Chosen(found, EXPERIMENT_VARIABLE, EXPERIMENT_VARIABLE)
    return Chosen(name, "default", "tracking.experiment")


def check_readable(uri: str, option: str = "tracking.uri") -> None:
    """Find out within seconds that nothing can be read from a tracking URI; makes nothing.

    Raises:
        InputError: unreachable server, or no database.
    """
    database = sqlite_path(uri)
    if database is not None and not database.is_file():
        raise InputError(
            f"no MLflow database at {database}; name the MLflow that knows the model with --tracking "
            "(sqlite:///path/mlflow.db or http://host:port)"
        )
    check_uri(uri, option)


def check_uri(uri: str, option: str = "tracking.uri") -> None:
    """Find out within seconds that a tracking URI cannot work.

    Args:
        option: by which it was given, for the error.

    Raises:
        InputError: unreachable server, wrong password, unwritable folder, a file that is no SQLite database, or an
            address of a kind that MLflow does not take.
    """
    said = f"{option} {uri}"
    database = sqlite_path(uri)
    if database is not None:
        _check_database(said, database)
    elif uri.startswith(("http://", "https://")):
        _check_server(said, uri)
    elif uri.startswith(("file:", "/", ".")) or ("://" not in uri and os.path.isdir(uri)):
        if os.environ.get(FILE_STORE_VARIABLE, "").lower() not in ("true", "1"):
            raise InputError(
                f"{said}: a folder, and MLflow keeps no runs in plain files any more; write sqlite:///path/mlflow.db "
                f"(`mlflow migrate-filestore` moves what is there), or set {FILE_STORE_VARIABLE}=true"
            )
    elif uri.startswith("sqlite:"):
        raise InputError(f"{said}: its database is in no file, and so ends with each process; write {_EXAMPLES}")
    elif not _is_known(uri):
        what = "no address that MLflow takes" if "://" in uri else "not a URI"
        raise InputError(f"{said}: {what}; write {_EXAMPLES}")


_EXAMPLES = "sqlite:///path/mlflow.db or http://host:port"
_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "databricks", "databricks-uc", "uc")


def _is_known(uri: str) -> bool:
    scheme = uri.partition(":")[0].partition("+")[0]
    return scheme in _SCHEMES or any(one.name == scheme for one in entry_points(group="mlflow.tracking_store"))


def _check_database(said: str, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise InputError(f"{said}: cannot write {path} ({error.strerror}); set another one") from error
    if head and head != b"SQLite format 3\0":
        raise InputError(f"{said}: {path} is no SQLite database; set another path")


def _check_server(said: str, uri: str) -> None:
    import requests

    base = uri.rstrip("/")
    try:
        requests.get(f"{base}/health", timeout=PROBE_S)
    except requests.exceptions.SSLError:
        pass  # it answers; whether its certificate will do is for MLflow's own settings to say
    except requests.exceptions.RequestException as error:
        kind = "no answer" if isinstance(error, requests.exceptions.Timeout) else "cannot connect"
        raise InputError(f"{said}: {kind}; start the server (`mlflow server`) or set another address") from error
    with suppress(requests.exceptions.RequestException):  # it answers: slow ones are waited for later
        answer = requests.get(f"{base}/api/2.0/mlflow/experiments/search?max_results=1", timeout=PROBE_S)
        if answer.status_code in (401, 403):
            _check_credentials(said, uri)


def _check_credentials(said: str, uri: str) -> None:
    """MLflow knows many ways to say who one is: a server that wants to know is asked by MLflow itself."""
    from w3ray.tracking import _mlflow
    from w3ray.tracking.outbox import Refused, Unreachable

    _mlflow.prepare()
    from mlflow import MlflowClient

    try:
        with _mlflow.sorted_errors():
            MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    except (Refused, Unreachable) as error:
        raise InputError(
            f"{said}: the server does not let this user in; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
            "or MLFLOW_TRACKING_TOKEN"
        ) from error


def check_artifacts(uri: str) -> None:
    """Find out at once that MLflow could not write its files to a place.

    Raises:
        InputError: a package is missing.
    """
    if "#" in uri:
        raise InputError(f"{uri}: MLflow cuts an address off at #; set another storage, or tracking.uri to a server")
    if uri.startswith("s3://") and find_spec("boto3") is None:
        raise InputError(
            f"{uri}: MLflow's files cannot be written there without boto3; pip install 'w3ray[s3]', set tracking.uri "
            "or tracking.enabled=false"
        )
