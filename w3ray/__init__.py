"""w3ray: Ray-distributed training of video action recognisers with What-Where-When attention.

The public names are loaded on first use, so that `import w3ray` needs neither torch, Ray nor MLflow.
"""

from w3ray._registry import lazy_attributes

__version__ = "0.1.0"

_PUBLIC = {
    "add_attention": "w3ray.attention",
    "build_model": "w3ray.models",
    "load_recipe": "w3ray.recipe",
    "run": "w3ray.pipeline",
    "tune": "w3ray.sweep.sweep",
    "InputError": "w3ray.errors",
    "RunError": "w3ray.errors",
}

__all__ = ["InputError", "RunError", "__version__", "add_attention", "build_model", "load_recipe", "run", "tune"]


__getattr__ = lazy_attributes(__name__, _PUBLIC)


def __dir__() -> list[str]:
    return sorted(__all__)
