"""Sweeps: `tune` searches a space of recipes. A trial is a whole chain of stages; no stage is trained twice."""

from w3ray._registry import lazy_attributes

_PUBLIC = {
    "Space": "w3ray.sweep.space",
    "SweepResult": "w3ray.sweep.results",
    "load_space": "w3ray.sweep.space",
    "plan_sweep": "w3ray.sweep.plan",
    "tune": "w3ray.sweep.sweep",
}

__all__ = ["Space", "SweepResult", "load_space", "plan_sweep", "tune"]

__getattr__ = lazy_attributes(__name__, _PUBLIC)
