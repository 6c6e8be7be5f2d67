"""A network that cannot take the clips, or an attention that enters no site, is refused before anything starts."""

import json
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch

from w3ray.cli import main
from w3ray.data.clip import ClipSpec
from w3ray.errors import InputError
from w3ray.evaluation.normalize import IMAGENET_MEAN, IMAGENET_STD
from w3ray.models import build_model
from w3ray.models.bundle import ModelDescription, write_model
from w3ray.models.fits import check_network
from w3ray.recipe import load_recipe
from w3ray.scoring.evaluate import evaluate
from w3ray.scoring.predict import predict

BNINCEPTION = ["model.backbone=bninception", "data.size=100"]
SIDES = "bninception: frames of 100 x 100 pixels: sides must be multiples of 32"
NO_SITE = ["model.attention.stages=[7]"]
ENTERS_NONE = "W3 enters no site of this TSM: its 4 stages have 1, 1, 1, 1 sites; change stages, every or first"


def refused(command: list[str], capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert main(command) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert text in line


def words(changes: list[str]) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


@pytest.mark.parametrize(("changes", "text"), [(BNINCEPTION, SIDES), (NO_SITE, ENTERS_NONE)])
class TestShippedParts:
    def test_run(self, changes, text, capsys, tmp_path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        refused(["run", "quickstart", *words(changes)], capsys, text)
        assert not list(tmp_path.glob("runs/*")), "nothing was written"

    def test_tune(self, changes, text, capsys, tmp_path, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        refused(["tune", "smoke", "--pipeline", "quickstart", *words(changes)], capsys, text)
        assert not list(tmp_path.glob("runs/*"))

    def test_dry_runs(self, changes, text, capsys) -> None:
        refused(["run", "quickstart", "--dry-run", *words(changes)], capsys, text)
        refused(["tune", "smoke", "--dry-run", "--pipeline", "quickstart", *words(changes)], capsys, text)


def test_a_stage_of_its_own_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match=r"stages.student.model: bninception: frames of 100 x 100"):
        load_recipe("quickstart", ["data.size=100", "stages.student.model={backbone: bninception, attention: null}",
                                   "stages.student.loss_weights={}", "stages.student.teacher=null"])  # fmt: skip


def test_built_in_networks_need_no_torch() -> None:
    code = (
        "import sys; from w3ray.recipe import load_recipe; from w3ray.pipeline.prepare import *\n"
        "recipe = load_recipe('quickstart'); plan_stages(recipe, prepare_data(recipe)); print('torch' in sys.modules)\n"
        "load_recipe('quickstart', ['model.backbone=bninception', 'data.size=64']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_network_that_needs_real_numbers_is_left_to_the_run(monkeypatch) -> None:
    from w3ray.models.tsn import TSN

    monkeypatch.setattr(TSN, "forward", lambda self, x_BTCHW: x_BTCHW.sum().item())
    check_network({"name": "tsn", "backbone": "resnet_small", "num_classes": 2}, 4, 32)


@pytest.mark.parametrize(
    ("options", "text"),
    [("--backbone bninception --size 100", SIDES), ("--backbone bninception --size 33", "multiples of 32")],
)
def test_profile(options, text, capsys) -> None:
    refused(["profile", *options.split()], capsys, text)


class TestViewsOfAnotherSize:
    """A protocol with whole short sides gives other frames than training: 64 pixels there are 73 here."""

    TEXT = "3crop-2clip: bninception: frames of 73 x 73 pixels: sides must be multiples of 32"

    @pytest.fixture
    def model(self, motion_manifest, tmp_path) -> str:
        arguments = {"name": "tsn", "backbone": "bninception", "num_classes": 8}
        torch.manual_seed(0)
        from w3ray.data.manifest import read_manifest

        write_model(
            tmp_path / "model", build_model(**arguments),
            ModelDescription(
                model=arguments, clip=asdict(ClipSpec(num_frames=2, size=64)),
                classes=read_manifest(motion_manifest).classes, mean=IMAGENET_MEAN, std=IMAGENET_STD,
            ),
        )  # fmt: skip
        return str(tmp_path / "model")

    def test_evaluate(self, model, motion_manifest, tmp_path) -> None:
        with pytest.raises(InputError, match=self.TEXT):
            evaluate([model], str(motion_manifest), protocol="3crop-2clip", storage=str(tmp_path / "runs"))

    def test_predict(self, model, motion_manifest) -> None:
        with pytest.raises(InputError, match=self.TEXT):
            next(predict(model, manifest=str(motion_manifest), protocol="3crop-2clip"))


def test_points_of_a_sweep_that_do_not_fit_are_skipped() -> None:
    """`_cost` is asked for every point before it is tried."""
    from w3ray.sweep.space import load_space
    from w3ray.sweep.sweep import _Sweep

    sweep = _Sweep(load_space("smoke"), load_recipe("quickstart"), None, lambda status: None)
    with pytest.raises(InputError, match="enters no site"):
        sweep._cost(load_recipe("quickstart", NO_SITE))
    assert json.dumps(dict(sweep._cost(load_recipe("quickstart")))) == "{}"
