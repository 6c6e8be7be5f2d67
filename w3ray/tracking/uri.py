"""Which MLflow is used, and can its address work at all?

The check takes seconds. It does not use MLflow, which would retry for minutes, except for a server that asks for a
password.
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
"""All three are MLflow's own variables; its commands read them, too."""

DATABASE_NAME = "mlflow.db"


@dataclass(frozen=True, slots=True)
class Chosen:
    """A tracking setting.

    Args:
        value: the address or the name.
        why: where the value comes from.
        setting: the option, recipe field or variable that changes it: errors begin with it.
    """

    value: str
    why: str
    setting: str


def choose_uri(given: str | None, root: Path, *, option: str = "tracking.uri") -> Chosen:
    """The MLflow address: the given one, else the environment's, else a database in `root`.

    Args:
        given: address from the recipe or the command line.
        root: folder that holds the stages.
        option: the option that sets the address.
    """
    if given:
        return Chosen(quoted_sqlite(given), option, option)
    if found := os.environ.get(URI_VARIABLE):
        return Chosen(quoted_sqlite(found), URI_VARIABLE, URI_VARIABLE)
    return Chosen(sqlite_address(root / DATABASE_NAME), "default", option)


def choose_experiment(given: str | None, name: str) -> Chosen:
    """The experiment: the recipe's, else the environment's, else the recipe's own name."""
    if given:
        return Chosen(given, "tracking.experiment", "tracking.experiment")
    if found := os.environ.get(EXPERIMENT_VARIABLE):
        return Chosen(found, EXPERIMENT_VARIABLE, EXPERIMENT_VARIABLE)
    return Chosen(name, "default", "tracking.experiment")


def check_readable(uri: str, option: str = "tracking.uri") -> None:
    """Fail within seconds if a tracking URI cannot be read; creates nothing.

    Raises:
        InputError: the server cannot be reached, or the database does not exist.
    """
    database = sqlite_path(uri)
    if database is not None and not database.is_file():
        raise InputError(
            f"no MLflow database at {database}; name the MLflow that knows the model with --tracking "
            "(sqlite:///path/mlflow.db or http://host:port)"
        )
    check_uri(uri, option)


def check_uri(uri: str, option: str = "tracking.uri") -> None:
    """Fail within seconds if a tracking URI cannot work.

    Args:
        option: the option that set the URI, for the error message.

    Raises:
        InputError: the server cannot be reached, the password is wrong, the folder cannot be written, the file is no
            SQLite database, or MLflow does not accept this kind of address.
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
                f"{said}: a folder, but MLflow no longer keeps runs in plain files; write sqlite:///path/mlflow.db "
                f"(`mlflow migrate-filestore` moves what is there), or set {FILE_STORE_VARIABLE}=true"
            )
    elif uri.startswith("sqlite:"):
        raise InputError(f"{said}: an in-memory database is lost when its process ends; write {_EXAMPLES}")
    elif not _is_known(uri):
        what = "MLflow does not accept this kind of address" if "://" in uri else "not a URI"
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
        pass  # the server answers; MLflow's own settings decide about the certificate
    except requests.exceptions.RequestException as error:
        kind = "no answer" if isinstance(error, requests.exceptions.Timeout) else "cannot connect"
        raise InputError(f"{said}: {kind}; start the server (`mlflow server`) or set another address") from error
    with suppress(requests.exceptions.RequestException):  # the server answers; a slow one is waited for later
        answer = requests.get(f"{base}/api/2.0/mlflow/experiments/search?max_results=1", timeout=PROBE_S)
        if answer.status_code in (401, 403):
            _check_credentials(said, uri)


def _check_credentials(said: str, uri: str) -> None:
    """MLflow knows many ways to log in, so MLflow itself asks a server that requires it."""
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
    """Fail at once if MLflow could not write its files to an address.

    Raises:
        InputError: a package is missing, or the address holds a `#`.
    """
    if "#" in uri:
        raise InputError(f"{uri}: MLflow cuts off an address at #; set another storage or a server as tracking.uri")
    if uri.startswith("s3://") and find_spec("boto3") is None:
        raise InputError(
            f"{uri}: MLflow cannot write its files there without boto3; pip install 'w3ray[s3]', set tracking.uri "
            "or tracking.enabled=false"
        )
