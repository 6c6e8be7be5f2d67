"""How does a folder with a trained model become a logged model, and then a registered one?"""

import json
import math
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w3ray._address import file_address
from w3ray._version import __version__
from w3ray.tracking.outbox import Refused, Ticket

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

# As in w3ray.models.bundle. Importing that needs torch, which the driver may not have.
WEIGHTS_NAME = "model.safetensors"
DESCRIPTION_NAME = "model.json"
MODEL_KEY_TAG = "w3ray.key"
IDENTITY_TAG = "w3ray.identity"
STAGE_TAG = "w3ray.stage"
TEACHER_TAG = "w3ray.teacher_model_id"
TEACHER_IDENTITY_TAG = "w3ray.teacher_identity"
# MLflow's own tag: its page of a logged model reads the versions from it.
VERSIONS_TAG = "mlflow.modelVersions"
CODE = Path(__file__).with_name("video_model.py")
# Needed to load the model; pinned to the versions that the model was made with.
REQUIREMENTS = ("mlflow", "torch", "torchvision", "safetensors", "av", "numpy", "pandas")

OPTIONAL_DECODERS = {"decord": "decord", "torchcodec": "torchcodec", "torchcodec_cuda": "torchcodec"}
"""Decoder -> its package. decord has none for some platforms, so only a model that names it asks for it."""


@dataclass(slots=True)
class LoggedModel:
    """A model that is logged to MLflow, or will be. Made by `StageRun.log_model`.

    Args:
        key: identifies the model in this driver's operations and, as a tag, on the server.
        ticket: settled once the model is delivered.
    """

    key: str
    ticket: Ticket

    @property
    def model_id(self) -> str | None:
        """MLflow's id; None until the model is delivered, and always None without tracking."""
        return None if self.ticket.result is None else str(self.ticket.result)

    @property
    def uri(self) -> str | None:
        """For `mlflow.pyfunc.load_model`."""
        return None if self.model_id is None else f"models:/{self.model_id}"


def upload(
    client: "MlflowClient",
    run_id: str,
    experiment_id: str,
    data: dict[str, Any],
    *,
    teacher_model_id: str | None,
) -> str:
    """Log one model; a second call with the same `data["key"]` completes the first. Returns the model's id.

    Raises:
        Refused: the folder holds no model.
    """
    from mlflow.entities import Dataset, DatasetInput, LoggedModelInput, LoggedModelOutput, LoggedModelStatus, Metric

    folder = Path(data["folder"])
    if not all((folder / name).is_file() for name in (WEIGHTS_NAME, DESCRIPTION_NAME)):
        raise Refused(f"{folder}: holds no model; was it removed?")
    found = _find(client, experiment_id, MODEL_KEY_TAG, data["key"])
    if found is not None and found.status == LoggedModelStatus.READY:
        return str(found.model_id)
    if teacher_model_id is None and data["teacher_identity"] is not None:
        teacher = _find(client, experiment_id, IDENTITY_TAG, data["teacher_identity"])
        teacher_model_id = None if teacher is None else str(teacher.model_id)
    tags = {MODEL_KEY_TAG: data["key"], **data["tags"]}
    for name, value in ((TEACHER_TAG, teacher_model_id), (TEACHER_IDENTITY_TAG, data["teacher_identity"])):
        if value is not None:
            tags[name] = value
    model = found or client.create_logged_model(
        experiment_id, name=data["name"], source_run_id=run_id, tags=tags, params=data["params"], model_type="video"
    )
    with tempfile.TemporaryDirectory(prefix="w3ray-model-") as scratch:
        _save(Path(scratch) / "model", folder, run_id, model.model_id, data)
        client.log_model_artifacts(model.model_id, str(Path(scratch) / "model"))
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    dataset: dict[str, str] = data["dataset"] or {}
    if dataset:
        source = Dataset(dataset["name"], dataset["digest"], "local", dataset["source"])
        client.log_inputs(run_id, datasets=[DatasetInput(source)])
    now_ms = int(time.time() * 1000)
    names = {"dataset_name": dataset.get("name"), "dataset_digest": dataset.get("digest")}
    metrics = [
        Metric(name, value, now_ms, data["step"], model_id=model.model_id, run_id=run_id, **names)
        for name, value in data["metrics"].items()
        if math.isfinite(value)
    ]
    if metrics:
        client.log_batch(run_id, metrics=metrics, synchronous=True)
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=data["step"])])
    if teacher_model_id is not None:
        client.log_inputs(run_id, models=[LoggedModelInput(teacher_model_id)])
    return str(model.model_id)


