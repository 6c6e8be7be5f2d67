"""Ray starts a process for every actor, and importing torch in it takes seconds: how are those over before they count?

Ray gives an actor an idle process of the same runtime environment where there is one. A task that imports the modules
leaves such a process behind. On one machine, while it generates data or trains a stage on one core, the other core can
do so for the actors that come next. Nothing depends on it: without it they start as usual, only later.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any


def warm_up_processes(count: int, modules: Sequence[str], env_vars: dict[str, str] | None = None) -> None:
    """Begin to make `count` idle processes that have imported `modules`; returns at once.

    Args:
        env_vars: of the runtime environment that the actors to come will have; None: they have none.
    """
    import ray

    if len(ray.nodes()) > 1:
        return  # on a cluster the processes would lie on any node
    options: dict[str, Any] = {"num_cpus": 0, "max_retries": 0}
    if env_vars is not None:
        options["runtime_env"] = {"env_vars": env_vars}
    task = ray.remote(**options)(_import_modules)
    for _ in range(count):
        task.remote(tuple(modules))


def _import_modules(modules: tuple[str, ...]) -> None:
    for name in modules:
        import_module(name)
