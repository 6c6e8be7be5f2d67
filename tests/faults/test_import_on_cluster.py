"""`w3ray data import --address`: the nodes of a real cluster check the videos, with the result of one process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_cluster import SmallCluster

from w3ray.data.importers import import_csv
from w3ray.storage import file_system

pytestmark = [pytest.mark.ray, pytest.mark.slow]

REPO = Path(__file__).parents[2]


@pytest.fixture
def cluster(tmp_path, s3):
    """A head without CPUs and two nodes. They get the object store from their environment."""
    cluster = SmallCluster(tmp_path)
    try:
        cluster.add(1)
        cluster.add(1)
        yield cluster
    finally:
        cluster.close()


def test_videos_on_a_disk_and_in_the_store(tmp_path, s3, cluster):
    names = [f"{folder}/{number} ü.mp4" for folder in "abcdefgh" for number in range(20)]
    filesystem, _ = file_system("s3://bucket")
    lines = []
    for name in names:
        with filesystem.open_output_stream(f"bucket/set/{name}") as file:
            file.write(b"x")
        (tmp_path / "v" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "v" / name).write_bytes(b"x")
        lines += [f"s3://bucket/set/{name},x", f"{tmp_path}/v/{name},y"]
    source = tmp_path / "list.csv"
    source.write_text("\n".join(["path,label", *lines]) + "\n")
    script = "import sys; from w3ray.cli import main; sys.exit(main(sys.argv[1:]))"

    # The command itself has neither endpoint nor credentials: only the nodes use the store.
    env = {name: value for name, value in cluster.env.items() if not name.startswith("AWS_")}

    def command() -> subprocess.CompletedProcess[str]:
        # In a separate folder, because uris below the manifest's folder would become relative.
        words = ["data", "import", "csv", str(source), "--out", str(tmp_path / "out" / "m.parquet"), "--json"]
        return subprocess.run(
            [sys.executable, "-c", script, *words, "--address", cluster.address],
            env=env, cwd=REPO, capture_output=True, text=True, timeout=180, check=False,
        )  # fmt: skip

    run = command()
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["fingerprint"] == import_csv(source).fingerprint()
    source.write_text(source.read_text() + "s3://bucket/set/a/20.mp4,x\n")
    run = command()
    assert run.returncode == 2, run.stderr
    error = json.loads(run.stdout)["error"]["message"]
    assert "list.csv:322: no file or folder s3://bucket/set/a/20.mp4 (1 of 321 are missing)" in error
    s3.fail("/bucket", "403")
    try:
        run = command()
    finally:
        s3.heal()
    assert run.returncode == 2, run.stderr
    assert "is refused" in json.loads(run.stdout)["error"]["message"]