def _find(client: "MlflowClient", experiment_id: str, tag: str, value: str) -> Any:
    """The newest logged model with a tag, or None."""
    page = client.search_logged_models(
        [experiment_id],
        filter_string=f"tags.`{tag}` = '{value}'",
        order_by=[{"field_name": "creation_timestamp", "ascending": False}],
        max_results=1,
    )
    return page[0] if page else None


def _save(path: Path, folder: Path, run_id: str, model_id: str, data: dict[str, Any]) -> None:
    import mlflow.pyfunc
    import pandas as pd
    from mlflow.models import Model

    mlflow.pyfunc.save_model(
        path,
        python_model=str(CODE),
        artifacts={"model": file_address(folder)},
        signature=signature(),
        input_example=pd.DataFrame({"video": [data["example"]]}),
        pip_requirements=[
            f"w3ray=={__version__}",
            *(f"{name}=={version(name)}" for name in REQUIREMENTS),
            *_decoder_package(folder),
            *_plugin_packages(folder),
        ],
        mlflow_model=Model(run_id=run_id, model_id=model_id, model_uuid=model_id),
        metadata={"classes": data["classes"], "stage": data["name"]},
    )


def _decoder_package(folder: Path) -> list[str]:
    """The package of the decoder that the model's clips name and its version, if it is an optional one."""
    clip = json.loads((folder / DESCRIPTION_NAME).read_text(encoding="utf-8"))["clip"]
    package = OPTIONAL_DECODERS.get(clip.get("decoder"))
    return [] if package is None else [f"{package}=={version(package)}"]


def _plugin_packages(folder: Path) -> list[str]:
    """Packages and versions of the model's parts that are not built in; a part from a plain file has no package."""
    plugins = json.loads((folder / DESCRIPTION_NAME).read_text(encoding="utf-8")).get("plugins", {})
    found = {f"{part['package']}=={part['version']}" for part in plugins.values() if part["package"] is not None}
    return sorted(found)


def signature() -> "ModelSignature":
    """The signature: one string (the video) in, the output and the parameters of `video_model.VideoModel.predict`.

    The input has no name, so that MLflow accepts a plain list, too.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, Object, Property

    named = Object([Property("class", DataType.string), Property("score", DataType.double)])

    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string)]),
        outputs=Schema(
            [
                ColSpec(Array(DataType.double), "scores"),
                ColSpec(DataType.string, "label", required=False),
                ColSpec(DataType.double, "score", required=False),
                ColSpec(Array(named), "top"),
                ColSpec(DataType.string, "reason", required=False),
            ]
        ),
        params=ParamSchema(
            [
                ParamSpec("protocol", DataType.string, "1clip-center"),
                ParamSpec("average", DataType.string, "scores"),
                ParamSpec("top", DataType.long, 5),
            ]
        ),
    )


def register(client: "MlflowClient", model_id: str, data: dict[str, Any]) -> str:
    """Make the logged model a version of the registered model `data["name"]`, unless it is one. Returns the version."""
    from mlflow.exceptions import MlflowException

    name = data["name"]
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    model = client.get_logged_model(model_id)
    versions = client.search_model_versions(f"name='{name}'")
    number = next((str(known.version) for known in versions if known.source == model.artifact_location), None)
    if number is None:
        # Not `models:/<id>`: a local database would look that up at MLflow's global tracking URI, not in itself.
        made = client.create_model_version(
            name,
            source=model.artifact_location,
            run_id=model.source_run_id,
            model_id=model_id,
            tags=data["tags"],
            await_creation_for=0,
        )
        number = str(made.version)
        listed = json.loads(model.tags.get(VERSIONS_TAG, "[]"))
        entry = {"name": name, "version": made.version}
        client.set_logged_model_tags(model_id, {VERSIONS_TAG: json.dumps([*listed, entry])})
    if data["alias"] is not None:
        client.set_registered_model_alias(name, data["alias"], number)
    return number
