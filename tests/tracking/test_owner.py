"""A process is distinguished from a later one with the same number, and from one that is not visible here."""

import subprocess
import sys
import time
from dataclasses import replace

from w3ray.tracking import owner


def test_this_process_is_alive() -> None:
    assert owner.state(owner.this_process(), None) == "alive"


def test_ended_process_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert owner.state(replace(owner.this_process(), pid=child.pid, started="0"), None) == "dead"


def test_same_number_started_at_another_time_is_dead() -> None:
    assert owner.state(replace(owner.this_process(), started="1"), None) == "dead"


def test_other_machine_counts_by_its_heartbeat() -> None:
    elsewhere = replace(owner.this_process(), host="elsewhere")
    assert owner.state(elsewhere, None) == "unknown"
    assert owner.state(elsewhere, time.time() - 60) == "unknown"
    assert owner.state(elsewhere, time.time() - 2 * owner.SILENT_S) == "dead"


def test_tag_round_trip() -> None:
    assert owner.Owner.from_tag(owner.this_process().to_tag()) == owner.this_process()
    assert owner.Owner.from_tag("not ours") is None
