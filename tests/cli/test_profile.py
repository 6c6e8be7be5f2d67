"""`w3ray profile` prints the figures of the paper's models."""

import json
from pathlib import Path

import pytest
import torch

from w3ray.cli import main
from w3ray.cli._systems import document, rows_of
from w3ray.models.published import here


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tsm resnet50, 8 frames of 224 x 224, 1000 classes, per clip"
    rows = {line.split("  ")[0]: line.split() for line in lines[2:5]}
    assert "32.71" in rows["plain"]
    assert "32.77" in rows["+ w3"]
    assert any(line.strip().startswith("refinement") for line in lines)


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    words = "profile --model tsm --backbone resnet50 --frames 16 --size 224 --attention w3 --dense --json"
    assert main(words.split()) == 0
    document = json.loads(capsys.readouterr().out)
    gmac = {row["name"]: round(row["macs"] / 1e9, 2) for row in document["rows"]}
    assert gmac["plain"] == 65.43
    assert gmac["+ w3 (dense)"] == 67.47
    assert document["rows"][1]["overhead_macs"] == pytest.approx(0.0313, abs=1e-4)
    for row in document["rows"]:
        assert sum(part["macs"] for part in row["parts"]) == row["macs"]


def test_without_attention_and_3d(capsys: pytest.CaptureFixture[str]) -> None:
    words = "profile --model r3d_18 --attention none --size 112 --frames 16 --num-classes 400 --json"
    assert main(words.split()) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["backbone"] is None
    # torchvision documents 40.70 GFLOPS (multiply-adds) for R3D_18 at 16 x 112 x 112.
    assert [round(row["macs"] / 1e9, 2) for row in document["rows"]] == [40.70]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--model tsx", "unknown model 'tsx'"),
        ("--backbone vgg", "unknown backbone 'vgg'"),
        ("--attention w4", "unknown kind 'w4'"),
        ("--attention none --dense", "--dense is an option of w3"),
        ("--frames 0", "--frames"),
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], words: str, text: str) -> None:
    assert main(["profile", *words.split()]) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.out == ""


class TestRecipes:
    def test_the_network_of_a_recipe_with_its_clips(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["profile", "quickstart", "--set", "data.num_frames=4", "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert (document["model"], document["backbone"]) == ("tsm", "resnet_small")
        assert (document["num_frames"], document["size"], document["num_classes"]) == (4, 40, 8)
        assert [row["name"] for row in document["rows"]] == ["plain", "+ w3", "+ w3 + refinement"]

    def test_options_and_attention_are_those_of_the_recipe(self, capsys: pytest.CaptureFixture[str]) -> None:
        nonlocal_ = "model.attention={kind: nonlocal, stages: [3], every: 2, pool: none}"
        words = ["profile", "ssv1-tsm-16f", "--num-classes", "174", "--set", nonlocal_, "--json"]
        assert main(words) == 0
        document = json.loads(capsys.readouterr().out)
        gmac = [round(row["macs"] / 1e9, 2) for row in document["rows"]]
        assert gmac == [65.40, 115.34], "the manifest is not needed"

    def test_clips_of_flow_and_boxes_are_counted_as_they_are(self, capsys: pytest.CaptureFixture[str]) -> None:
        """As `docs/zoo.md` counts them, and not as a network of RGB frames or of another number of boxes."""

        def cost(*words: str) -> tuple[float, int]:
            assert main(["profile", *words, "--json"]) == 0
            (row, *_) = json.loads(capsys.readouterr().out)["rows"]
            return row["macs"] / 1e9, row["parameters"]

        flow, rgb = (cost("ssv1-eco-lite-flow-16f", "--set", f"data.flow_fields={fields}") for fields in (5, "null"))
        # The first convolution is 7 x 7 with stride 2 and 64 channels. It reads 10 channels instead of 3.
        assert flow[1] - rgb[1] == 64 * 7 * 7 * (10 - 3)
        assert flow[0] - rgb[0] == pytest.approx(64 * 49 * 7 * 112 * 112 * 16 / 1e9)
        few, many = (cost("ssv1-i3d-nl-gcn", "--set", f"data.boxes_per_frame={count}") for count in (5, 20))
        assert few[0] < many[0]

    def test_classes_of_a_manifest(self, capsys: pytest.CaptureFixture[str], motion_manifest: Path) -> None:
        assert main(["profile", "ut-interaction", "--set", f"data.manifest={motion_manifest}", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["num_classes"] == 8

    @pytest.mark.parametrize(
        ("words", "text"),
        [
            ("quickstrat", "unknown recipe 'quickstrat'"),
            ("quickstart --model tsn", "--model cannot be given with recipe quickstart; change the recipe by --set"),
            ("--set data.size=32", "--set changes a recipe; name one"),
            ("--all --frames 16", "--frames cannot be given with --all"),
            ("quickstart --all", "quickstart cannot be given with --all"),
            ("--markdown", "add --all"),
            ("--all --markdown --seconds", "--seconds are of one machine"),
            ("--backbone bninception --size 100", "sides must be multiples of 32"),
        ],
    )
    def test_bad_input(self, capsys: pytest.CaptureFixture[str], words: str, text: str) -> None:
        assert main(["profile", *words.split()]) == 2
        assert text in capsys.readouterr().err


def test_seconds_of_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    words = "profile --backbone resnet_small --frames 2 --size 32 --attention none --seconds"
    assert main([*words.split(), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
    assert row["forward_s"] > 0
    assert row["training_step_s"] > 0
    assert main(words.split()) == 0
    assert "training step" in capsys.readouterr().out


class TestAllSystems:
    """`docs/zoo.md` is what `w3ray profile --all --markdown` prints."""

    PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"

    def test_page_has_a_row_for_each_system_that_is_here(self) -> None:
        lines = [line for line in self.PAGE.read_text().splitlines() if line.startswith("| ")][1:]
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        assert [(row[0], row[1], row[2]) for row in cells] == [(one.name, one.tables, one.frames) for one in here()]
        assert [row[6] for row in cells] == [one.gmac or "" for one in here()]

    def test_a_row(self) -> None:
        (system,) = [one for one in here() if (one.name, one.frames) == ("TSM", "8")]
        (row,) = rows_of([system])
        (line,) = [line for line in document([row]).splitlines() if line.startswith("| TSM |")]
        assert line in self.PAGE.read_text().splitlines()
        assert line.startswith(
            "| TSM | 1, 4 | 8 | 224 | 174 | 32.70 | 33 | 23.86 | 24.3 | yes | `w3ray run ssv1-tsm-8f`"
        )

    @pytest.mark.slow
    def test_page_is_what_the_command_prints(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["profile", "--all", "--markdown"]) == 0
        assert capsys.readouterr().out == self.PAGE.read_text()

    @pytest.mark.slow
    def test_table_and_document_of_the_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["profile", "--all"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split()[:3] == ["system", "tables", "frames"]
        assert main(["profile", "--all", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert len(found["systems"]) == len(here())
        assert len(lines) == 1 + len(found["systems"]) + len(found["missing"])
