"""How does one thread read a video while another one computes? Through a queue with room for a few items."""

from collections.abc import Iterator
from contextlib import contextmanager
from queue import Full, Queue
from threading import Event, Thread
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")

_LOOK_S = 0.1  # how often a thread that cannot hand over an item looks whether anybody still wants it


class _End(NamedTuple):
    error: BaseException | None


@contextmanager
def ahead(items: Iterator[Item], most: int) -> Iterator[Iterator[Item]]:
    """The same items, made by a thread that is up to `most` items ahead. Its error is raised here, in its turn.

    The thread ends with the `with` block, at the latest after the item that it is making. `items` is closed then.
    """
    queue: Queue[Item | _End] = Queue(most)
    unwanted = Event()

    def put(item: Item | _End) -> None:
        while not unwanted.is_set():
            try:
                return queue.put(item, timeout=_LOOK_S)
            except Full:
                continue

    def make() -> None:
        try:
            for item in items:
                put(item)
                if unwanted.is_set():
                    return
            put(_End(None))
        except BaseException as error:  # raised in the other thread
            put(_End(error))
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()

    def taken() -> Iterator[Item]:
        while not isinstance(item := queue.get(), _End):
            yield item
        if item.error is not None:
            raise item.error

    thread = Thread(target=make, name="w3ray-ahead", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        unwanted.set()
        thread.join()
