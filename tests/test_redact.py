"""What is hidden in a text, and what stays."""

import pickle
from dataclasses import dataclass

import pytest

from w3ray._redact import redact, redacted
from w3ray.data.decoders import DecodeError
from w3ray.errors import InputError, RunError
from w3ray.training.checkpoint_files import CheckpointError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:hunter2@host:5000/a?b=1", "http://***@host:5000/a?b=1"),
        ("postgresql+psycopg2://me:p@ss@db/mlflow; set another", "postgresql+psycopg2://***@db/mlflow; set another"),
        ("https://ghp_token@host", "https://***@host"),
        (
            "s3://b/x.mp4?access_key=AK&secret_key=SK&region=eu",
            "s3://b/x.mp4?access_key=***&secret_key=***&region=eu",
        ),
        ("https://h/x?X-Amz-Signature=abc&X-Amz-Date=1", "https://h/x?X-Amz-Signature=***&X-Amz-Date=1"),
        ("https://h/x?sv=1&sig=abc%3D", "https://h/x?sv=1&sig=***"),
        # Nothing to hide.
        ("two@signs: a://b/c@d", "two@signs: a://b/c@d"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
        ("train.epochs=3, signal=4", "train.epochs=3, signal=4"),
    ],
)
def test_addresses(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "correct horse")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/me/token")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "whatever")
    monkeypatch.setenv("SHORT_SECRET", "a")
    assert (
        redact("key wJalrXUtnFEMI, correct horse, /home/me/token, whatever") == "key ***, ***, /home/me/token, whatever"
    )


def test_values() -> None:
    @dataclass(frozen=True)
    class Event:
        message: str
        step: int

    uri = "http://me:hunter2@host"
    value = {"a": [uri, 1, None], "b": (uri,), "c": Event(uri, 3)}
    assert redacted(value) == {
        "a": ["http://***@host", 1, None],
        "b": ("http://***@host",),
        "c": Event("http://***@host", 3),
    }
    assert value["a"][0] == uri, "the values themselves stay, because connections use them"


@pytest.mark.parametrize("kind", [InputError, RunError, CheckpointError])
def test_errors(kind: type[Exception]) -> None:
    error = pickle.loads(pickle.dumps(kind("http://me:hunter2@host: no answer")))
    assert type(error) is kind
    assert str(error) == "http://***@host: no answer"


def test_decode_error() -> None:
    error = DecodeError("http://me:hunter2@host/a.mp4", "cannot be fetched")
    assert "hunter2" not in str(error)
