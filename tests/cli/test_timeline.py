"""`w3ray run --profile-start` puts what it hears in order of time."""

from w3ray.cli._timeline import Timeline
from w3ray.events import Moment, Warned


def test_rows_and_lines():
    timeline, passed = Timeline(), []
    hear = timeline.before(passed.append)
    for event in (
        Moment(what="ended", stage="teacher", time_s=130.0),
        Warned(message="something else"),
        Moment(what="started ahead", stage="student", time_s=125.5),
        Moment(what="read", time_s=101.25),
    ):
        hear(event)
    assert len(passed) == 4
    assert timeline.rows(100.0) == [
        {"at_s": 1.25, "after_s": 1.25, "stage": None, "what": "read"},
        {"at_s": 25.5, "after_s": 24.25, "stage": "student", "what": "started ahead"},
        {"at_s": 30.0, "after_s": 4.5, "stage": "teacher", "what": "ended"},
    ]
    assert timeline.lines(100.0) == [
        "  second    after  stage    done",
        "    1.25     1.25           read",
        "   25.50    24.25  student  started ahead",
        "   30.00     4.50  teacher  ended",
    ]
