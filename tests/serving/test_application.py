"""A served model gives the scores of `w3ray predict`, within its limits, and says why it refuses a request."""

import glob
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from patience import wait_until
from served import CLASSES, asked, figure, form, free_port, path_body, write_small_model
from videos import cut, write_frames, write_video

from w3ray import InputError, load_model, predict
from w3ray.serving.settings import Settings
from w3ray.serving.start import served_model

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

TIMEOUT_S = 20.0
MAX_MIB = 0.25
UPLOADS = f"{glob.escape(tempfile.gettempdir())}/w3ray-upload-*"
EARLIER = set(glob.glob(UPLOADS))


@dataclass(frozen=True)
class Served:
    url: str
    model: str
    root: Path
    """Its videos may be named by path."""
    settings: Settings

    def predict(self, body: bytes, kind: str, query: str = "") -> tuple[int, Any]:
        return asked(f"{self.url}/predict{query}", body, kind)

    def metrics(self) -> str:
        return str(asked(f"{self.url}/metrics")[1])


@pytest.fixture(scope="module")
def served(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    from ray import serve

    folder = tmp_path_factory.mktemp("served")
    root = folder / "videos"
    for name, frames in (("short ü.mp4", 12), ("long.mp4", 60)):
        write_video(root / name, frames)
    write_frames(root / "frames", 12)
    write_video(folder / "secret.mp4", 12)
    (root / "link.mp4").symlink_to(folder / "secret.mp4")
    os.mkfifo(root / "hangs.mp4")  # opening it waits for a writer, without end
    settings = Settings(
        port=free_port(), batch=4, batch_wait_ms=300, roots=(str(root),), max_mib=MAX_MIB, timeout_s=TIMEOUT_S, top=3
    )
    model = write_small_model(folder / "model")
    with served_model("small", model, settings, is_own=True):
        yield Served(settings.url, model, root, settings)
    serve.shutdown()  # the tests' own Ray goes on


@pytest.fixture(scope="module")
def expected(served: Served) -> dict[str, Any]:
    names = [str(served.root / name) for name in ("short ü.mp4", "long.mp4", "frames")]
    return {Path(one.video).name: one.document()["top"] for one in predict(served.model, names, top=3)}


def same(found: list[dict[str, Any]], top: list[dict[str, Any]]) -> None:
    assert [one["class"] for one in found] == [one["class"] for one in top]
    assert [one["score"] for one in found] == pytest.approx([one["score"] for one in top], rel=1e-5)


def test_the_scores_of_predict(served: Served, expected: dict[str, Any]) -> None:
    for name in ("short ü.mp4", "long.mp4"):
        path = served.root / name
        file = path.read_bytes()
        for shown, (body, kind) in (
            (name, form({}, file, name)),
            ("upload", (file, "video/mp4")),
            (str(path), path_body(path)),
        ):
            status, document = served.predict(body, kind)
            assert (status, document.get("video")) == (200, shown), document
            same(document["top"], expected[name])
    status, document = served.predict(*path_body(served.root / "frames"))
    assert status == 200, document
    same(document["top"], expected["frames"])
    assert expected["short ü.mp4"] != expected["long.mp4"]
    assert uploads() == [], "uploads are removed"


def uploads() -> list[str]:
    """Files of uploads that were not there before these tests."""
    return sorted(set(glob.glob(UPLOADS)) - EARLIER)


def test_a_part_of_a_video(served: Served, expected: dict[str, Any]) -> None:
    path = served.root / "long.mp4"
    model = load_model(served.model)
    scores = model.scores(model.read(path, start_s=1.0, end_s=1.5))[0]
    wanted = [{"class": name, "score": score} for name, score in model.best(scores, 3)]
    assert wanted != expected["long.mp4"]
    times = {"start_s": "1.0", "end_s": "1.5"}
    file = path.read_bytes()
    for answer in (
        served.predict(*form(times, file)),
        served.predict(file, "video/mp4", "?start_s=1.0&end_s=1.5"),
        served.predict(*path_body(path, start_s=1.0, end_s=1.5)),
    ):
        assert answer[0] == 200, answer
        same(answer[1]["top"], wanted)


def test_requests_at_once_share_a_batch(served: Served, expected: dict[str, Any]) -> None:
    body, kind = path_body(served.root / "short ü.mp4")
    served.predict(body, kind)
    before = served.metrics()
    with ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: served.predict(body, kind), range(8)))
    assert [status for status, _ in answers] == [200] * 8
    for _, document in answers:
        same(document["top"], expected["short ü.mp4"])
    after = served.metrics()

    def more(name: str) -> float:
        return figure(after, name) - figure(before, name)

    assert more("w3ray_batch_videos_sum") == 8
    assert more("w3ray_batch_videos_count") < 8
    assert more('w3ray_batch_videos_bucket{le="1.0"}') < more("w3ray_batch_videos_count"), "some batch has several"
    assert more('w3ray_batch_videos_bucket{le="4.0"}') == more("w3ray_batch_videos_count"), "--batch is the maximum"
    assert more('w3ray_requests_total{code="200"}') == 8
    assert more("w3ray_request_seconds_count") == more("w3ray_decode_seconds_count") == 8
    assert more("w3ray_upload_bytes_total") == 0


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("../secret.mp4", 403, "outside the folders"),
        ("/etc/passwd", 403, "outside the folders"),
        ("/etc/no-such-file", 403, "outside the folders"),
        ("link.mp4", 403, "outside the folders"),
        ("http://127.0.0.1:1/clip.mp4", 403, "outside the folders"),
        ("s3://bucket/clip.mp4", 403, "outside the folders"),
        ("", 403, "outside the folders"),
        ("absent.mp4", 422, "No such file"),
    ],
)
def test_paths(served: Served, path: str, status: int, reason: str) -> None:
    named = path if "://" in path else os.path.join(served.root, path)
    found, document = served.predict(*path_body(named))
    assert (found, list(document)) == (status, ["error"])
    assert reason in document["error"]


