"""`examples/plugin`, installed in a new environment: its own tests, its data set, a run with its parts."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from w3ray.plugins import FAMILIES, check_contracts, sources_of, table
from w3ray.recipe import load_recipe

REPO = Path(__file__).parents[2]
EXAMPLE = REPO / "examples" / "plugin"


class Environment:
    """A Python environment with w3ray and the installed example."""

    def __init__(self, packages: Path) -> None:
        self.packages = packages

    def python(self, *words: str, folder: Path, plugin: bool = True) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(self.packages), str(REPO)] if plugin else [str(REPO)])
        env = {**os.environ, "PYTHONPATH": path}
        return subprocess.run(
            [sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=300
        )

    def w3ray(self, *words: str, folder: Path, plugin: bool = True) -> subprocess.CompletedProcess[str]:
        script = "import sys; from w3ray.cli import main; sys.exit(main(sys.argv[1:]))"
        return self.python("-c", script, *words, folder=folder, plugin=plugin)


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Environment:
    folder = tmp_path_factory.mktemp("example")
    shutil.copytree(EXAMPLE, folder / "source")  # a build writes next to its source
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
         "--disable-pip-version-check", "--target", str(folder / "packages"), str(folder / "source")],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return Environment(folder / "packages")


def test_its_parts_are_listed_and_its_own_tests_pass(environment, tmp_path):
    listed = environment.w3ray("plugins", "--json", folder=tmp_path)
    assert listed.returncode == 0, listed.stderr
    parts = [row for row in json.loads(listed.stdout)["parts"] if row["from"] == "w3ray-example 1.0"]
    assert {(row["family"], row["name"]) for row in parts} == {
        ("attentions", "squeeze"), ("losses", "focal"), ("importers", "split-lists")
    }  # fmt: skip
    done = environment.python("-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE / "tests"), folder=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


@pytest.mark.slow
@pytest.mark.ray
def test_from_its_lists_to_a_model(environment, motion_manifest, tmp_path):
    videos = motion_manifest.parent
    for split in ("train", "val"):
        found = sorted(path.relative_to(videos) for path in (videos / split).rglob("*.mp4"))
        (tmp_path / f"{split}.txt").write_text("".join(f"{path} {path.parent.name}\n" for path in found))
    words = ["data", "import", "split-lists", ".", "--videos", str(videos), "--out", "motion.parquet", "--json"]
    imported = environment.w3ray(*words, folder=tmp_path)
    assert imported.returncode == 0, imported.stderr
    assert json.loads(imported.stdout)["splits"] == {"train": 24, "val": 16}
    shutil.copy(EXAMPLE / "recipe.yaml", tmp_path)
    done = environment.w3ray("run", "recipe.yaml", "--json", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (stage,) = json.loads(done.stdout)["stages"]
    model = Path(stage["model"])
    recorded = json.loads((model / "model.json").read_text())["plugins"]
    assert [(part, one["package"], one["version"]) for part, one in recorded.items()] == [
        ("attentions/squeeze", "w3ray-example", "1.0")
    ]
    (logged,) = (tmp_path / "runs").rglob("requirements.txt")
    assert "w3ray-example==1.0" in logged.read_text().splitlines()

    video = str(next((videos / "val").rglob("*.mp4")))
    told = environment.w3ray("predict", str(model), video, "--json", folder=tmp_path)
    assert told.returncode == 0, told.stderr
    refused = environment.w3ray("predict", str(model), video, folder=tmp_path, plugin=False)
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [
        f"error: {model}/model.json: needs attentions 'squeeze', which is not there; install w3ray-example==1.0"
    ]
    refused = environment.w3ray("run", "recipe.yaml", folder=tmp_path, plugin=False)
    assert refused.returncode == 2
    assert "unknown loss 'focal'" in refused.stderr

    def planned() -> str:
        (plan,) = json.loads(environment.w3ray("run", "recipe.yaml", "--dry-run", "--json", folder=tmp_path).stdout)[
            "stages"
        ]
        return str(plan["state"])

    assert planned() == "reuse"
    focal = environment.packages / "w3ray_example" / "focal.py"
    focal.write_text(focal.read_text().replace("GAMMA = 2.0", "GAMMA = 1.0"))
    assert planned() == "run"


def test_the_file_of_the_page_on_plugins_can_be_used(tmp_path):
    """The first Python and the first YAML of `docs/plugins.md`."""
    page = (REPO / "docs" / "plugins.md").read_text(encoding="utf-8")
    for kind, name in (("python", "my_part.py"), ("yaml", "recipe.yaml")):
        (tmp_path / name).write_text(page.partition(f"```{kind}\n")[2].partition("```")[0])
    recipe = load_recipe(tmp_path / "recipe.yaml")
    check_contracts(sorted(recipe.parts()))
    assert set(sources_of(recipe.parts())) == {"losses/my_focal"}


def test_the_page_on_plugins_names_all_families():
    page = (REPO / "docs" / "plugins.md").read_text(encoding="utf-8")
    for family, place in FAMILIES.items():
        check = table(family).contract.partition(":")[2].removesuffix("_signature")
        (row,) = [line for line in page.splitlines() if line.startswith(f"| {family} |")]
        assert f"`{place.replace(':', '.')}`" in row
        assert f"`{check}`" in row
