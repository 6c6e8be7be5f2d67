"""When was each part of a run's start and end done? `w3ray run --profile-start` prints this."""

from collections.abc import Callable
from typing import Any

from w3ray.events import Event, Moment


class Timeline:
    """Collects moments. Those of a stage that started ahead of its turn come late, so they are put in order by time."""

    def __init__(self) -> None:
        self._moments: list[Moment] = []

    def reached(self, what: str) -> None:
        """Something is done now, before the run tells events."""
        self._moments.append(Moment(what=what))

    def before(self, on_event: Callable[[Event], None]) -> Callable[[Event], None]:
        """A function that keeps the moments among its events, and passes all events on."""

        def hear(event: Event) -> None:
            if isinstance(event, Moment):
                self._moments.append(event)
            on_event(event)

        return hear

    def rows(self, started_s: float) -> list[dict[str, Any]]:
        """The moments in order of time: seconds since `started_s`, seconds since the moment before, stage, what."""
        rows, before_s = [], started_s
        for moment in sorted(self._moments, key=lambda moment: moment.time_s):
            at_s, after_s = moment.time_s - started_s, moment.time_s - before_s
            rows.append(
                {"at_s": round(at_s, 3), "after_s": round(after_s, 3), "stage": moment.stage, "what": moment.what}
            )
            before_s = moment.time_s
        return rows

    def lines(self, started_s: float) -> list[str]:
        """The rows as a table, with a heading."""
        rows = self.rows(started_s)
        width = max([len("stage"), *(len(row["stage"] or "") for row in rows)])
        lines = [f"{'second':>8} {'after':>8}  {'stage':<{width}}  done"]
        lines += [
            f"{row['at_s']:8.2f} {row['after_s']:8.2f}  {row['stage'] or '':<{width}}  {row['what']}" for row in rows
        ]
        return lines
