"""w3ray: Ray-distributed training of video action recognisers with What-Where-When attention.

The public names are loaded on first use, so that `import w3ray` needs neither torch, Ray nor MLflow.
"""

from typing import TYPE_CHECKING

from w3ray._registry import lazy_attributes
from w3ray._version import __version__

if TYPE_CHECKING:
    from w3ray.attention import add_attention
    from w3ray.errors import InputError, RunError
    from w3ray.models import build_model
    from w3ray.pipeline import run
    from w3ray.recipe import load_recipe
    from w3ray.sweep.sweep import tune
    from w3ray.trained import evaluate, explain, load_model, predict, stream

_PUBLIC = {
    "add_attention": "w3ray.attention",
    "build_model": "w3ray.models",
    "evaluate": "w3ray.trained",
    "explain": "w3ray.trained",
    "load_model": "w3ray.trained",
    "load_recipe": "w3ray.recipe",
    "predict": "w3ray.trained",
    "run": "w3ray.pipeline",
    "stream": "w3ray.trained",
    "tune": "w3ray.sweep.sweep",
    "InputError": "w3ray.errors",
    "RunError": "w3ray.errors",
}

__all__ = [
    "InputError",
    "RunError",
    "__version__",
    "add_attention",
    "build_model",
    "evaluate",
    "explain",
    "load_model",
    "load_recipe",
    "predict",
    "run",
    "stream",
    "tune",
]


if not TYPE_CHECKING:  # a name that is not there is an error for mypy, too
    __getattr__ = lazy_attributes(__name__, _PUBLIC)


def __dir__() -> list[str]:
    return sorted(__all__)
