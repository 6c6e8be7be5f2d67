"""Who listens to a run gets one event at a time, and ends the run by raising, in the run's own thread."""

import threading
import time
from typing import Any

import pytest

from w3ray.errors import InputError
from w3ray.events import Event, Warned
from w3ray.pipeline.listener import Listener


def in_another_thread(listener: Listener, event: Event) -> BaseException | None:
    """Send an event as the thread does that talks to the tracking server. Returns what it raised there."""
    raised: list[BaseException] = []

    def send() -> None:
        try:
            listener(event)
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    thread.join()
    return raised[0] if raised else None


def test_what_it_raises_is_raised_at_once_in_the_runs_thread():
    def stop(event: Event) -> None:
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        Listener(stop)(Warned(message="a"))


def test_what_it_raises_in_another_thread_is_raised_at_the_next_event():
    heard: list[Any] = []

    def hear(event: Warned) -> None:
        heard.append(event.message)
        if event.message == "the server is gone":
            raise KeyboardInterrupt

    listener = Listener(hear)
    assert in_another_thread(listener, Warned(message="the server is gone")) is None, "tracking must go on"
    with pytest.raises(KeyboardInterrupt):
        listener(Warned(message="a"))
    listener(Warned(message="the run ends"))
    assert heard == ["the server is gone", "the run ends"]


def test_no_two_calls_overlap():
    inside: list[int] = []
    most: list[int] = []

    def hear(event: Event) -> None:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()

    listener = Listener(hear)
    threads = [threading.Thread(target=listener, args=(Warned(message="a"),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    listener(Warned(message="b"))
    for thread in threads:
        thread.join()
    assert most == [1] * 5


def test_secrets_are_hidden_and_nobody_need_listen():
    heard: list[Any] = []
    Listener(heard.append)(Warned(message="http://me:secret@host"))
    assert heard == [Warned(message="http://***@host")]
    Listener(None)(Warned(message="a"))
    with pytest.raises(InputError, match=r"^on_event must be a function that takes an event, not 3$"):
        Listener(3)  # type: ignore[arg-type]
