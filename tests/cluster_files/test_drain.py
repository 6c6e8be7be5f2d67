"""The notice of a spot machine: a metadata server answers like the clouds' servers, and `ray` gets the command."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "cluster" / "drain-on-notice.sh"


class Metadata(BaseHTTPRequestHandler):
    """The metadata server of both clouds. It gives notice from the third request on."""

    questions = 0

    def log_message(self, *args: object) -> None: ...

    def answer(self, code: int, text: str = "") -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def do_PUT(self) -> None:
        wanted = self.path == "/latest/api/token" and "X-aws-ec2-metadata-token-ttl-seconds" in self.headers
        self.answer(*((200, "session") if wanted else (400, "")))

    def do_GET(self) -> None:
        Metadata.questions += 1
        there = Metadata.questions > 2
        if self.path == "/latest/meta-data/spot/instance-action":
            if self.headers.get("X-aws-ec2-metadata-token") != "session":
                self.answer(401)
            else:
                self.answer(*((200, '{"action": "terminate"}') if there else (404, "")))
        elif self.path == "/computeMetadata/v1/instance/preempted" and self.headers.get("Metadata-Flavor") == "Google":
            self.answer(200, "TRUE" if there else "FALSE")
        else:
            self.answer(404)


@pytest.fixture
def metadata() -> Iterator[str]:
    Metadata.questions = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("cloud", "notice_s"), [("aws", "120"), ("gcp", "30")])
def test_ray_is_told_once_there_is_a_notice(cloud: str, notice_s: str, metadata: str, tmp_path: Path) -> None:
    (tmp_path / "ray").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "ray").chmod(0o755)
    done = subprocess.run(
        [SCRIPT, cloud],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "METADATA_URL": metadata, "POLL_S": "0.1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert Metadata.questions == 3
    _, *words = done.stdout.splitlines()
    assert words[:1] == ["drain-node"]
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options["--reason"] == "DRAIN_NODE_REASON_PREEMPTION"
    assert options["--deadline-remaining-seconds"] == notice_s
    # The real `ray` knows these options, too.
    shown = subprocess.run(
        [Path(sys.executable).with_name("ray"), "drain-node", "--help"], capture_output=True, text=True
    )
    assert all(option in shown.stdout for option in options)


def test_an_unknown_cloud() -> None:
    done = subprocess.run([SCRIPT, "moon"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "known: aws, gcp" in done.stderr
