"""Can this run fit on this cluster, and who gets which CPUs?

Decided before anything starts, from numbers alone. A decoder pool that takes every CPU starves Ray Data's read tasks
and the run hangs without a word; so a share is always left for them, and a run that can not fit is refused with the
numbers.
"""

import math
from dataclasses import asdict, dataclass

from w3ray.errors import InputError

READ_CPUS = 0.25
"""CPUs left free for Ray Data's read tasks."""

_MIN_CPUS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourcePlan:
    """Who gets what, in Ray's logical CPUs and GPUs. `trainer_threads` is what each trainer gives to torch."""

    workers: int
    worker_cpus: float
    worker_gpus: float
    trainer_threads: int
    decoders: int
    decoder_cpus: float
    cluster_cpus: float
    cluster_gpus: float

    def describe(self) -> dict[str, float | int]:
        return asdict(self)


def plan_resources(
    *,
    cluster_cpus: float,
    cluster_gpus: float,
    workers: int,
    use_gpu: bool | str,
    decoders: int | str,
    cpus_per_worker: float | None,
) -> ResourcePlan:
    """Shares a cluster between trainers, decoders and reading.

    Args:
        cluster_cpus, cluster_gpus: what the whole Ray cluster has.
        workers: training workers, at least 1.
        use_gpu: True, False, or "auto" (a GPU for each worker where there are enough).
        decoders: decoder actors, or "auto": what the trainers leave, or a quarter of the CPUs where trainers compute
            on CPUs themselves.
        cpus_per_worker: CPUs for each worker, or None to derive them.

    Raises:
        InputError: the run can not fit; the message holds the numbers.
    """
    if workers > cluster_cpus:
        raise InputError(
            f"resources.workers: {workers} workers need {workers} CPUs, but the cluster has {cluster_cpus:g}; "
            f"ask for at most {int(cluster_cpus)}"
        )
    gpu = cluster_gpus >= workers if use_gpu == "auto" else bool(use_gpu)
    if gpu and workers > cluster_gpus:
        raise InputError(
            f"resources.workers: {workers} workers need {workers} GPUs, but the cluster has {cluster_gpus:g}; "
            "ask for fewer workers or set resources.use_gpu=false"
        )
    spare = cluster_cpus - READ_CPUS
    if decoders == "auto":
        wish = int(spare - workers * (cpus_per_worker or 1)) if gpu else int(cluster_cpus) // 4
        num_decoders = max(1, wish)
    else:
        num_decoders = int(decoders)
    # On few CPUs everything shares the cores: whole CPUs for each part would refuse a laptop what it can do well.
    decoder_cpus = 1.0 if num_decoders + workers <= spare else _round_down(0.5 * spare / (num_decoders + workers))
    left = spare - num_decoders * decoder_cpus
    worker_cpus = cpus_per_worker if cpus_per_worker is not None else _worker_share(left / workers, gpu)
    if decoder_cpus < _MIN_CPUS or worker_cpus < _MIN_CPUS or workers * worker_cpus > left + 1e-9:
        raise InputError(
            f"resources: {workers} workers x {worker_cpus:g} CPUs + {num_decoders} decoders x {decoder_cpus:g} CPUs + "
            f"{READ_CPUS:g} for reading do not fit the cluster's {cluster_cpus:g} CPUs; "
            "lower resources.workers, resources.decoders or resources.cpus_per_worker"
        )
    return ResourcePlan(
        workers=workers,
        worker_cpus=worker_cpus,
        worker_gpus=1.0 if gpu else 0.0,
        # A thread more than the trainer has cores makes all of them wait at each operator's barrier for the one that a
        # decoder pushed aside.
        trainer_threads=max(1, int(worker_cpus)),
        decoders=num_decoders,
        decoder_cpus=decoder_cpus,
        cluster_cpus=cluster_cpus,
        cluster_gpus=cluster_gpus,
    )


def _worker_share(share: float, gpu: bool) -> float:
    """Ray takes fractions below one CPU and whole numbers above; a trainer on a GPU needs no more than one."""
    if share < 1:
        return _round_down(share)
    return 1.0 if gpu else float(int(share))


def _round_down(cpus: float) -> float:
    return math.floor(cpus * 100) / 100
