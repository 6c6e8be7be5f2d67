"""The container file and the tracking server's compose file, checked by Hadolint and by Docker Compose."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from patience import PATIENCE_S

REPO = Path(__file__).resolve().parents[2]
CONTAINERFILE = REPO / "cluster" / "Containerfile"
COMPOSE = REPO / "cluster" / "mlflow.compose.yaml"
BIN = Path(sys.executable).parent
SETTINGS = {"POSTGRES_PASSWORD": "swordfish", "S3_BUCKET": "clips"}


def hadolint(path: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([BIN / "hadolint", "--no-color", path], capture_output=True, text=True, timeout=PATIENCE_S)


def compose_config(settings: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [BIN / "docker-compose", f"--file={COMPOSE}", "config", "--format=json"],
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **settings},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


class TestContainerfile:
    def test_hadolint_has_nothing_to_say(self) -> None:
        done = hadolint(CONTAINERFILE)
        assert done.returncode == 0, done.stdout

    def test_hadolint_would_say_it(self, tmp_path: Path) -> None:
        wrong = tmp_path / "Containerfile"
        wrong.write_text(CONTAINERFILE.read_text().replace("USER 1000", "USER root"))
        assert "DL3002" in hadolint(wrong).stdout

    def test_what_it_copies_is_there_and_nothing_else_is_sent(self) -> None:
        copied = set()
        for line in re.findall(r"^COPY (?:--\S+ )*(.+)$", CONTAINERFILE.read_text(), flags=re.MULTILINE):
            *sources, _ = line.split()
            copied.update(sources)
        assert not [source for source in copied if not (REPO / source).exists()]
        rules = CONTAINERFILE.with_suffix(".dockerignore").read_text().splitlines()
        assert "*" in rules
        assert {rule[1:] for rule in rules if rule.startswith("!")} == copied

    def test_what_it_installs_exists(self) -> None:
        extras = re.search(r"/opt/w3ray\[([\w,]+)\]", CONTAINERFILE.read_text())
        assert extras is not None
        import tomllib

        known = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(extras.group(1).split(",")) <= set(known)

    def test_the_place_of_the_code_has_what_a_build_reads(self) -> None:
        """The dependencies are installed before the code is there. A build reads the version from the code."""
        assert "echo '__version__ = " in CONTAINERFILE.read_text()

    def test_it_has_all_that_the_package_links_to(self) -> None:
        links = [path.readlink().name for path in (REPO / "w3ray").iterdir() if path.is_symlink()]
        assert sorted(links) == ["pipelines", "tune_spaces"]
        assert all(f"COPY {name} /opt/w3ray/{name}\n" in CONTAINERFILE.read_text() for name in links)


class TestCompose:
    def config(self) -> dict[str, Any]:
        done = compose_config(SETTINGS)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def test_compose_reads_it(self) -> None:
        assert set(self.config()["services"]) == {"postgres", "mlflow"}

    @pytest.mark.parametrize("name", SETTINGS)
    def test_a_missing_setting_is_named(self, name: str) -> None:
        done = compose_config({key: value for key, value in SETTINGS.items() if key != name})
        assert done.stdout == ""  # its exit code is still 0
        assert f"required variable {name} is missing" in done.stderr

    def test_no_secret_in_the_file_or_in_the_list_of_processes(self) -> None:
        assert "swordfish" not in " ".join(self.config()["services"]["mlflow"]["command"])
        for service in yaml.safe_load(COMPOSE.read_text())["services"].values():
            for name, value in service["environment"].items():
                if re.search("PASSWORD|SECRET|KEY", name):
                    assert value is None or value.startswith("${"), name

    def test_only_the_machine_itself_reaches_it(self) -> None:
        services = self.config()["services"]
        assert "ports" not in services["postgres"]
        assert [port["host_ip"] for port in services["mlflow"]["ports"]] == ["127.0.0.1"]
