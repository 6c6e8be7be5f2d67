"""Which GPUs does a cluster have, and what can they compute?"""

from collections.abc import Mapping, Sequence

ACCELERATOR_TYPE = "accelerator_type:"
"""Before the type of a node's GPUs, in the names of its resources in Ray."""

_WITH_BF16 = (
    "A10G", "A100", "A100-40G", "A100-80G", "L4", "L40S", "H100", "H200", "H20", "B200", "B300", "GB200", "GB300",
    "RTX-PRO-6000",
)  # fmt: skip
"""NVIDIA's types from Ampere on, by Ray's names (`ray.util.accelerators`). Earlier ones only imitate bf16, slowly."""


def have_bf16(nodes: Sequence[Mapping[str, float]], worker: Mapping[str, float]) -> bool:
    """Whether each GPU that a worker may get computes in bf16. False if the type of one is unknown, or there is none.

    Args:
        nodes: what each node of the cluster has (`w3ray.cluster.connect.node_resources`).
        worker: what one worker asks of Ray.
    """
    if not worker.get("GPU"):
        return False
    able = [node for node in nodes if all(node.get(name, 0.0) >= amount for name, amount in worker.items())]
    types = [
        {name.removeprefix(ACCELERATOR_TYPE) for name in node if name.startswith(ACCELERATOR_TYPE)} for node in able
    ]
    return bool(types) and all(of_node and of_node <= set(_WITH_BF16) for of_node in types)
