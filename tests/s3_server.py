"""A real S3 API on loopback, in its own process, with failures on request.

moto answers. A layer in front of it refuses, delays or cuts chosen requests and logs all of them. As a script it runs
until its standard input ends, so no server outlives its test.
"""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from patience import PATIENCE_S

CONTROL = "/_control/"
REGION = "us-east-1"
BUCKET = "bucket"


class S3Server:
    """The client side for tests: the server's address, and control of its failures."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def environment(self) -> dict[str, str]:
        """The variables that a process needs to find the server, with the names that all AWS clients use."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "not-a-secret",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def fail(
        self,
        key: str,
        action: str = "500",
        *,
        method: str = ".*",
        times: int | None = None,
        after: int = 0,
        every: int = 1,
    ) -> None:
        """Make requests fail if their path matches `key`.

        Args:
            key: regular expression, searched in the path of the request.
            action: "500", "503", "403", "stall" (no answer for a minute), "cut" (the connection is closed) or "slow"
                (the right answer, three seconds late).
            method: regular expression that the whole method must match.
            times: number of requests that fail; None: until `heal`.
            after: number of first matching requests that succeed.
            every: only each `every`-th of the matching requests fails.
        """
        fault = {"key": key, "action": action, "method": method, "times": times, "after": after, "every": every}
        self._control("fail", {**fault, "seen": 0})

    def heal(self) -> None:
        self._control("heal", {})

    def requests(self, method: str = ".*", key: str = ".*") -> list[str]:
        """`METHOD /path` of each request so far with a matching method and path."""
        log = self._control("log", {})
        pattern = re.compile(f"(?:{method}) .*(?:{key})")
        return [line for line in log if pattern.search(line)]

    def forget(self) -> None:
        """Empty the log."""
        self._control("forget", {})

    def _control(self, name: str, values: dict[str, Any]) -> Any:
        request = urllib.request.Request(self.endpoint + CONTROL + name, json.dumps(values).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return json.loads(answer.read())


@contextmanager
def running() -> Iterator[S3Server]:
    """Run a server with the empty bucket `BUCKET`."""
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip()
        assert endpoint.startswith("http://127.0.0.1:"), "the S3 server did not start"
        yield S3Server(endpoint)
    finally:
        process.kill()
        process.wait()


class Faulty:
    """A WSGI application in front of moto's."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._lock = threading.Lock()
        self._faults: list[dict[str, Any]] = []
        self._log: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        if path.startswith(CONTROL):
            return self._obey(path.removeprefix(CONTROL), environ, start_response)
        with self._lock:
            self._log.append(f"{method} {path}")
            action = self._action(method, path)
        if action == "slow":
            time.sleep(3)
        if action in (None, "slow"):
            return self._application(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        connection: socket.socket = environ["werkzeug.socket"]
        if action == "stall":
            time.sleep(60)
        if action in ("stall", "cut"):
            connection.shutdown(socket.SHUT_RDWR)
            return []
        start_response(f"{action} Injected", [("Content-Type", "application/xml")])
        code = {"403": "AccessDenied", "503": "SlowDown"}.get(action, "InternalError")
        return [f"<Error><Code>{code}</Code><Message>injected</Message></Error>".encode()]

    def _action(self, method: str, path: str) -> str | None:
        for fault in self._faults:
            if re.fullmatch(fault["method"], method) and re.search(fault["key"], path):
                fault["seen"] += 1
                if fault["seen"] <= fault["after"] or fault["seen"] % fault["every"]:
                    continue
                if fault["times"] is None or fault["times"] > 0:
                    if fault["times"] is not None:
                        fault["times"] -= 1
                    return str(fault["action"])
        return None

    def _obey(self, name: str, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        values = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        answer: Any = None
        with self._lock:
            if name == "fail":
                self._faults.append(values)
            elif name == "heal":
                self._faults.clear()
            elif name == "forget":
                self._log.clear()
            else:
                answer = list(self._log)
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(answer).encode()]


def serve() -> None:
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "test")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    import logging

    import boto3
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = Faulty(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    client = boto3.client("s3", endpoint_url=endpoint, region_name=REGION)
    client.create_bucket(Bucket=BUCKET)
    print(endpoint, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve()
