"""Connects the training workers of a stage: where do they meet, and with which backend of `torch.distributed`?

This is a backend of Ray Train, as its `TorchConfig` is one, with two differences:

- On one machine, the workers meet at its loopback interface. `TorchConfig` makes a store that listens on every network
  interface without authentication. On a cluster of several machines the other workers must reach the store, so there
  it does the same.
- A stage's controller loads this module, and torch is imported only in the workers. `TorchConfig` imports it in the
  controller too, and each stage starts later (`benchmarks/results/weighing.json`).
"""

import logging
import os
import socket
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import ray.util
from ray.exceptions import GetTimeoutError
from ray.train.backend import Backend, BackendConfig

LOOPBACK = "127.0.0.1"
_LEAVE_TIMEOUT_S = 30.0
"""For the end of the process group. A worker that hangs is killed afterwards."""

_STORES: list[Any] = []
"""The stores of this process. A store listens as long as there is a reference to it."""

logger = logging.getLogger(__name__)


@dataclass
class MeetingConfig(BackendConfig):
    """How the workers of a stage meet.

    Args:
        backend: of `torch.distributed`: "gloo", or "cpu:gloo,cuda:nccl".
        timeout_s: seconds that a collective operation may take.
    """

    backend: str = "gloo"
    timeout_s: int = 1800

    @property
    def backend_cls(self) -> type[Backend]:
        return _Meeting

    @property
    def train_func_context(self) -> Any:
        return _on_its_gpu

    def to_dict(self) -> dict[str, Any]:
        return {"backend": self.backend, "timeout_s": self.timeout_s}


class _Meeting(Backend):
    share_cuda_visible_devices = True  # NCCL needs to see the GPUs of the node's other workers

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        place = worker_group.execute_single(0, _meeting_place)
        ranks = range(len(worker_group))
        ray.get(
            [
                worker_group.execute_single_async(
                    rank, _join, place, backend=backend_config.backend, timeout_s=backend_config.timeout_s
                )
                for rank in ranks
            ]
        )

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        try:
            ray.get(worker_group.execute_async(_leave), timeout=_LEAVE_TIMEOUT_S)
        except GetTimeoutError:
            logger.warning("the workers did not leave their process group within %g s", _LEAVE_TIMEOUT_S)


def _meeting_place() -> tuple[str, int]:
    """Address and port of the store, which this worker, the first, makes here."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    address = ray.util.get_node_ip_address()
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.bind((address if address == LOOPBACK else "", 0))
    listener.listen()
    port: int = listener.getsockname()[1]
    # `multi_tenant`: the store that torch makes in this process for this port is then this store.
    # From here on the store owns the socket and closes it.
    store = TCPStore(
        address, port, is_master=True, wait_for_workers=False, multi_tenant=True, master_listen_fd=listener.detach()
    )
    _STORES[:] = [store]
    return address, port


def _join(place: tuple[str, int], *, backend: str, timeout_s: int) -> None:
    """Join the process group of the stage's workers."""
    import ray.train
    import torch.distributed as dist

    context = ray.train.get_context()
    # As torchrun sets them: libraries read them.
    os.environ.update(
        MASTER_ADDR=place[0],
        MASTER_PORT=str(place[1]),
        RANK=str(context.get_world_rank()),
        WORLD_SIZE=str(context.get_world_size()),
        LOCAL_RANK=str(context.get_local_rank()),
        LOCAL_WORLD_SIZE=str(context.get_local_world_size()),
        NODE_RANK=str(context.get_node_rank()),
    )
    # A collective operation of NCCL that takes too long ends the process, instead of hanging for ever.
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    dist.init_process_group(backend, init_method="env://", timeout=timedelta(seconds=timeout_s))


def _leave() -> None:
    import torch
    import torch.distributed as dist

    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.destroy_process_group()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _on_its_gpu() -> AbstractContextManager[None]:
    """The context of a worker's training loop. The current GPU of torch is one for each thread."""
    import torch

    if torch.cuda.is_available():
        import ray.train.torch

        device = ray.train.torch.get_device()
        if device.type == "cuda":
            torch.cuda.set_device(device)
    return nullcontext()
