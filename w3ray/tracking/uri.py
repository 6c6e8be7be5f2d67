"""Can a tracking URI work at all? Answered within seconds and without MLflow, which would try for minutes."""

from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

from w3ray.errors import InputError

PROBE_S = 5.0


def sqlite_path(uri: str) -> Path | None:
    """The file of a `sqlite:///...` URI, else None."""
    prefix = "sqlite:///"
    if not uri.startswith(prefix):
        return None
    return Path(unquote(uri[len(prefix) :].partition("?")[0]))


def database_beside(root: Path) -> str:
    """Where runs are tracked unless the user says otherwise: a database in the folder that holds their stages."""
    return f"sqlite:///{root / 'mlflow.db'}"


def check_readable(uri: str) -> None:
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
    check_uri(uri)


def check_uri(uri: str) -> None:
    """Find out within seconds that a tracking URI can not work.

    Raises:
        InputError: unreachable server, unwritable folder, or a file that is no SQLite database.
    """
    database = sqlite_path(uri)
    if database is not None:
        _check_database(uri, database)
    elif uri.startswith(("http://", "https://")):
        _check_server(uri)
    elif "://" not in uri and uri != "databricks":
        raise InputError(f"tracking.uri {uri}: not a URI; write sqlite:///path/mlflow.db or http://host:port")


def _check_database(uri: str, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise InputError(f"tracking.uri {uri}: can not write {path} ({error.strerror}); set another one") from error
    if head and head != b"SQLite format 3\0":
        raise InputError(f"tracking.uri {uri}: {path} is no SQLite database; set another path")


def _check_server(uri: str) -> None:
    import requests

    try:
        requests.get(uri.rstrip("/") + "/health", timeout=PROBE_S)
    except requests.exceptions.SSLError:
        pass  # it answers; whether its certificate will do is for MLflow's own settings to say
    except requests.exceptions.RequestException as error:
        kind = "no answer" if isinstance(error, requests.exceptions.Timeout) else "can not connect"
        raise InputError(
            f"tracking.uri {uri}: {kind}; start the server (`mlflow server`) or set another tracking.uri"
        ) from error


def check_artifacts(uri: str) -> None:
    """Find out at once that MLflow could not write its files to a place.

    Raises:
        InputError: a package is missing.
    """
    if uri.startswith("s3://") and find_spec("boto3") is None:
        raise InputError(
            f"{uri}: MLflow's files can not be written there without boto3; pip install 'w3ray[s3]', set tracking.uri "
            "or tracking.enabled=false"
        )
