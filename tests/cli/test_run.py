"""`w3ray run`: bad input is refused before anything starts; the plan. tests/pipeline tests the chain itself."""

import json
from pathlib import Path

import pytest
import yaml

from w3ray.cli import main
from w3ray.cli.run import plan_text
from w3ray.pipeline.tracked import describe_tracking
from w3ray.recipe import Recipe, load_recipe


class TestBadInput:
    @pytest.mark.parametrize(
        ("words", "text"),
        [
            (["quickstrat"], "unknown recipe 'quickstrat'; did you mean 'quickstart'?"),
            (["none.yaml"], "none.yaml: no such file"),
            (["quickstart", "--set", "train.epoch=3"], "train.epoch: unknown key; did you mean 'train.epochs'?"),
            (["quickstart", "--set", "train.epochs=ten"], "must be a whole number, got 'ten'"),
            (["quickstart", "--set", "train"], "must look like key=value"),
            (["quickstart", "--compare", "--set", "model.attention=null"], "nothing to compare"),
        ],
    )
    def test_one_line_and_nothing_written(
        self,
        words: list[str],
        text: str,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert main(["run", *words]) == 2
        captured = capsys.readouterr()
        (line,) = captured.err.splitlines()
        assert line.startswith("error: ")
        assert text in line
        assert list(tmp_path.iterdir()) == []
        assert main(["run", *words, "--json"]) == 2
        document = json.loads(capsys.readouterr().out)
        assert text in document["error"]["message"]

    def test_every_fault_has_its_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["run", "quickstart", "--set", "sed=1", "--set", "train.epoch=3"]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 2


class TestDryRun:
    def test_text_is_a_recipe_again(self) -> None:
        recipe = load_recipe("quickstart", ["train.epochs=3"])
        names = tuple(f"backbone.{number}" for number in range(6))
        weights = {
            "stage": "teacher", "source": "models:/x/3", "layout": "w3ray", "taken": 12, "fresh": names,
            "left_out": ("classifier.bias",),
        }  # fmt: skip
        text = plan_text(
            {
                "recipe": recipe.to_dict(),
                "stages": [{"name": "teacher", "state": "run", "why": "new", "weights": weights}],
                "videos": {"changed": ["a.mp4"], "touched": []},
                "resources": {"workers": 1, "decoder_cpus": 0.5},
                "tracking": describe_tracking(recipe),
            }
        )
        assert Recipe.model_validate(yaml.safe_load(text)) == recipe
        assert "# stage teacher  run     new" in text
        assert (
            "# teacher: weights models:/x/3 (w3ray layout): 12 tensors taken; left out: classifier.bias; "
            "new: backbone.0, backbone.1, backbone.2, backbone.3 and 2 more\n"
        ) in text
        assert "# resources: workers 1, decoder_cpus 0.5" in text
        assert "# videos: a.mp4 was changed since the import: stages that saw the old content are not reused" in text
        assert "# tracking: sqlite:///" in text

    @pytest.mark.ray
    @pytest.mark.slow
    def test_json(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        words = ["run", "quickstart", "--dry-run", "--json", "--storage", str(tmp_path / "runs")]
        assert main(words) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["recipe"]["storage"] == str(tmp_path / "runs")
        assert [stage["name"] for stage in document["stages"]] == ["teacher", "student"]
        assert {stage["state"] for stage in document["stages"]} == {"run"}
        assert document["resources"]["workers"] == 1
        assert document["tracking"]["uri_from"] == "default"
