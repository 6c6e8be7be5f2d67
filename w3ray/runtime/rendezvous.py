"""Lets the training workers of one machine meet on its loopback interface.

The workers of `torch.distributed` meet at a store in the first worker. By default, Ray Train makes a store that listens
on every network interface without authentication. On a cluster of several machines the other workers must reach the
store, so there the default stays.
"""

import socket
from typing import Any

import ray.util
from ray.train.torch import TorchConfig

from w3ray.ray_internals import TorchBackend, get_address_and_port

_STORES: list[Any] = []
"""The stores of this process. A store listens as long as there is a reference to it."""


class MeetingConfig(TorchConfig):
    """Ray Train's settings of `torch.distributed`, with a store that listens only where the node does."""

    @property
    def backend_cls(self) -> type[TorchBackend]:
        return _Backend


class _Backend(TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        super().on_start(_WorkerGroup(worker_group), backend_config)


class _WorkerGroup:
    """Ray Train's worker group. Its first worker answers the request for an address with `_meeting_place`."""

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
    """Address and port of the store. If the node's address is loopback, the store is made here."""
    address = ray.util.get_node_ip_address()
    if address != "127.0.0.1":
        place: tuple[str, int] = get_address_and_port()
        return place
    from torch.distributed import TCPStore

    listener = socket.socket()
    listener.bind((address, 0))
    listener.listen()
    port = listener.getsockname()[1]
    # `multi_tenant`: the store that torch makes in this process for this port is then this store.
    # From here on the store owns the socket and closes it.
    store = TCPStore(
        address, port, is_master=True, wait_for_workers=False, multi_tenant=True, master_listen_fd=listener.detach()
    )
    _STORES[:] = [store]
    return address, port
