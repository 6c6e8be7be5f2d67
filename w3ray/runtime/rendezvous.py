"""Where do the training workers of one machine meet?

On its loopback. The workers of `torch.distributed` meet at a store in the first worker. As Ray Train makes it, the
store listens on every network interface and asks nobody who they are. On a cluster of several machines the others must
reach it, so there it stays as Ray Train makes it.
"""

import socket
from typing import Any

import ray.util
from ray.train.torch import TorchConfig

from w3ray.ray_internals import TorchBackend, get_address_and_port

_STORES: list[Any] = []
"""The stores of this process: a store listens as long as somebody holds it."""


class MeetingConfig(TorchConfig):
    """Ray Train's settings of `torch.distributed`, with a store that listens no further than the node does."""

    @property
    def backend_cls(self) -> type[TorchBackend]:
        return _Backend


class _Backend(TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        super().on_start(_WorkerGroup(worker_group), backend_config)


class _WorkerGroup:
    """Ray Train's worker group, but its first worker answers the question for an address with `_meeting_place`."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def __getattr__(self, name: str) -> Any:
        return getattr(self._group, name)

    def __len__(self) -> int:
        return len(self._group)

    def execute_single(self, rank: int, function: Any, *args: Any, **kwargs: Any) -> Any:
        if function is get_address_and_port:
            function = _meeting_place
        return self._group.execute_single(rank, function, *args, **kwargs)


def _meeting_place() -> tuple[str, int]:
    """Address and port of the store. On a node whose address is the loopback the store is made here."""
    address = ray.util.get_node_ip_address()
    if address != "127.0.0.1":
        place: tuple[str, int] = get_address_and_port()
        return place
    from torch.distributed import TCPStore

    listener = socket.socket()
    listener.bind((address, 0))
    listener.listen()
    port = listener.getsockname()[1]
    # `multi_tenant`: the store that torch makes for this port, in this process, is then this one.
    # The store closes the socket: it owns it from here on.
    store = TCPStore(
        address, port, is_master=True, wait_for_workers=False, multi_tenant=True, master_listen_fd=listener.detach()
    )
    _STORES[:] = [store]
    return address, port
