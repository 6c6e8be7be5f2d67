"""Parts of installed packages: found without an import, refused in one line, and identified by their source."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
from plugin_parts import ATTENTION, LOSS, RECIPE
from test_plugins import identities

from w3ray import plugins
from w3ray._registry import PluginError
from w3ray.attention import ATTENTION as ATTENTIONS
from w3ray.cli import main
from w3ray.data.importers import IMPORTERS
from w3ray.errors import InputError
from w3ray.recipe import Recipe, load_recipe
from w3ray.training.losses import LOSSES

REPO = Path(__file__).parents[2]
ROWS = "from w3ray.training.losses import LossKind\nSPREAD = LossKind('my_parts.spread:Spread')\n"
SPREAD = LOSS.replace('LOSSES.add("spread", LossKind(Spread))\n', "").replace(
    "FACTOR = 1", "from my_parts.sizes import FACTOR"
)
PACKAGE = {
    "my_parts/__init__.py": "",
    "my_parts/rows.py": ROWS,
    "my_parts/spread.py": SPREAD,
    "my_parts/sizes.py": "FACTOR = 1\n",
    "my_parts/other.py": "OTHER = 1\n",
}
GROUPS = {"w3ray.losses": {"spread": "my_parts.rows:SPREAD"}}
FOCUSED = {**RECIPE, "stages": [{"name": "one", "loss_weights": {"spread": 0.5}}]}


def test_names_are_known_before_anything_is_imported(install):
    install("my-parts", PACKAGE, GROUPS)
    assert "spread" in LOSSES
    assert "spread" in list(LOSSES)
    assert str(LOSSES.origin("spread")) == "my-parts 1.0"
    assert "my_parts" not in sys.modules
    Recipe.model_validate(FOCUSED)
    assert "my_parts.rows" in sys.modules
    assert "my_parts.spread" not in sys.modules
    assert type(LOSSES["spread"]()).__name__ == "Spread"


def test_the_backport_of_importlib_metadata_changes_nothing(install):
    """The backport, which MLflow imports, replaces the search for packages, so entry points get its class."""
    import importlib_metadata

    assert importlib_metadata.EntryPoint is not importlib.metadata.EntryPoint
    install("my-parts", PACKAGE, GROUPS)
    assert type(LOSSES["spread"]()).__name__ == "Spread"


def test_a_recipe_with_parts_of_packages_is_checked_without_torch(install):
    folder = install("my-parts", PACKAGE, GROUPS)
    code = "import sys; from w3ray.recipe import Recipe; Recipe.model_validate({}); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code.format(FOCUSED)],
        capture_output=True, text=True, cwd=REPO, env={"PYTHONPATH": f"{folder}:{REPO}"},
    )  # fmt: skip
    assert done.stdout.strip() == "False", done.stderr


class TestSource:
    @pytest.fixture
    def folder(self, install):
        return install("my-parts", PACKAGE, GROUPS)

    def sources(self):
        LOSSES._loaded.clear()
        return plugins.sources_of([("losses", "spread"), ("losses", "mfr")])

    def test_package_version_and_files(self, folder):
        (source,) = self.sources().values()
        assert (source["package"], source["version"]) == ("my-parts", "1.0")

    @pytest.mark.parametrize("name", ["rows", "spread", "sizes", "__init__"])
    def test_what_it_imports_of_its_package_is_part_of_it(self, folder, name):
        before = self.sources()
        stages = identities(Recipe.model_validate(FOCUSED))
        path = folder / "my_parts" / f"{name}.py"
        path.write_text(path.read_text() + "# changed\n")
        assert self.sources() != before
        assert identities(Recipe.model_validate(FOCUSED)) != stages

    def test_what_it_does_not_import_is_not(self, folder):
        before = self.sources()
        (folder / "my_parts" / "other.py").write_text("OTHER = 2\n")
        assert self.sources() == before

    @pytest.mark.parametrize(
        "line",
        [
            "import my_parts.other",
            "from my_parts import other",
            "from . import other",
            "from .other import OTHER",
            "def f():\n    from my_parts.other import OTHER",
        ],
    )
    def test_each_way_to_import(self, folder, line):
        path = folder / "my_parts" / "sizes.py"
        path.write_text(f"FACTOR = 1\n{line}\n")
        before = self.sources()
        (folder / "my_parts" / "other.py").write_text("OTHER = 2\n")
        assert self.sources() != before

    def test_a_module_that_a_recipe_names(self, install):
        install("named-parts", {"named_parts.py": LOSS}, {})
        recipe = Recipe.model_validate({**FOCUSED, "plugins": ["named_parts"]})
        (source,) = plugins.sources_of(recipe.parts()).values()
        assert (source["package"], source["version"]) == ("named-parts", "1.0")
        assert plugins.shipment(recipe.plugins, {}).modules == ("named_parts",)

    def test_a_module_that_a_program_imported(self, install):
        install("named-parts", {"named_parts.py": LOSS}, {})
        __import__("named_parts")
        sources = plugins.sources_of(Recipe.model_validate(FOCUSED).parts())
        assert plugins.shipment((), sources).modules == ("named_parts",)


class TestFaults:
    def test_two_packages_with_one_name(self, install):
        install("my-parts", PACKAGE, GROUPS)
        install("your-parts", {"your_parts.py": LOSS}, {"w3ray.losses": {"spread": "your_parts:Spread"}}, version="2.0")
        with pytest.raises(PluginError) as caught:
            plugins.source_of("losses", "spread")
        said = str(caught.value)
        assert said.startswith("losses: 'spread' exists twice, from ")
        assert said.endswith("; rename or uninstall one")
        assert {"my-parts 1.0", "your-parts 2.0"} == set(said.partition("from ")[2].partition(";")[0].split(" and "))
        assert LOSSES["mfr"].needs_teacher

    def test_one_with_the_name_of_a_part_of_ours(self, install):
        install("my-parts", PACKAGE, {"w3ray.losses": {"mfr": "my_parts.rows:SPREAD"}})
        with pytest.raises(ValueError, match="losses: 'mfr' exists twice, from w3ray itself and my-parts"):
            Recipe.model_validate({**RECIPE, "stages": [{"name": "one", "loss_weights": {"mfr": 0.0}}]})

    @pytest.mark.parametrize(
        ("files", "said"),
        [
            ({}, "cannot be loaded: ModuleNotFoundError: No module named 'my_parts'"),
            (
                {"my_parts/__init__.py": "", "my_parts/rows.py": "1 / 0"},
                "cannot be loaded: ZeroDivisionError: division",
            ),
            (
                {"my_parts/__init__.py": "", "my_parts/rows.py": ""},
                "cannot be loaded: AttributeError: module 'my_parts.rows' has no attribute 'SPREAD'",
            ),
            ({"my_parts/__init__.py": "", "my_parts/rows.py": "SPREAD = 3"}, "is not valid: it must be a Los"),
        ],
    )
    def test_one_that_cannot_be_loaded(self, install, tmp_path, files, said):
        install("my-parts", files, GROUPS)
        (tmp_path / "recipe.yaml").write_text(json.dumps(FOCUSED))
        with pytest.raises(InputError) as caught:
            load_recipe(tmp_path / "recipe.yaml")
        line = str(caught.value)
        assert line.startswith("recipe.yaml: stages.one.loss_weights.spread")
        assert f"losses: 'spread' from my-parts 1.0 {said}" in line
        assert len(line.splitlines()) == 1
        Recipe.model_validate(RECIPE)  # no error without the part

    def test_a_class_that_is_not_there(self, install):
        files = {**PACKAGE, "my_parts/rows.py": ROWS.replace(":Spread", ":Sprad")}
        install("my-parts", files, GROUPS)
        with pytest.raises(PluginError, match=r"'spread' from my-parts 1\.0 breaks the contract .*AttributeError"):
            plugins.check_contracts([("losses", "spread")])


class TestCommand:
    """`w3ray plugins`."""

    def run(self, capsys, *words: str):
        code = main(["plugins", *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    def test_all_families_with_origins(self, install, capsys):
        install("my-parts", PACKAGE, GROUPS)
        code, out, err = self.run(capsys, "--json")
        parts = {(row["family"], row["name"]): row for row in json.loads(out)["parts"]}
        assert (code, err) == (0, "")
        none_built_in = {"callbacks"}
        assert {family for family, _ in parts} == set(plugins.FAMILIES) - none_built_in
        assert parts["attentions", "w3"]["from"] == "built in"
        assert parts["losses", "spread"]["from"] == "my-parts 1.0"
        assert parts["losses", "spread"]["source"] == plugins.sources_of([("losses", "spread")])["losses/spread"]
        assert "my_parts.spread" not in sys.modules

    def test_with_a_recipe(self, tmp_path, capsys):
        (tmp_path / "a.py").write_text(LOSS)
        (tmp_path / "recipe.yaml").write_text(json.dumps({**RECIPE, "plugins": ["./a.py", "./b.py"]}))
        code, out, err = self.run(capsys, str(tmp_path / "recipe.yaml"))
        assert code == 2
        assert err == f"error: recipe.yaml: plugins: {tmp_path / 'b.py'}: cannot be read (No such file or directory)\n"
        assert [line.split() for line in out.splitlines() if "spread" in line] == [
            ["losses", "spread", str(tmp_path / "a.py")]
        ]

    def test_what_cannot_be_used_is_a_line_each(self, install, capsys):
        install("bad-parts", {"bad_parts.py": "1 / 0"}, {"w3ray.losses": {"bad": "bad_parts:BAD"}})
        install("odd-parts", {"odd_parts.py": ATTENTION}, {"w3ray.attention": {"scale": "odd_parts:SCALE"}})
        code, out, err = self.run(capsys)
        assert code == 2
        assert err.splitlines() == [
            "error: losses: 'bad' from bad-parts 1.0 cannot be loaded: ZeroDivisionError: division by zero",
            "error: entry points of the group 'w3ray.attention' (odd-parts 1.0): no such family; did you mean "
            f"'w3ray.attentions'? known: {', '.join(f'w3ray.{family}' for family in plugins.FAMILIES)}",
        ]
        assert "bad-parts 1.0 (cannot be used)" in out

    def test_contracts(self, install, capsys):
        mean = SPREAD.replace(".mean(dim=1).sum()", ".mean()")
        install("my-parts", {**PACKAGE, "my_parts/spread.py": mean}, GROUPS)
        assert self.run(capsys)[0] == 0
        code, _, err = self.run(capsys, "--check")
        assert code == 2
        assert err == (
            "error: losses: 'spread' from my-parts 1.0 breaks the contract of its family: the sum over parts of a "
            "batch is not the sum over the batch: add up clips, do not average them\n"
        )


class TestImporters:
    """`w3ray data import NAME`. The commands are created at import, so the test needs its own process."""

    def run(self, folder: Path, *words: str):
        return subprocess.run(
            [sys.executable, "-c", "import sys; from w3ray.cli import main; sys.exit(main(sys.argv[1:]))",
             "data", "import", *words],
            capture_output=True, text=True, env={"PYTHONPATH": f"{folder}:{REPO}", "PATH": "/usr/bin:/bin"},
        )  # fmt: skip

    def test_one_that_cannot_be_loaded_does_not_take_the_others_with_it(self, install):
        folder = install("bad-parts", {"bad_parts.py": "1 / 0"}, {"w3ray.importers": {"bad-set": "bad_parts:BAD"}})
        assert "bad-set" in IMPORTERS
        listed = self.run(folder, "--help")
        assert listed.returncode == 0, listed.stderr
        assert "Cannot be loaded: importers: 'bad-set' from bad-parts 1.0" in " ".join(
            listed.stdout.replace("│", "").split()
        )
        done = self.run(folder, "bad-set", "x", "--videos", "y", "--out", "z.parquet")
        assert done.returncode == 2
        assert done.stderr.splitlines() == [
            "error: importers: 'bad-set' from bad-parts 1.0 cannot be loaded: ZeroDivisionError: division by zero"
        ]


def test_an_attention_of_a_package_keeps_its_contract(install):
    text = ATTENTION.replace(
        'ATTENTION.add("scale", AttentionKind(ScaleConfig, Scale))', "SCALE = AttentionKind(ScaleConfig, Scale)"
    )
    install("my-scale", {"my_scale.py": text}, {"w3ray.attentions": {"scale": "my_scale:SCALE"}})
    plugins.check_contracts([("attentions", "scale"), ("attentions", "w3")])
    assert list(ATTENTIONS)[-1] == "scale"
