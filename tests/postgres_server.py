"""A real PostgreSQL server on a loopback port, for tests and benchmarks."""

import glob
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from patience import PATIENCE_S, wait_while_alive

PASSWORD = "swordfish"
USER = "mlflow"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def binaries() -> Path | None:
    """The folder of PostgreSQL's programs. None: it is not installed (apt-get install postgresql)."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"))
    return Path(found[-1]).parent if found else None


@dataclass(frozen=True)
class Database:
    port: int
    psql: Path

    @property
    def uri(self) -> str:
        """The address without the password, which clients take from PGPASSWORD."""
        return f"postgresql+psycopg2://{USER}@127.0.0.1:{self.port}/mlflow"


@contextmanager
def postgres(folder: Path) -> Iterator[Database]:
    """A server with an empty database `mlflow`. `folder` must not exist yet; the server's user needs access to it."""
    programs = binaries()
    assert programs is not None
    # PostgreSQL refuses to run as root. Debian's package has a user for it.
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    data, port = folder / "data", free_port()
    data.mkdir(parents=True)
    if as_user:
        shutil.chown(data, "postgres")
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)
    initdb = [*as_user, programs / "initdb", f"--pgdata={data}", f"--username={USER}", "--auth=scram-sha-256"]
    subprocess.run([*initdb, f"--pwfile={folder / 'password'}"], check=True, stdout=subprocess.DEVNULL, timeout=120)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    with (folder / "postgres.log").open("wb") as log:
        command = [*as_user, programs / "postgres", f"-D{data}", "-h127.0.0.1", f"-p{port}", f"-k{data}"]
        process = subprocess.Popen(command, env=inherited, stdout=log, stderr=log)
        try:
            ready = [programs / "pg_isready", "-q", "-h127.0.0.1", f"-p{port}"]
            wait_while_alive(
                process,
                lambda: subprocess.run(ready).returncode == 0,
                every_s=0.2,
                what=(folder / "postgres.log").read_text,
            )
            createdb = [programs / "createdb", "-h127.0.0.1", f"-p{port}", f"-U{USER}", "mlflow"]
            subprocess.run(createdb, env={**os.environ, "PGPASSWORD": PASSWORD}, check=True, timeout=PATIENCE_S)
            yield Database(port, programs / "psql")
        finally:
            process.terminate()
            process.wait(PATIENCE_S)
