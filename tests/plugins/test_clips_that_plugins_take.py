"""Plugins say which clips they take, or are asked with one clip that has shapes only, before anything starts."""

from pathlib import Path

import pytest

from w3ray.cli import main

PLUGIN = '''"""A model and a backbone that do not take all clips."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from w3ray.models import BACKBONES, MODELS, Backbone, ModelFamily
from w3ray.models.options import ModelOptions
from w3ray.models.resnet_small import resnet_small
from w3ray.models.tsn import TSN


@dataclass(frozen=True, slots=True, kw_only=True)
class PairsOptions(ModelOptions):
    label: ClassVar[str] = "pairs"

    def check_clip(self, num_frames, size):
        if num_frames % 2:
            raise ValueError(f"pairs: clips of {num_frames} frames: must be an even number")


class Tight(TSN):
    """It says nothing in advance."""

    def forward(self, x_BTCHW):
        if x_BTCHW.shape[1] > 4:
            raise ValueError(f"tight: clips of {x_BTCHW.shape[1]} frames: at most 4")
        return super().forward(x_BTCHW)


class Whole(TSN):
    """Fails as torch's own code does."""

    def forward(self, x_BTCHW):
        if x_BTCHW.shape[1] > 4:
            nn.functional.conv3d(x_BTCHW, x_BTCHW.new_zeros(1, x_BTCHW.shape[2], 9, 9, 9))
        return super().forward(x_BTCHW)


MODELS.add("pairs", ModelFamily(TSN, PairsOptions, takes_backbone=True))
MODELS.add("tight", ModelFamily(Tight, takes_backbone=True))
MODELS.add("whole", ModelFamily(Whole, takes_backbone=True))
BACKBONES.add("sixteen", Backbone(resnet_small, side=16))
'''


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    (tmp_path / "odd.py").write_text(PLUGIN)
    return f"plugins=[{tmp_path / 'odd.py'}]"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (["model.name=pairs", "data.num_frames=5"], "model: pairs: clips of 5 frames: must be an even number"),
        (
            ["model.backbone=sixteen", "data.size=40"],
            "sixteen: frames of 40 x 40 pixels: sides must be multiples of 16",
        ),
        (["model.name=tight"], "model: tight: clips of 8 frames: at most 4"),
        (["model.name=whole"], "model: whole: cannot take clips of 8 frames of 40 x 40 pixels: RuntimeError: "),
    ],
)
def test_one_line_and_exit_code_2(changes, text, plugin, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word for change in (plugin, *changes) for word in ("--set", change)]
    assert main(["run", "quickstart", *words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert text in line
