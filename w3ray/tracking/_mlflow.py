"""How is MLflow made quiet and quick to give up, and how are its errors sorted?

Every module of this package imports this one before `mlflow`: MLflow reads some of its settings at import.
"""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from w3ray._redact import redact
from w3ray.tracking.outbox import THREAD_NAME, Refused, Unreachable

# Defaults only: a variable that the user has set is kept.
SETTINGS = {
    # One try and a short wait: our own delivery thread tries again and tells the user meanwhile.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}

# The store answered, and a second identical request cannot end better.
_FINAL_CODES = frozenset(
    {
        "INVALID_PARAMETER_VALUE",
        "BAD_REQUEST",
        "RESOURCE_DOES_NOT_EXIST",
        "RESOURCE_ALREADY_EXISTS",
        "RESOURCE_CONFLICT",
        "NOT_FOUND",
        "NOT_IMPLEMENTED",
        "INVALID_STATE",
        "ALREADY_EXISTS",
    }
)


class _OtherThreadsOnly(logging.Filter):
    """Hide what the delivery thread logs below ERROR: the outbox reports what matters."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.threadName != THREAD_NAME or record.levelno >= logging.ERROR


def prepare() -> None:
    """Set MLflow's defaults and import it. Call it before any other import from `mlflow`."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    quiet = _OtherThreadsOnly()
    for name in ("mlflow", "alembic", "huey", "sqlalchemy.engine"):
        for handler in logging.getLogger(name).handlers:
            if not any(isinstance(present, _OtherThreadsOnly) for present in handler.filters):
                handler.addFilter(quiet)
    connections = logging.getLogger("urllib3.connectionpool")
    if not any(isinstance(present, _OtherThreadsOnly) for present in connections.filters):
        connections.addFilter(quiet)


@contextmanager
def sorted_errors() -> Iterator[None]:
    """Turn MLflow's errors into Unreachable (try again) or Refused (do not try again)."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        kind = Refused if error.error_code in _FINAL_CODES else Unreachable
        raise kind(_one_line(error)) from error
    except (OSError, SQLAlchemyError) as error:
        raise Unreachable(_one_line(error)) from error
    except (ImportError, ValueError) as error:  # no driver for this database, or the address cannot be parsed
        raise Refused(_one_line(error)) from error


def _one_line(error: Exception) -> str:
    text = redact(" ".join(str(error).split()))
    return text if len(text) <= 300 else text[:297] + "..."


def on_delivery_thread() -> bool:
    return threading.current_thread().name == THREAD_NAME
