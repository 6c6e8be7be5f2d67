"""A real `mlflow server` process that can be stopped and restarted."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from patience import wait_while_alive


class Server:
    """`mlflow server` with its own database and files, always on the same loopback port."""

    def __init__(self, folder: Path, database: Path, *options: str, **settings: str) -> None:
        self.folder, self._options, self._settings = folder, options, settings
        shutil.copy(database, folder / "server.db")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, if it is not running."""
        if self._process is not None:
            return
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", str(self.folder / "files"), "--serve-artifacts"]
        command += self._options
        log = (self.folder / "server.log").open("ab")
        # Its queue for background jobs is three more processes that no test needs.
        settings = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **self._settings}
        # Its own session, because the server starts processes and all of them must end.
        self._process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=self.folder, env=settings, start_new_session=True
        )
        wait_while_alive(
            self._process, self._answers, every_s=0.2, what=lambda: (self.folder / "server.log").read_text()[-2000:]
        )

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                return True
        except OSError:
            return False

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
