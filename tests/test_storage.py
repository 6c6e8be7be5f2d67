"""Storage paths outside this disk, on a real S3 API that refuses, delays and disconnects on request."""

import http.server
import os
import pickle
import tempfile
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from w3ray.data.decoders import DecodeError, open_video
from w3ray.data.manifest import build_manifest, read_manifest, write_manifest
from w3ray.errors import InputError
from w3ray.storage import (
    DEADLINE_VARIABLE,
    RemotePath,
    StorageFailing,
    StorageRefused,
    _patient,
    _systems,
    fetched,
    file_digest,
    file_system,
    storage_path,
    upload,
    written_whole,
)


@pytest.fixture
def folder(s3, request, monkeypatch) -> RemotePath:
    s3.heal()
    s3.forget()
    monkeypatch.setenv(DEADLINE_VARIABLE, "8")
    return RemotePath(f"s3://bucket/{request.node.name.partition('[')[0]}")


@pytest.fixture
def short_pauses(monkeypatch) -> None:
    """Between the attempts, so that a test that counts them need not wait."""
    monkeypatch.setattr(_patient, "_PAUSE_FIRST_S", 0.02)


def test_local_places_are_paths(tmp_path):
    assert storage_path(str(tmp_path / "a")) == tmp_path / "a"
    assert storage_path(f"file://{tmp_path}") == tmp_path
    assert storage_path("runs") == Path("runs").absolute()


def test_a_place_is_read_in_another_process_too(folder):
    path = pickle.loads(pickle.dumps(folder / "a.txt"))
    path.write_text("hello")
    assert path.read_text() == "hello"
    assert (path.name, str(path.parent), path.exists(), path.is_dir()) == ("a.txt", str(folder), True, False)
    assert folder.is_dir()
    assert list(folder.iterdir()) == [path]
    assert pickle.loads(pickle.dumps(path.filesystem)) == path.filesystem
    with path.filesystem.open_input_stream(path.path) as stream:
        assert stream.read() == b"hello"
    path.unlink()
    path.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        path.read_bytes()


def test_other_file_systems_through_fsspec():
    path = storage_path("memory://bucket/folder/a.txt")
    path.write_text("hello")
    assert [found.read_text() for found in path.parent.iterdir()] == ["hello"]


@pytest.mark.parametrize("action", ["500", "503", "cut"])
def test_passing_faults_are_not_seen(s3, folder, action, short_pauses):
    path = folder / "a.txt"
    for method in ("PUT", "HEAD", "GET"):
        s3.fail("a.txt", action, method=method, times=2)
    path.write_text("hello")
    assert path.read_text() == "hello"
    assert len(s3.requests("PUT", "a.txt")) == 3
    s3.fail("/bucket", action, method="GET", times=2)  # listing
    assert list(folder.iterdir()) == [path]


def test_a_stalled_answer_is_given_up_and_asked_for_again(s3, folder, monkeypatch):
    monkeypatch.setenv(DEADLINE_VARIABLE, "60")
    monkeypatch.setattr(_systems, "_REQUEST_TIMEOUT_S", 1.0)
    _systems.inner.cache_clear()
    path = folder / "a.txt"
    path.write_text("hello")
    s3.fail("a.txt", "stall", method="GET", times=1)
    started = time.monotonic()
    assert path.read_text() == "hello"
    assert time.monotonic() - started < 30
    _systems.inner.cache_clear()


def test_a_failing_store_is_named_within_the_deadline(s3, folder, monkeypatch):
    monkeypatch.setenv(DEADLINE_VARIABLE, "1")
    path = folder / "a.txt"
    path.write_text("hello")
    s3.fail("test_a_failing")
    for operation in (path.read_bytes, lambda: path.write_text("x"), path.is_file, path.unlink, path.open):
        started = time.monotonic()
        with pytest.raises(StorageFailing, match=rf"^{path}: .+ failed \d times in \d s .*; run again when") as caught:
            operation()
        assert time.monotonic() - started < 30
        assert "\n" not in str(caught.value)
        assert "AWS Error" not in str(caught.value), "Ray Train would restart the upload"
        assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
    s3.heal()
    assert path.read_text() == "hello"


def test_what_is_refused_is_not_asked_again(s3, folder):
    s3.fail("a.txt", "403")
    with pytest.raises(StorageRefused, match=r"a\.txt: writing is refused .*check the bucket"):
        (folder / "a.txt").write_text("x")
    assert len(s3.requests("PUT", "a.txt")) == 1
    with pytest.raises(StorageRefused, match="NO_SUCH_BUCKET"):
        storage_path("s3://absent/b.txt").write_text("x")


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("s3://key:secret@bucket/a", r"s3://\*\*\*@bucket/a: no credentials in an address"),
        ("s3://bucket/a?colour=red", "unknown option 'colour'"),
        ("nonsense://bucket/a", "no file system for this address"),
    ],
)
def test_addresses_that_can_not_be_used(location, message):
    with pytest.raises(InputError, match=message) as caught:
        storage_path(location)
    assert "secret" not in str(caught.value)


