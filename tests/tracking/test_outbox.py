"""Delivery in order, with any fault of the store, and without delay for the caller.

The store is a list with a switch. The tests check when the outbox tries again. test_server.py does the same with a
real server.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from w3ray.tracking import outbox as outbox_module
from w3ray.tracking.journal import Journal, Operation, read_journal
from w3ray.tracking.outbox import Outbox, Refused, Unreachable


class ListStore:
    def __init__(self) -> None:
        self.received: list[int] = []
        self.down = False
        self.slow_s = 0.0
        self.on_deliver: Callable[[Operation], None] = lambda operation: None
        self.thread: threading.Thread | None = None

    def open(self) -> None:
        self.thread = threading.current_thread()
        if self.down:
            raise Unreachable("down")

    def healthy(self) -> bool:
        return not self.down

    def deliver(self, operations: list[Operation]) -> Any:
        time.sleep(self.slow_s)
        if self.down:
            raise Unreachable("down")
        self.on_deliver(operations[0])
        self.received += [operation.data["value"] for operation in operations]
        return operations[0].data["value"]

    def batch_size(self, operations: "deque[Operation]") -> int:
        return min(3, len(operations))

    def take_facts(self) -> dict[str, dict[str, str]]:
        return {}

    def heartbeat(self) -> None:
        pass


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "BACKOFF_FIRST_S", 0.02)
    monkeypatch.setattr(outbox_module, "COALESCE_S", 0.01)


@pytest.fixture
def store() -> ListStore:
    return ListStore()


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def outbox(store: ListStore, said: list[str], tmp_path: Path) -> Outbox:
    return Outbox(store, Journal(tmp_path, "uri"), said.append)


def put(outbox: Outbox, *values: int) -> None:
    for value in values:
        outbox.put("number", "r", {"value": value})


def test_order_across_an_outage(outbox: Outbox, store: ListStore, said: list[str], tmp_path: Path) -> None:
    outbox.start([])
    put(outbox, *range(10))
    assert outbox.flush(5)
    store.down = True
    put(outbox, *range(10, 30))
    time.sleep(0.2)
    store.down = False
    assert outbox.flush(5)
    delivery = outbox.close(5)
    assert store.received == list(range(30))
    assert (delivery.delivered, delivery.waiting, delivery.refused) == (30, 0, 0)
    assert list(tmp_path.iterdir()) == []
    assert len(said) == 2
    assert "does not answer" in said[0]
    assert "answers again" in said[1]


def test_put_does_not_wait_for_a_slow_store(outbox: Outbox, store: ListStore) -> None:
    store.slow_s = 0.5
    outbox.start([])
    started = time.perf_counter()
    put(outbox, *range(100))
    assert time.perf_counter() - started < 0.4
    store.slow_s = 0.0
    assert outbox.close(5).waiting == 0


def test_down_for_ever_keeps_everything(outbox: Outbox, store: ListStore) -> None:
    store.down = True
    outbox.start([])
    put(outbox, 1, 2)
    delivery = outbox.close(0.2)
    assert delivery.waiting == 2
    assert delivery.journal is not None
    with delivery.journal.open() as lines:
        assert [operation.data["value"] for operation in read_journal(lines).pending] == [1, 2]


def test_refused_operation_does_not_stop_the_next(
    outbox: Outbox, store: ListStore, said: list[str], tmp_path: Path
) -> None:
    def refuse_two(operation: Operation) -> None:
        if operation.data["value"] == 2:
            raise Refused("no twos")

    store.on_deliver = refuse_two
    store.batch_size = lambda operations: 1  # type: ignore[method-assign]
    outbox.start([])
    put(outbox, 1, 2, 3)
    delivery = outbox.close(5)
    assert store.received == [1, 3]
    assert delivery.refused == 1
    assert delivery.refused_file is not None
    assert "no twos" in delivery.refused_file.read_text()
    assert "no twos" in said[0]


def test_failing_operation_of_a_healthy_store_is_given_up(outbox: Outbox, store: ListStore) -> None:
    def fail_one(operation: Operation) -> None:
        if operation.data["value"] == 1:
            raise Unreachable("internal error")

    store.on_deliver = fail_one
    store.batch_size = lambda operations: 1  # type: ignore[method-assign]
    outbox.start([])
    put(outbox, 1, 2)
    assert outbox.flush(10)
    assert store.received == [2]
    assert outbox.close(5).refused == 1


def test_bug_in_a_handler_is_reported_and_passed(outbox: Outbox, store: ListStore, said: list[str]) -> None:
    def fail(operation: Operation) -> None:
        raise ZeroDivisionError("oops")

    store.on_deliver = fail
    outbox.start([])
    put(outbox, 1)
    assert outbox.close(5).refused == 1
    assert "ZeroDivisionError: oops" in said[0]


def test_wait_gives_result_and_gives_up_on_a_store_that_is_down(
    outbox: Outbox, store: ListStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "DOWN_GRACE_S", 0.1)
    outbox.start([])
    ticket = outbox.put("number", "r", {"value": 7})
    assert outbox.wait(ticket, 5)
    assert ticket.result == 7
    store.down = True
    ticket = outbox.put("number", "r", {"value": 8})
    started = time.perf_counter()
    assert not outbox.wait(ticket, 60)
    assert time.perf_counter() - started < 5
    outbox.close(0.1)


def test_wait_and_close_try_once_more_at_once(
    outbox: Outbox, store: ListStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "BACKOFF_FIRST_S", 60.0)
    monkeypatch.setattr(outbox_module, "DOWN_GRACE_S", 0.0)
    outbox.start([])
    store.down = True
    put(outbox, 1)
    assert not outbox.flush(5)
    store.down = False
    assert outbox.flush(5)
    store.down = True
    put(outbox, 2)
    assert not outbox.flush(5)
    store.down = False
    assert outbox.close(5).waiting == 0
    assert store.received == [1, 2]


def test_store_that_can_never_open(outbox: Outbox, store: ListStore) -> None:
    def refuse() -> None:
        raise Refused("wrong password")

    store.open = refuse  # type: ignore[method-assign]
    outbox.start([])
    assert outbox.wait(outbox.opened, 5)
    assert str(outbox.opened.error) == "wrong password"
    put(outbox, 1)
    assert outbox.close(1).waiting == 1
