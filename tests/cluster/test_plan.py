"""The resource plan: it fits and leaves CPUs for decoding, or it is refused with the numbers."""

import pytest

from w3ray.cluster.plan import READ_CPUS, plan_resources
from w3ray.errors import InputError


def plan(cpus, gpus=0, workers=1, use_gpu="auto", decoders="auto", cpus_per_worker=None, **more):
    return plan_resources(
        workers=workers if isinstance(workers, tuple) else (workers, workers),
        use_gpu=use_gpu,
        decoders=decoders,
        cpus_per_worker=cpus_per_worker,
        **{"nodes": [{"CPU": cpus, "GPU": gpus}], **more},
    )


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 8, 16, 64, 256])
@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("gpus", [0, 8])
def test_what_is_planned_fits_and_leaves_reading_its_share(cpus, workers, gpus):
    if workers > cpus:
        with pytest.raises(InputError, match=f"{workers} workers need {workers} CPUs, but the cluster has {cpus}"):
            plan(cpus, gpus, workers)
        return
    p = plan(cpus, gpus, workers)
    used = p.workers * p.worker_cpus + p.decoders * p.decoder_cpus
    assert used <= cpus - READ_CPUS + 1e-9
    assert p.decoders >= 1
    assert p.worker_gpus == (1.0 if gpus else 0.0)
    for share in (p.worker_cpus, p.decoder_cpus):
        assert share < 1 or share == int(share), "Ray accepts fractions below one CPU, and whole numbers above"
    assert p.trainer_threads == max(1, int(p.worker_cpus))


def test_workers_leave_the_nodes_of_decoders_to_them_in_any_order_of_the_nodes():
    """Ray lists nodes in any order. A run that fits was refused if the node of the decoders came first."""
    nodes = [{"CPU": 2}, {"CPU": 2, "decode": 2}]
    found, turned = (
        plan(None, workers=1, nodes=some, decoder_resources={"decode": 1}) for some in (nodes, nodes[::-1])
    )
    assert found == turned
    assert found.decoders == 2


def test_trainers_on_gpus_leave_the_cpus_to_decoders():
    p = plan(16, 4, 4)
    assert (p.worker_cpus, p.decoders, p.decoder_cpus) == (1.0, 11, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(cpus=2, workers=3), "3 workers need 3 CPUs, but the cluster has 2"),
        (dict(cpus=8, gpus=1, workers=2, use_gpu=True), "2 workers need 2 GPUs, but the cluster has 1"),
        (dict(cpus=2, workers=1, cpus_per_worker=2.0), "do not fit the cluster's 2 CPUs"),
        (dict(cpus=4, workers=2, cpus_per_worker=2.0), "do not fit the cluster's 4 CPUs"),
        (dict(cpus=2, workers=1, decoders=40), "do not fit the cluster's 2 CPUs"),
    ],
)
def test_errors_hold_the_numbers(arguments, message):
    with pytest.raises(InputError, match=message):
        plan(**arguments)


HEAD, DECODE, TRAIN = {"CPU": 1}, {"CPU": 8, "decode": 8}, {"CPU": 4, "GPU": 2}


def test_decoders_take_the_nodes_that_are_theirs():
    p = plan(None, workers=4, nodes=[HEAD, DECODE, DECODE, TRAIN, TRAIN], decoder_resources={"decode": 1})
    assert (p.decoders, p.worker_gpus) == (16, 1.0)
    assert p.decoder_bundle() == {"CPU": 0.9, "decode": 1.0}, "the rest of the node's CPU is for reading"
    assert p.worker_bundle() == {"CPU": 1.0, "GPU": 1.0}


@pytest.mark.parametrize(("cpus", "workers"), [(2, 1), (4, 3), (8, 6), (16, 8)])
def test_elastic_workers_leave_the_decoders_their_cpus(cpus, workers):
    p = plan(None, workers=(1, 8), nodes=[{"CPU": cpus}])
    assert (p.least_workers, p.worker_cpus) == (1, 1.0)
    assert p.workers == workers
    assert p.workers * p.worker_cpus + p.decoders * p.decoder_cpus < cpus


def test_elastic_workers_are_planned_for_the_least():
    p = plan(None, workers=(1, 4), nodes=[HEAD, {"CPU": 4, "GPU": 1}])
    assert (p.least_workers, p.workers, p.worker_cpus) == (1, 4, 1.0)


def test_reading_keeps_its_share_beside_all_the_workers_there_is_room_for():
    nodes = [{"CPU": 0}, {"CPU": 2, "decode": 2}, {"CPU": 1, "trainer": 1}, {"CPU": 1, "trainer": 1}]
    p = plan(None, workers=(1, 2), nodes=nodes, worker_resources={"trainer": 1}, decoder_resources={"decode": 1})
    assert p.decoders == 1, "two would leave no CPU for Ray Data's read tasks when both workers run"


def test_a_growing_cluster_is_asked_for_what_is_not_there_yet():
    p = plan(None, workers=8, nodes=[HEAD], use_gpu=True, decoders=100, may_grow=True)
    assert (p.workers, p.decoders, p.decoder_cpus, p.worker_gpus) == (8, 100, 0.9, 1.0)
    with pytest.raises(InputError, match=r"set resources\.decoders and resources\.use_gpu"):
        plan(None, nodes=[HEAD], may_grow=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(nodes=[HEAD, TRAIN], decoder_resources={"decode": 1}), "no node of the cluster has 'decode'"),
        (
            dict(nodes=[{"CPU": 2}, {"CPU": 2}, {"CPU": 2}], cpus_per_worker=4.0, use_gpu=False),
            r"no node has room for worker 1 of 1 \(4 CPU\); the nodes have 2 CPU; 2 CPU; 2 CPU",
        ),
        (
            dict(nodes=[{"CPU": 4}, {"CPU": 2, "decode": 2}], decoder_resources={"decode": 1}, decoders=3),
            r"no node has room for decoder 3 of 3 \(0\.9 CPU, 1 decode\)",
        ),
    ],
)
def test_what_fits_in_sum_but_on_no_node_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        plan(None, **arguments)


@pytest.mark.parametrize(
    ("nodes", "more", "worker_cpus"),
    [
        ([{"CPU": 4.0}, {"CPU": 4.0}], {}, 4.0),
        (
            [{"CPU": 1.0, "trainer": 1.0}, {"CPU": 2.0, "decode": 2.0}, {"CPU": 2.0, "decode": 2.0}],
            {"worker_resources": {"trainer": 1}, "decoder_resources": {"decode": 1}},
            1.0,
        ),
    ],
)
def test_a_worker_is_no_larger_than_the_nodes_that_can_hold_it(nodes, more, worker_cpus):
    assert plan(0, nodes=nodes, **more).worker_cpus == worker_cpus
