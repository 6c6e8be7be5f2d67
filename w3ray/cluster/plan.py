"""Can this run fit on this cluster, and who gets which CPUs?

This is decided before anything starts, from numbers alone. A decoder pool that takes every CPU starves Ray Data's read
tasks, and the run hangs without a message. So a share of the CPUs is always left for reading, and a run that cannot fit
is refused with the numbers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from w3ray.cluster.accelerators import ACCELERATOR_TYPE
from w3ray.errors import InputError

READ_CPUS = 0.25
"""CPUs left free for Ray Data's read tasks."""

_MIN_CPUS = 0.1

_OWN_NODE_CPUS = 0.9
"""CPUs of a decoder on nodes that only decode. The rest is for reading there, whatever other nodes come and go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourcePlan:
    """Who gets what, in Ray's logical CPUs and GPUs. `trainer_threads` is what each trainer gives to torch.

    `workers` is the maximum. If `least_workers` is lower, as many workers run as the cluster has room for.
    """

    least_workers: int
    workers: int
    worker_cpus: float
    worker_gpus: float
    trainer_threads: int
    decoders: int
    decoder_cpus: float
    cluster_cpus: float
    cluster_gpus: float
    worker_resources: Mapping[str, float] = field(default_factory=dict)
    decoder_resources: Mapping[str, float] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        return asdict(self)

    def worker_bundle(self) -> dict[str, float]:
        """What one worker asks of Ray."""
        gpus = {"GPU": self.worker_gpus} if self.worker_gpus else {}
        return {"CPU": self.worker_cpus, **gpus, **self.worker_resources}

    def decoder_bundle(self) -> dict[str, float]:
        """What one decoder asks of Ray."""
        return {"CPU": self.decoder_cpus, **self.decoder_resources}


def plan_resources(
    *,
    nodes: Sequence[Mapping[str, float]],
    workers: tuple[int, int],
    use_gpu: bool | str,
    decoders: int | str,
    cpus_per_worker: float | None,
    worker_resources: Mapping[str, float] | None = None,
    decoder_resources: Mapping[str, float] | None = None,
    may_grow: bool = False,
    read_cpus: float = READ_CPUS,
) -> ResourcePlan:
    """Share a cluster between trainers, decoders and reading.

    Args:
        nodes: what each node of the Ray cluster has: CPU, GPU and custom resources by Ray's names.
        workers: minimum and maximum of training workers, at least 1. If they differ, each worker has whole CPUs, and
            the maximum is lowered until the decoders fit.
        use_gpu: True, False, or "auto" (a GPU for each worker if there are enough).
        decoders: number of decoder actors, or "auto": one for each CPU that GPU trainers leave, or for each fourth CPU
            if trainers compute on CPUs; with `decoder_resources`, as many as the nodes with these resources hold.
        cpus_per_worker: CPUs for each worker, or None to derive them.
        worker_resources, decoder_resources: custom resources of each worker or decoder; only nodes that have them are
            used.
        may_grow: the cluster adds nodes on request, so the present nodes decide nothing.
        read_cpus: CPUs to leave for reading.

    Raises:
        InputError: the run cannot fit; the message holds the numbers.
    """
    least, most = workers
    worker_extra, decoder_extra = dict(worker_resources or {}), dict(decoder_resources or {})
    if may_grow:
        if decoders == "auto" or use_gpu == "auto":
            raise InputError(
                "resources.may_grow: the cluster adds nodes on request, so say what to request: set resources.decoders "
                "and resources.use_gpu"
            )
        gpu = bool(use_gpu)
        shares = _Shares(cpus_per_worker or 1.0, int(decoders), _OWN_NODE_CPUS)
    else:
        _check_custom(nodes, worker_resources=worker_extra, decoder_resources=decoder_extra)
        gpu = _gpu_for_each(nodes, least, use_gpu)
        if least < most:
            cpus_per_worker = cpus_per_worker or 1.0
            bundle = {"CPU": cpus_per_worker, **({"GPU": 1.0} if gpu else {}), **worker_extra}
            room = max(least, min(most, sum(_room(node, bundle) for node in nodes)))
            expected, shares = _share_of_most(
                nodes, range(room, least - 1, -1), gpu, decoders, cpus_per_worker, decoder_extra, read_cpus
            )
            if expected < room:  # more workers would take the CPUs of the decoders, and wait for them for ever
                most = expected
        else:
            expected = least
            shares = _share(nodes, expected, gpu, decoders, cpus_per_worker, decoder_extra, read_cpus)
        if cpus_per_worker is None and shares.worker_cpus > 1:
            # An even share of all CPUs may be more than any node that can hold a worker has.
            fits = _cpus_that_fit(nodes, expected, shares, {**({"GPU": 1.0} if gpu else {}), **worker_extra})
            shares = replace(shares, worker_cpus=fits)
    plan = ResourcePlan(
        least_workers=least,
        workers=most,
        worker_cpus=shares.worker_cpus,
        worker_gpus=1.0 if gpu else 0.0,
        # With more threads than cores, all threads wait at the barrier of each operator for the one that a decoder has
        # displaced.
        trainer_threads=max(1, int(shares.worker_cpus)),
        decoders=shares.decoders,
        decoder_cpus=shares.decoder_cpus,
        cluster_cpus=_total(nodes, "CPU"),
        cluster_gpus=_total(nodes, "GPU"),
        worker_resources=worker_extra,
        decoder_resources=decoder_extra,
    )
    if not may_grow:
        _check_places(nodes, plan)
    return plan


@dataclass(frozen=True, slots=True)
class _Shares:
    worker_cpus: float
    decoders: int
    decoder_cpus: float


def _check_custom(nodes: Sequence[Mapping[str, float]], **sections: Mapping[str, float]) -> None:
    for section, wanted in sections.items():
        for name in wanted:
            if not _total(nodes, name):
                raise InputError(
                    f"resources.{section}: no node of the cluster has {name!r}; start one with "
                    f"ray start --resources='{{\"{name}\": 4}}'"
                )


def _gpu_for_each(nodes: Sequence[Mapping[str, float]], workers: int, use_gpu: bool | str) -> bool:
    """Whether workers have GPUs. Raises InputError if there are fewer CPUs, or fewer wanted GPUs, than workers."""
    cpus, gpus = _total(nodes, "CPU"), _total(nodes, "GPU")
    if workers > cpus:
        raise InputError(
            f"resources.workers: {workers} workers need {workers} CPUs, but the cluster has {cpus:g}; "
            f"ask for at most {int(cpus)}"
        )
    gpu = gpus >= workers if use_gpu == "auto" else bool(use_gpu)
    if gpu and workers > gpus:
        raise InputError(
            f"resources.workers: {workers} workers need {workers} GPUs, but the cluster has {gpus:g}; "
            "ask for fewer workers or set resources.use_gpu=false"
        )
    return gpu


def _share_of_most(nodes: Sequence[Mapping[str, float]], workers: Sequence[int], *needs: Any) -> tuple[int, _Shares]:
    """The first of these numbers of workers that leaves enough for decoders and reading, and the shares.

    Raises: InputError if even the last one does not.
    """
    for number in workers[:-1]:
        try:
            return number, _share(nodes, number, *needs)
        except InputError:
            continue
    return workers[-1], _share(nodes, workers[-1], *needs)


def _share(
    nodes: Sequence[Mapping[str, float]],
    workers: int,
    gpu: bool,
    decoders: int | str,
    cpus_per_worker: float | None,
    decoder_extra: Mapping[str, float],
    read_cpus: float,
) -> _Shares:
    """Divide the CPUs between this number of workers, the decoders, and reading."""
    cpus = _total(nodes, "CPU")
    spare = cpus - read_cpus
    if decoders != "auto":
        num_decoders = int(decoders)
    elif decoder_extra:
        room = sum(_room(node, {"CPU": _OWN_NODE_CPUS, **decoder_extra}) for node in nodes)
        num_decoders = max(1, min(room, int((spare - workers * (cpus_per_worker or 1)) / _OWN_NODE_CPUS)))
    else:
        wish = int(spare - workers * (cpus_per_worker or 1)) if gpu else int(cpus) // 4
        num_decoders = max(1, wish)
    # On few CPUs all parts share the cores. With whole CPUs for each, a run that a laptop can do well would be refused.
    whole = _OWN_NODE_CPUS if decoder_extra else 1.0
    fits = num_decoders * whole + workers <= spare
    decoder_cpus = whole if fits else _round_down(0.5 * spare / (num_decoders + workers))
    left = spare - num_decoders * decoder_cpus
    worker_cpus = cpus_per_worker if cpus_per_worker is not None else _worker_share(left / workers, gpu)
    if decoder_cpus < _MIN_CPUS or worker_cpus < _MIN_CPUS or workers * worker_cpus > left + 1e-9:
        raise InputError(
            f"resources: {workers} workers x {worker_cpus:g} CPUs + {num_decoders} decoders x {decoder_cpus:g} CPUs + "
            f"{read_cpus:g} for reading do not fit the cluster's {cpus:g} CPUs; "
            "lower resources.workers, resources.decoders or resources.cpus_per_worker"
        )
    return _Shares(worker_cpus, num_decoders, decoder_cpus)


def _cpus_that_fit(
    nodes: Sequence[Mapping[str, float]], workers: int, shares: _Shares, extra: Mapping[str, float]
) -> float:
    """The largest whole number of CPUs, up to its share, with which each worker finds a node; at least 1."""
    for cpus in range(int(shares.worker_cpus), 1, -1):
        if sum(_room(node, {"CPU": float(cpus), **extra}) for node in nodes) >= workers:
            return float(cpus)
    return 1.0


def _check_places(nodes: Sequence[Mapping[str, float]], plan: ResourcePlan) -> None:
    """Raise InputError unless each process fits on one node. That the sums fit is not enough."""
    if (stuck := first_without_place(nodes, plan)) is not None:
        what, number, count, bundle = stuck
        there = "; ".join(show_resources(node) for node in nodes)
        raise InputError(
            f"resources: no node has room for {what} {number} of {count} ({show_resources(bundle)}); the nodes "
            f"have {there}; lower resources.workers, resources.decoders or resources.cpus_per_worker"
        )


def first_without_place(
    nodes: Sequence[Mapping[str, float]], plan: ResourcePlan, runs: int = 1
) -> tuple[str, int, int, Mapping[str, float]] | None:
    """The first process of `runs` runs of a plan that no node has room for; None if there is room for all.

    Returns what it is, its number, how many there are of its kind, and its bundle. Processes are placed first fit,
    workers before decoders, in the order in which Ray starts them. Nodes without the decoders' own resources come
    first, then small ones: Ray lists nodes in any order, and the answer must not depend on it.
    """
    left = sorted(
        (dict(node) for node in nodes),
        key=lambda node: (any(node.get(name) for name in plan.decoder_resources), node.get("CPU", 0.0)),
    )
    for what, count, bundle in (
        ("worker", plan.least_workers, plan.worker_bundle()),
        ("decoder", plan.decoders, plan.decoder_bundle()),
    ):
        for number in range(runs * count):
            node = next((node for node in left if _room(node, bundle)), None)
            if node is None:
                return what, number % count + 1, count, bundle
            for name, amount in bundle.items():
                node[name] -= amount
    return None


def _room(node: Mapping[str, float], bundle: Mapping[str, float]) -> int:
    """How many processes with this bundle a node holds."""
    return min(int(node.get(name, 0.0) / amount + 1e-9) for name, amount in bundle.items())


def _total(nodes: Sequence[Mapping[str, float]], name: str) -> float:
    return sum(float(node.get(name, 0.0)) for node in nodes)


def show_resources(resources: Mapping[str, float]) -> str:
    """Text such as "2 CPU, 1 GPU". Types of GPUs are no amounts, and are left out."""
    amounts = {name: amount for name, amount in resources.items() if not name.startswith(ACCELERATOR_TYPE)}
    return ", ".join(f"{amount:g} {name}" for name, amount in sorted(amounts.items()))


def _worker_share(share: float, gpu: bool) -> float:
    """CPUs of a worker. Ray takes fractions below one CPU and whole numbers above. A trainer on a GPU needs one CPU."""
    if share < 1:
        return _round_down(share)
    return 1.0 if gpu else float(int(share))


def _round_down(cpus: float) -> float:
    return math.floor(cpus * 100) / 100
