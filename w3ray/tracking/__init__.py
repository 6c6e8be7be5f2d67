"""What is logged to MLflow, and how? No other package of w3ray uses MLflow.

`Tracker` runs in the driver; `video_model.py` runs when a logged model is loaded.
"""

from w3ray.tracking._values import artifact_folder
from w3ray.tracking.logged_models import LoggedModel
from w3ray.tracking.outbox import Delivery
from w3ray.tracking.registered import LocalModel, local_models
from w3ray.tracking.stage_run import StageRun
from w3ray.tracking.tracker import Tracker
from w3ray.tracking.uri import check_uri, choose_experiment, choose_uri

__all__ = [
    "Delivery",
    "LocalModel",
    "LoggedModel",
    "StageRun",
    "Tracker",
    "artifact_folder",
    "check_uri",
    "choose_experiment",
    "choose_uri",
    "local_models",
]
