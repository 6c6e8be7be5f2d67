"""How does a folder with a trained model become a logged model, and then a registered one?"""

from typing import TYPE_CHECKING, Any

from w3ray.tracking.outbox import Refused

if TYPE_CHECKING:
    from mlflow import MlflowClient


def upload(
    client: "MlflowClient", run_id: str, experiment_id: str, data: dict[str, Any], *, teacher_model_id: str | None
) -> str:
    raise Refused("not yet")


def register(client: "MlflowClient", model_id: str, data: dict[str, Any]) -> str:
    raise Refused("not yet")