def test_a_large_file_is_read_again_where_it_failed(s3, folder, tmp_path, short_pauses):
    content = os.urandom(5 << 20)
    (tmp_path / "large").write_bytes(content)
    path = folder / "large"
    path.upload(tmp_path / "large")
    s3.fail("large", method="GET", times=3, after=2)
    with path.open() as file:
        assert file.read(1000) == content[:1000]
        file.seek(-10, os.SEEK_END)
        assert file.read() == content[-10:]
        file.seek(0)
        assert file.read() == content
    assert file_digest(path) == file_digest(tmp_path / "large")


def test_a_folder_is_there_with_its_index_and_not_before(s3, folder, tmp_path):
    source = tmp_path / "checkpoint"
    (source / "inner").mkdir(parents=True)
    for name in ("a.bin", "index.json", "z.bin", "inner/b.bin"):
        (source / name).write_text(name)
    upload(source, folder, last="index.json")
    written = [line.rpartition(f"{folder.name}/")[2] for line in s3.requests("PUT", folder.name)]
    assert sorted(written[:-1]) == ["a.bin", "inner/b.bin", "z.bin"]
    assert written[-1] == "index.json"
    with fetched(folder) as copy:
        assert copy.name == folder.name
        assert (copy / "z.bin").read_text() == "z.bin"
    assert not copy.exists()

    s3.fail("z.bin", "403", method="PUT")  # a second write fails halfway
    with pytest.raises(StorageRefused):
        upload(source, folder, last="index.json")
    assert not (folder / "index.json").exists()
    s3.heal()
    with written_whole(folder, last="index.json") as copy:
        copy.mkdir()
        (copy / "index.json").write_text("new")
    assert (folder / "index.json").read_text() == "new"


def test_an_upload_ends_where_its_check_says_so(folder, tmp_path):
    source = tmp_path / "checkpoint"
    source.mkdir()
    for name in ("a", "index"):
        (source / name).write_text(name)
    asked = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 3:
            raise StorageFailing("enough")

    with pytest.raises(StorageFailing, match="enough"):
        upload(source, folder, last="index", check=check)
    assert [path.name for path in folder.iterdir()] == ["a"]


def test_a_full_disk_of_temporary_files_is_named(folder, small_disk, monkeypatch):
    disk = small_disk("1m")
    (folder / "a").write_bytes(bytes(2 << 20))
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    message = rf"its local copy in {disk} cannot be kept \(No space left on device\); .*set TMPDIR"
    with pytest.raises(StorageFailing, match=message), fetched(folder):
        pass


def test_a_manifest_lies_there_too(s3, folder, tmp_path):
    columns = {"clip_id": ["a"], "uri": [f"{folder}/videos/a.mp4"], "label": [0], "split": ["train"]}
    location = f"{folder}/clips.parquet"
    s3.fail("clips.parquet", method="PUT", times=1)
    write_manifest(build_manifest(columns, ["x"]), location)
    s3.fail("clips.parquet", method="GET", times=1)
    manifest = read_manifest(location)
    assert manifest.table["uri"].to_pylist() == ["videos/a.mp4"], "it moves with the folder"
    assert manifest.resolved_uris() == columns["uri"]
    filesystem, path = file_system(location)
    assert pq.read_table(path, filesystem=filesystem).num_rows == 1
    with pytest.raises(InputError, match="no such file"):
        read_manifest(f"{folder}/absent.parquet")


def test_videos_are_read_without_a_copy_on_disk(s3, folder, motion_manifest, monkeypatch):
    manifest = read_manifest(motion_manifest)
    local = manifest.resolved_uris()[0]
    video = folder / "clip.mp4"
    video.upload(Path(local))
    opened: list[str] = []
    monkeypatch.setattr(tempfile, "mkdtemp", lambda *_, **__: opened.append("mkdtemp"))
    s3.fail("clip.mp4", times=2, method="GET")
    with open_video(str(video)) as remote, open_video(local) as here:
        assert (remote.frames([3, 1]) == here.frames([3, 1])).all()
    assert opened == []


def test_only_an_absent_video_is_the_videos_fault(s3, folder, monkeypatch):
    with pytest.raises(DecodeError, match="cannot be fetched: no such file"):
        open_video(f"{folder}/absent.mp4")
    monkeypatch.setenv(DEADLINE_VARIABLE, "1")
    s3.fail("clip.mp4")
    with pytest.raises(StorageFailing):
        open_video(f"{folder}/clip.mp4")


class _Signed(http.server.BaseHTTPRequestHandler):
    """Returns a file to clients that have its signed address."""

    def do_GET(self) -> None:
        content = b"of the file" if self.path == "/folder/clip.mp4?signature=abc&until=9" else b"the door"
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_the_query_of_a_signed_address_belongs_to_the_file():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Signed)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        clip = storage_path(f"http://127.0.0.1:{server.server_address[1]}/folder/clip.mp4?signature=abc&until=9")
        assert clip.read_bytes() == b"of the file"
        with clip.open("rb") as stream:
            assert stream.read() == b"of the file"
        assert clip.is_file()
        assert clip.parent / "clip.mp4" == clip
    finally:
        server.shutdown()