def test_videos_that_cannot_be_read(served: Served, tmp_path: Path) -> None:
    reasons = {}
    half = cut(served.root / "long.mp4", tmp_path / "half.mp4").read_bytes()
    playlist = f"#EXTM3U\n#EXTINF:1,\n{served.root}/long.mp4\n#EXT-X-ENDLIST\n".encode()
    still = write_video(tmp_path / "still.mp4", 1).read_bytes()
    for name, file in (("half", half), ("playlist", playlist), ("still", still), ("text", b"not a video")):
        status, document = served.predict(*form({}, file, f"{name}.mp4"))
        assert (status, list(document)) == (422, ["error"]), document
        reasons[name] = document["error"]
    assert all(reason.startswith(f"{name}.mp4: ") and "\n" not in reason for name, reason in reasons.items())
    assert "not a video" in reasons["playlist"]
    assert "only 1 frame" in reasons["still"]
    assert uploads() == []


BAD_REQUESTS = [
    (b"{", "application/json", 400, "not JSON"),
    (b"[]", "application/json", 400, "JSON object"),
    (b'{"video": "/a.mp4"}', "application/json", 400, "unknown key 'video'"),
    (b"{}", "application/json", 400, '"path"'),
    (b'{"path": 3}', "application/json", 400, '"path"'),
    (b'{"path": "clip.mp4"}', "application/json", 400, "must be absolute"),
    (b" " * 70_000, "application/json", 413, "64 KiB"),
    (b"x", "text/plain", 415, "Content-Type text/plain: send"),
    (b"", "video/mp4", 400, "the body is empty"),
    (*form({}, None), 400, "no file"),
    (*form({"window": "2"}, b"x"), 400, "unknown field 'window'"),
    (*form({"start_s": "soon"}, b"x"), 400, "start_s must be a number"),
    (*form({"start_s": "2", "end_s": "1"}, b"x"), 400, "end_s 1: must be after start_s"),
    (b"no form", "multipart/form-data; boundary=edge", 400, "the form cannot be read"),
    (b"no form", "multipart/form-data", 400, "the form cannot be read"),
]


@pytest.mark.parametrize(("body", "kind", "status", "reason"), BAD_REQUESTS)
def test_requests_that_are_refused(served: Served, body: bytes, kind: str, status: int, reason: str) -> None:
    found, document = served.predict(body, kind)
    assert (found, list(document)) == (status, ["error"]), document
    assert reason in document["error"]
    assert "\n" not in document["error"]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("kind", ["form", "video/mp4"])
