"""Written files appear complete or not at all, on a disk and on object storage."""

import os
import threading
from pathlib import Path

import pytest
from patience import PATIENCE_S

from w3ray.errors import InputError
from w3ray.storage import (
    append_text,
    modified_s,
    remove_tree,
    replacing,
    replacing_folder,
    require_writable,
    storage_path,
    take_lock,
    wait_for_lock,
    write_bytes,
    write_json,
    write_text,
)


@pytest.fixture(params=["disk", "memory"])
def folder(request, tmp_path):
    return storage_path(str(tmp_path / "new") if request.param == "disk" else f"memory://writing/{tmp_path.name}")


def write_half(opened) -> None:
    with opened as place:
        (place / "half" if place.is_dir() else place).write_text("ne")
        raise KeyError


def test_a_file_is_replaced_as_a_whole(folder):
    file = folder / "a" / "b.txt"
    write_text(file, "old")
    with replacing(file, durable=True) as part:
        part.write_text("new")
        assert file.read_text() == "old", "readers see the old one until the new one is complete"
    assert file.read_text() == "new"
    assert [path.name for path in (folder / "a").iterdir()] == ["b.txt"]


def test_an_error_leaves_the_old_file_and_nothing_else(folder):
    file = folder / "b.txt"
    write_bytes(file, b"old")
    with pytest.raises(KeyError):
        write_half(replacing(file))
    assert file.read_bytes() == b"old"
    assert [path.name for path in folder.iterdir()] == ["b.txt"]


def test_folders_above_are_made_or_must_be_there(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "absent" / "a", parents=False) as part:
        part.write_text("x")
    write_json(tmp_path / "absent" / "a", {"x": 1})
    assert (tmp_path / "absent" / "a").read_text() == '{\n  "x": 1\n}'


def test_text_is_added_to_the_end(folder):
    if isinstance(folder, Path):
        folder.mkdir()
    for line in ("a\n", "é\n"):
        append_text(folder / "log", line)
    assert (folder / "log").read_text(encoding="utf-8") == "a\né\n"
    assert modified_s(folder / "log") > 1e9 or not isinstance(folder, Path)


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    folder = tmp_path / "above" / "folder"
    for content in ("old", "new"):
        with replacing_folder(folder, durable=True) as new:
            (new / content).write_text(content)
            assert folder.exists() == (content == "new")
    assert [path.name for path in folder.iterdir()] == ["new"]
    with pytest.raises(KeyError):
        write_half(replacing_folder(folder))
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]


def test_the_old_folder_comes_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    with replacing_folder(folder) as new:
        (new / "old").write_text("")
    real = Path.rename

    def rename(self, target):
        if ".new-" in self.name:
            raise OSError("the disk is gone")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="the disk is gone"), replacing_folder(folder) as new:
        pass
    assert [path.name for path in folder.iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_folder_that_holds_something_can_be_left(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with replacing_folder(folder, over=False) as new:  # an empty one holds nothing
        (new / "first").write_text("")
    with pytest.raises(OSError), replacing_folder(folder, over=False) as new:
        (new / "second").write_text("")
    assert [path.name for path in folder.iterdir()] == ["first"]


def test_a_tree_is_removed(folder):
    for name in ("a/b", "a/c/d", "e"):
        write_text(folder / name, "x")
    remove_tree(folder / "a")
    assert [path.name for path in folder.iterdir()] == ["e"]


def test_where_nothing_can_be_written_is_said(tmp_path):
    require_writable(tmp_path / "not" / "yet" / "there")
    assert list(tmp_path.iterdir()) == []
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        require_writable(file)


def test_one_at_a_time_holds_the_lock_of_a_folder(tmp_path):
    first = take_lock(tmp_path)
    assert first is not None
    assert take_lock(tmp_path) is None
    told, held = [], []
    waiting = threading.Thread(target=lambda: held.append(wait_for_lock(tmp_path, lambda: told.append(os.getpid()))))
    waiting.start()
    waiting.join(1.2)
    assert held == []
    assert len(told) == 1, "once, however long it waits"
    first.close()
    waiting.join(PATIENCE_S)
    held[0].close()
    assert len(told) == 1
