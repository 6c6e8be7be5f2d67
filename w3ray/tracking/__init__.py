"""What does MLflow learn about a run, and how? Nothing else in w3ray knows MLflow.

`Tracker` is the driver's side; `video_model.py` is what a logged model runs when somebody loads it.
"""

from w3ray.tracking.outbox import Delivery
from w3ray.tracking.tracker import StageRun, Tracker, check_uri

__all__ = ["Delivery", "StageRun", "Tracker", "check_uri"]