def test_uploads_that_are_too_large(served: Served, kind: str, chunked: bool) -> None:
    """With chunks, the client does not say how much it sends."""
    limit = int(MAX_MIB * 2**20)
    body, said = form({}, bytes(limit + 1)) if kind == "form" else (bytes(limit + 1), kind)
    with socket.create_connection(("127.0.0.1", served.settings.port), timeout=60) as client:
        length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {said}\r\n{length}\r\n\r\n"
        client.sendall(head.encode())
        client.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body)
        reply = b"".join(iter(lambda: client.recv(1 << 16), b"")).decode()
    assert reply.startswith("HTTP/1.1 413 "), reply
    assert json.loads(reply.partition("\r\n\r\n")[2]) == {"error": "the upload has more than 0.25 MiB (--max-mib)"}
    assert uploads() == []


def test_the_largest_upload_is_allowed(served: Served) -> None:
    file = (served.root / "long.mp4").read_bytes()
    padded = file + bytes(int(MAX_MIB * 2**20) - len(file))
    assert served.predict(padded, "video/mp4")[0] == 200


def test_what_takes_too_long_is_ended(served: Served) -> None:
    """A video that hangs its decoder, and a client that stops sending."""

    def slow_upload() -> str:
        with socket.create_connection(("127.0.0.1", served.settings.port), timeout=120) as client:
            client.sendall(
                b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: video/mp4\r\nContent-Length: 9\r\n\r\nab"
            )
            return client.recv(1 << 16).decode()

    started = time.monotonic()
    with ThreadPoolExecutor(2) as clients:
        slow = clients.submit(slow_upload)
        hanging = clients.submit(served.predict, *path_body(served.root / "hangs.mp4"))
        assert hanging.result() == (504, {"error": "the request took longer than 20 s (--timeout)"})
        assert slow.result().startswith("HTTP/1.1 504 ")
    assert time.monotonic() - started >= TIMEOUT_S
    good = path_body(served.root / "long.mp4")
    wait_until(lambda: served.predict(*good)[0] == 200, what="another decoder takes its place")
    assert uploads() == []


def decoder_processes() -> list[psutil.Process]:
    found = []
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a zombie counts as none
            if "DecoderActor" in "".join(one.cmdline()):
                found.append(one)
    return found


def test_a_client_that_leaves_ends_no_decoder(served: Served) -> None:
    """A new process takes seconds to start, and clients with little patience would make a busy server slower."""
    hangs = served.root / "hangs.mp4"
    (before,) = decoder_processes()
    body, kind = path_body(hangs)
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.settings.port), timeout=60) as client:
        client.sendall(head.encode() + body)
        time.sleep(2.0)  # a decoder opens the pipe; looking whether it has would let it go on
    time.sleep(2.0)  # Ray Serve tells the replica
    os.close(wait_until(lambda: opened_for_writing(hangs), what="the decoder still waits for the pipe", limit_s=10))
    assert served.predict(*path_body(served.root / "long.mp4"))[0] == 200
    assert decoder_processes() == [before]


def opened_for_writing(pipe: Path) -> int | None:
    """None: nobody reads from the pipe."""
    with suppress(OSError):
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    return None


def test_what_it_says_about_itself(served: Served) -> None:
    assert asked(f"{served.url}/health") == (200, {"status": "ok"})
    status, about = asked(f"{served.url}/model")
    assert (status, about["model"], about["classes"]) == (200, "small", list(CLASSES))
    assert (about["clip"]["num_frames"], about["clip"]["size"], about["top"]) == (4, 32, 3)
    assert asked(f"{served.url}/absent")[0] == 404
    assert asked(f"{served.url}/predict") == (405, {"error": "/predict takes POST only"})
    assert asked(f"{served.url}/health", b"x", "text/plain")[0] == 405


def test_nothing_listens_beyond_loopback(served: Served) -> None:
    """Ray Serve's replicas would listen on all addresses for other deployments."""
    found = [
        (" ".join(process.cmdline()).strip(), at.laddr.ip)
        for process in psutil.Process().children(recursive=True)
        for at in process.net_connections("inet")
        if at.status == psutil.CONN_LISTEN
    ]
    assert any(name.startswith("ray::ServeReplica") for name, _ in found)
    assert [one for one in found if one[1].removeprefix("::ffff:") != "127.0.0.1"] == []


def test_a_second_application_is_refused(served: Served) -> None:
    settings = replace(served.settings, port=free_port())
    with (
        pytest.raises(InputError, match="Ray Serve already runs on this cluster"),
        served_model("other", served.model, settings, is_own=True),
    ):
        pass
    assert asked(f"{served.url}/health")[0] == 200
