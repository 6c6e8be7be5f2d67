"""Who listens to a run? One function, which gets one event at a time."""

import threading
from collections.abc import Callable
from typing import Any

from w3ray._redact import redacted
from w3ray.errors import InputError
from w3ray.events import Event


class Listener:
    """Passes the events of a run on to a function, without secrets: events are shown and kept in logs.

    Most events come in the run's own thread. Those about the tracking server come in the thread that talks to it, and
    may come while the run waits. No two come at once. What the function raises ends the run, so it is raised in the
    run's thread: at once, or at the next event if it was raised in another one.

    Args:
        on_event: the function; None: nobody listens. Create this object in the run's own thread.

    Raises:
        InputError: it cannot be called.
    """

    def __init__(self, on_event: Callable[[Event], Any] | None) -> None:
        if on_event is not None and not callable(on_event):
            raise InputError(f"on_event must be a function that takes an event, not {on_event!r}")
        self._on_event = on_event
        self._thread, self._lock = threading.get_ident(), threading.RLock()
        self._raised: BaseException | None = None

    def __call__(self, event: Event) -> None:
        if self._on_event is None:
            return
        own = threading.get_ident() == self._thread
        with self._lock:
            if own and self._raised is not None:
                error, self._raised = self._raised, None
                raise error
            try:
                self._on_event(redacted(event))
            except BaseException as error:
                if own:
                    raise
                self._raised = error
