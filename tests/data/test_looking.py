"""Videos are checked once, wherever they are. A killed import resumes. A cluster gives the result of one process."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pytest
from patience import PATIENCE_S, wait_until
from videos import write_frames

from w3ray.cli import main
from w3ray.data.importers import IMPORTERS, import_csv
from w3ray.data.importers import something_something_v1 as ssv1
from w3ray.data.importers._common import Clip
from w3ray.data.importers._looking import Journal, Looking, find_missing, looking, not_there, slices_of
from w3ray.data.importers._published import SplitList, is_file, published_manifest
from w3ray.data.manifest import read_manifest
from w3ray.errors import InputError
from w3ray.storage import StorageFailing, file_system

REPO = Path(__file__).parents[2]


class Noted(list):
    """Collects the lines that an import prints for its user."""

    def __call__(self, line: str) -> None:
        self.append(line)


def there(marks: Path, uris) -> list[int]:
    """Checks files, and records which ones were checked."""
    for uri in uris:
        (marks / Path(uri).name).touch()
    return not_there(uris)


def files(folder: Path, count: int) -> list[str]:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.mp4").write_bytes(b"x")
    return [str(folder / f"{number}.mp4") for number in range(count)]


def look_for(uris, marks: Path, **how):
    """The missing videos, and the names of the videos that were checked."""
    marks.mkdir(exist_ok=True)
    for mark in marks.iterdir():
        mark.unlink()
    with looking(Looking(**how)):
        ask = partial(there, marks)
        missing = find_missing(
            slices_of(uris),
            lambda places: [uris[place] for place in places],
            len(uris),
            local=ask,
            remote=ask,
            key=str,
            question="file",
        )
    return missing.tolist(), {mark.name for mark in marks.iterdir()}


class TestJournal:
    def test_only_what_was_missing_is_looked_for_again(self, tmp_path):
        uris = files(tmp_path / "v", 1500)  # two slices
        for name in ("3.mp4", "1400.mp4"):
            (tmp_path / "v" / name).unlink()
        where = str(tmp_path / "m.parquet.looked")
        seen, notes = [], Noted()
        missing, asked = look_for(
            uris, tmp_path / "marks", journal=Journal(where), progress=lambda *now: seen.append(now)
        )
        assert (missing, len(asked)) == ([3, 1400], 1500)
        assert seen == [(1024, 1500), (1500, 1500)]
        (tmp_path / "v" / "3.mp4").write_bytes(b"x")
        missing, asked = look_for(uris, tmp_path / "marks", journal=Journal(where), note=notes)
        assert (missing, asked) == ([1400], {"3.mp4", "1400.mp4"})
        assert notes == [f"{where}: 1498 of 1500 videos were found before; remove the file to look for all of them"]
        missing, asked = look_for(uris, tmp_path / "marks", journal=Journal(where))
        assert (missing, asked) == ([1400], {"1400.mp4"})
        # In another list, only the videos that are new are checked.
        missing, asked = look_for(uris[:1024] + uris[1100:], tmp_path / "marks", journal=Journal(where))
        assert (missing, len(asked)) == ([1324], 400)

    def test_nothing_is_kept_where_nothing_is_there(self, tmp_path):
        where = tmp_path / "m.parquet.looked"
        missing, _ = look_for([str(tmp_path / "none.mp4")], tmp_path / "marks", journal=Journal(str(where)))
        assert missing == [0]
        assert not where.exists()

    def test_another_file_in_its_place_is_left_alone(self, tmp_path):
        for content in (b"my notes", b"\xff", b"", b"w3ray: which videos an import has looked for\n[1]"):
            (tmp_path / "x.looked").write_bytes(content)
            with pytest.raises(InputError, match=r"x\.looked: (not the journal of an import|cannot be read)"):
                Journal(str(tmp_path / "x.looked"))
            assert (tmp_path / "x.looked").read_bytes() == content

    def test_a_name_that_is_no_text(self, tmp_path):
        uris = [*files(tmp_path / "v", 2), os.fsdecode(os.fsencode(tmp_path / "v") + b"/\xff.mp4")]
        assert look_for(uris, tmp_path / "m", journal=Journal(str(tmp_path / "j")))[0] == [2]


def test_a_video_that_is_gone_since_is_found_after_the_journal_is_removed(tmp_path, capfd):
    """The note is true. A finished import leaves no journal."""
    videos = files(tmp_path / "v", 3)
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"{uri},x\n" for uri in [*videos, "late.mp4"]))
    words = ["data", "import", "csv", str(tmp_path / "list.csv"), "--out", str(tmp_path / "m.parquet")]
    assert main(words) == 2
    assert "(1 of 4 are missing)" in capfd.readouterr().err
    assert (tmp_path / "m.parquet.looked").is_file()
    (tmp_path / "late.mp4").write_bytes(b"x")
    assert main(words) == 0
    assert "3 of 4 videos were found before" in capfd.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["late.mp4", "list.csv", "m.parquet", "v"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
class TestOnCluster:
    def test_it_says_what_one_process_says(self, tmp_path):
        uris = files(tmp_path / "v", 20_000)  # more slices than one task takes
        for number in range(0, 20_000, 777):
            os.unlink(uris[number])
        here, _ = look_for(uris, tmp_path / "marks")
        where = str(tmp_path / "j")
        missing = []
        for _ in range(2):
            with looking(Looking(on_cluster=True, journal=Journal(where))):
                missing += [
                    find_missing(
                        slices_of(uris),
                        lambda places: [uris[place] for place in places],
                        len(uris),
                        local=not_there,
                        remote=not_there,
                        key=str,
                        question="file",
                    ).tolist()
                ]
        assert missing == [here, here]

    def test_a_published_set_with_a_question_of_its_own(self, tmp_path):
        files(tmp_path / "v", 4)
        clips = [
            (at, Clip(path=f"{at}.mp4", uri=f"{tmp_path}/v/{at}.mp4", label="a", split="train")) for at in range(6)
        ]
        wanted = 2

        def is_new(clip: Clip) -> bool:
            return is_file(clip) and int(Path(clip.uri).stem) >= wanted

        def rows(**how):
            with looking(Looking(**how)):
                return published_manifest(
                    [SplitList(file=tmp_path / "l", clips=clips)], classes=["a"], flip_map=None,
                    videos=str(tmp_path / "v"), is_there=is_new, partial=True, note=Noted(),
                ).table["clip_id"].to_pylist()  # fmt: skip

        assert rows(on_cluster=True) == rows() == ["2.mp4", "3.mp4"]


def upload(names, content: bytes = b"x") -> None:
    filesystem, _ = file_system("s3://bucket")
    for name in names:
        with filesystem.open_output_stream(f"bucket/{name}") as file:
            file.write(content)


class TestObjectStorage:
    def test_few_files_are_asked_for_and_many_are_listed(self, tmp_path, s3):
        names = [f"few/{number} ü#%.mp4" for number in range(3)] + [f"many/{number}.mp4" for number in range(20)]
        upload([f"set/{name}" for name in names])
        source = tmp_path / "list.csv"
        source.write_text("path,label\n" + "".join(f"{name},x\n" for name in names))
        s3.forget()
        manifest = import_csv(source, root="s3://bucket/set")
        assert manifest.table["uri"][0].as_py() == "s3://bucket/set/few/0 ü#%.mp4"
        assert len(s3.requests("HEAD", "few/")) == 3
        assert not s3.requests(".*", "many/")  # a listing names only the bucket
        source.write_text(source.read_text() + "many/20.mp4,x\nnone/1.mp4,x\n")
        message = r"list\.csv:25: no file or folder s3://bucket/set/many/20\.mp4 \(2 of 25 are missing\)"
        with pytest.raises(InputError, match=message):
            import_csv(source, root="s3://bucket/set/")
        source.write_text("path,label\nfew//1.mp4,x\n")
        with pytest.raises(InputError, match=r"few//1\.mp4: not an address that can be looked for \(Empty path"):
            import_csv(source, root="s3://bucket/set")

    def test_a_published_set(self, tmp_path, s3, monkeypatch):
        monkeypatch.setattr(ssv1, "NUM_CLIPS", {"train": 20, "val": 1, "test": 1})
        classes = [f"Doing thing {number} with something" for number in range(174)]
        for kind, text in {
            "labels": "\n".join(classes),
            "train": "\n".join(f"{number};{classes[number]}" for number in range(20)),
            "validation": f"100;{classes[0]}",
        }.items():
            (tmp_path / f"something-something-v1-{kind}.csv").write_text(text)
        upload([f"v1/{number}/00001.jpg" for number in [*range(19), 100]])
        importer = IMPORTERS["something-something-v1"]
        with pytest.raises(InputError, match="s3://bucket/v1: 1 of 21 clips are missing or not whole: 19; get them"):
            importer(tmp_path, videos="s3://bucket/v1", note=Noted())
        notes = Noted()
        manifest = importer(tmp_path, videos="s3://bucket/v1/?region=us-east-1", partial=True, note=notes)
        assert manifest.splits() == {"train": 19, "val": 1}
        assert manifest.table["uri"][0].as_py() == "s3://bucket/v1/0?region=us-east-1"
        with pytest.raises(InputError, match="nothing is there"):
            importer(tmp_path, videos="s3://bucket/none", partial=True, note=notes)

    def test_kinetics(self, tmp_path, s3):
        rows = "abseiling,-3B32lodo2M,59,69,train\nabseiling,_4YTwq0-73Y,8,18,val\n"
        (tmp_path / "all.csv").write_text("label,youtube_id,time_start,time_end,split\n" + rows)
        upload(["k400/train/a b/-3B32lodo2M_000059_000069.mp4"])
        upload(["k400/val/_4YTwq0-73Y_000008_000018.mkv"], b"")  # empty, so not complete
        manifest = IMPORTERS["kinetics"](tmp_path, videos="s3://bucket/k400", partial=True, note=Noted())
        assert manifest.table["uri"].to_pylist() == ["s3://bucket/k400/train/a b/-3B32lodo2M_000059_000069.mp4"]

    def test_a_store_that_fails_is_not_a_missing_video(self, tmp_path, s3, monkeypatch):
        monkeypatch.setenv("W3RAY_STORAGE_DEADLINE_S", "0.5")
        (tmp_path / "list.csv").write_text("path,label\na/1.mp4,x\n")
        s3.fail("/bucket", "500")
        try:
            with pytest.raises(StorageFailing, match="looking for it failed"):
                import_csv(tmp_path / "list.csv", root="s3://bucket/set")
        finally:
            s3.heal()

    def test_a_manifest_and_its_journal_in_the_store(self, tmp_path, s3, capfd):
        upload(["there/1.mp4"])
        (tmp_path / "list.csv").write_text("path,label\n1.mp4,x\n2.mp4,x\n")
        words = ["data", "import", "csv", str(tmp_path / "list.csv"), "--root", "s3://bucket/there"]
        words += ["--out", "s3://bucket/there/m.parquet"]
        filesystem, _ = file_system("s3://bucket")

        def found() -> list[str]:
            infos = filesystem.get_file_info(pafs.FileSelector("bucket/there"))
            return sorted(info.base_name for info in infos)

        assert main(words) == 2
        assert found() == ["1.mp4", "m.parquet.looked"]
        upload(["there/2.mp4"])
        assert main(words) == 0
        assert found() == ["1.mp4", "2.mp4", "m.parquet"]


def test_killed_and_going_on(tmp_path, s3):
    """kill -9 during an import: the same command checks the rest, and gets the result of an undisturbed import."""
    folders = [f"{number:02d}" for number in range(80)]
    upload([f"kill/{folder}/{number}.mp4" for folder in folders for number in range(2)])
    lines = [f"{folder}/{number}.mp4,x" for folder in folders for number in range(2)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *lines]) + "\n")
    script = "import sys; from w3ray.cli import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", script, "data", "import", "csv", str(tmp_path / "list.csv")]
    words += ["--root", "s3://bucket/kill", "--out", str(tmp_path / "m.parquet"), "--json"]
    journal = tmp_path / "m.parquet.looked"
    s3.fail("/kill/60/", "stall")
    process = subprocess.Popen(words, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def begun() -> bool:
        assert process.poll() is None, process.communicate()
        return journal.exists()

    wait_until(begun, every_s=0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "m.parquet").exists()
    looked = len(journal.read_text().splitlines()) - 1
    assert 0 < looked < len(folders)
    s3.heal()
    s3.forget()
    run = subprocess.run(words, cwd=REPO, capture_output=True, text=True, timeout=120, check=True)
    assert f"{2 * looked} of 160 videos were found before" in run.stderr
    assert len(s3.requests("HEAD", r"/kill/\d\d/")) == 160 - 2 * looked
    document = json.loads(run.stdout)
    undisturbed = import_csv(tmp_path / "list.csv", root="s3://bucket/kill")
    assert document["fingerprint"] == undisturbed.fingerprint() == read_manifest(tmp_path / "m.parquet").fingerprint()
    assert not journal.exists()


def test_importers_need_no_ray(tmp_path):
    files(tmp_path / "v", 1)
    (tmp_path / "list.csv").write_text("path,label\nv/0.mp4,x\n")
    lines = ["import sys", "from w3ray.data.importers import import_csv", "import_csv(sys.argv[1])"]
    script = "\n".join([*lines, "sys.exit('ray' in sys.modules)"])
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "list.csv")], cwd=REPO, check=True, timeout=PATIENCE_S)


def test_slices():
    uris = ["a.mp4"] * 1025 + ["s3://b/x/1", "https://h/1", "s3://b/y/1", "s3://b/x/2", "s3://b/x/3?region=r"]
    found = [(cut.places.tolist(), cut.remote) for cut in slices_of(uris)]
    assert found == [
        (list(range(1024)), False), ([1024], False), ([1025, 1028], True), ([1027], True), ([1029], True)
    ]  # fmt: skip
    assert np.concatenate([cut.places for cut in slices_of(uris)]).size == len(uris) - 1


def test_frames_with_a_gap_are_not_whole(tmp_path, monkeypatch):
    from w3ray.data.importers._published import is_frames

    folder = write_frames(tmp_path / "1", 4)
    clip = Clip(path="1", uri=str(folder), label="x")
    assert is_frames(clip)
    (folder / "00002.jpg").unlink()
    assert not is_frames(clip)
    assert not is_file(clip)  # a folder is not a file
