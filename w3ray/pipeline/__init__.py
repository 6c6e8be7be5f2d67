"""The chain of stages: `run` a recipe, or see with `plan_run` what it would do."""

from w3ray.pipeline.chain import RunResult, StageResult, plan_run, run

__all__ = ["RunResult", "StageResult", "plan_run", "run"]
