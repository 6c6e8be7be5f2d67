"""The next driver finds what an earlier driver could not deliver: all of it, once, and only if that driver ended."""

from pathlib import Path

from w3ray.tracking.journal import Journal, read_journal

URI = "http://tracking"


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True)


def test_delivered_operations_are_not_pending(tmp_path: Path) -> None:
    journal = Journal(tmp_path, URI)
    first, second = journal.append("metrics", "r", {"points": [1]}), journal.append("finish", "r", {})
    journal.done([first.number], {"run_ids": {"r": "abc"}})
    content = read_journal(lines(journal.path))
    assert content.uri == URI
    assert content.pending == [second]
    assert content.facts.run_ids == {"r": "abc"}


def test_line_cut_by_a_kill_is_left_out(tmp_path: Path) -> None:
    journal = Journal(tmp_path, URI)
    whole = journal.append("metrics", "r", {})
    journal.append("finish", "r", {})
    text = journal.path.read_text()
    assert read_journal((text[:-5]).splitlines(keepends=True)).pending == [whole]


def test_adopt_dead_drivers_journal(tmp_path: Path) -> None:
    dead = Journal(tmp_path, URI)
    dead.append("start", "r", {"name": "x"})
    dead.done([0], {"run_ids": {"r": "abc"}, "model_ids": {"m": "m-1"}})
    dead.append("metrics", "r", {"points": [[1, 2]]})
    dead.close(keep=True)
    journal = Journal(tmp_path, URI)
    operations, facts = journal.adopt(URI)
    assert [(found.kind, found.run, found.data) for found in operations] == [("metrics", "r", {"points": [[1, 2]]})]
    assert (facts.run_ids, facts.model_ids) == ({"r": "abc"}, {"m": "m-1"})
    assert list(tmp_path.iterdir()) == [journal.path]
    # It is now in the new journal, so this driver may die, too.
    again = read_journal(lines(journal.path))
    assert again.pending == operations
    assert again.facts.run_ids == {"r": "abc"}


def test_living_drivers_journal_and_other_servers_are_left_alone(tmp_path: Path) -> None:
    alive = Journal(tmp_path, URI)
    alive.append("metrics", "r", {})
    elsewhere = Journal(tmp_path, "http://elsewhere")
    elsewhere.append("metrics", "r", {})
    elsewhere.close(keep=True)
    journal = Journal(tmp_path, URI)
    assert journal.adopt(URI)[0] == []
    assert alive.path.exists()
    assert elsewhere.path.exists()


def test_finished_journal_is_removed(tmp_path: Path) -> None:
    journal = Journal(tmp_path, URI)
    journal.close(keep=False)
    assert list(tmp_path.iterdir()) == []
