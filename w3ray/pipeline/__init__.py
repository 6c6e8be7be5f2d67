"""The chain of stages: `run` runs a recipe, `plan_run` says what it would do."""

from w3ray.pipeline.chain import run
from w3ray.pipeline.plan import plan_run
from w3ray.pipeline.results import RunResult, StageResult

__all__ = ["RunResult", "StageResult", "plan_run", "run"]
