"""`data show` draws the mixtures that the training step makes."""

import contextlib

import numpy as np
import torch

from w3ray.data.contact_sheet import draw_sheet, training_rows
from w3ray.data.manifest import read_manifest
from w3ray.pipeline.mixed_clips import mixed_rows
from w3ray.pipeline.prepare import stage_schedule
from w3ray.recipe import Recipe
from w3ray.training.mixing import Mixing
from w3ray.training.randomness import microbatch_seed
from w3ray.training.step import TrainingStep


def test_the_pixels_and_labels_are_those_of_the_step(motion_manifest):
    manifest = read_manifest(motion_manifest)
    recipe = Recipe.model_validate({
        "name": "mixed", "data": {"manifest": str(motion_manifest), "num_frames": 2, "size": 32},
        "model": {"backbone": "resnet_small", "attention": None}, "stages": [{"name": "teacher"}],
        "train": {"mix": {}, "batch_size": 6, "microbatch_size": 3, "epochs": 2},
    })  # fmt: skip
    (stage,) = recipe.resolved_stages()
    schedule = stage_schedule(stage, manifest.split("train")["label"].to_numpy())
    rows = training_rows(manifest, "train", recipe.data.clip_spec(), schedule, epoch=1, count=9)
    shown = mixed_rows(rows, stage, schedule, 1)
    assert len(shown) == 9

    class Network(torch.nn.Module):
        """Keeps its input."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x_BTCHW):
            self.seen = x_BTCHW
            raise StopIteration

    network = Network()
    step = TrainingStep(
        network, optimizer=torch.optim.SGD(network.parameters()), loss_weights={"cross_entropy": 1.0},
        mixing=Mixing(**stage.train.mix.model_dump()), mean=(0, 0, 0), std=(1, 1, 1),
    )  # fmt: skip
    for first in (0, 3, 6):
        number, slot = divmod(first, 6)
        clips = torch.from_numpy(np.stack([row.clip.frames_TSSC for row in rows[first : first + 3]]))
        seed = microbatch_seed(stage.seed, "dropout", schedule.steps_per_epoch + number, slot // 3)
        with contextlib.suppress(StopIteration):
            step.accumulate(clips, torch.zeros(3), torch.ones(3, dtype=torch.bool), normalizer=9, seed=seed, last=False)
        seen = network.seen.permute(0, 1, 3, 4, 2) * 255
        ours = torch.from_numpy(np.stack([row.clip.frames_TSSC for row in shown[first : first + 3]])).float()
        torch.testing.assert_close(ours, seen, rtol=0, atol=0.51)
    mixed = [row for row in shown if row.mixed_with is not None]
    assert mixed
    assert all({row.clip_id, row.mixed_with.clip_id} <= {one.clip_id for one in rows} for row in mixed)
    sheet = draw_sheet(shown, manifest.heads, num_frames=2, size=32, title="", subtitle="")
    plain = draw_sheet(rows, manifest.heads, num_frames=2, size=32, title="", subtitle="")
    assert not np.array_equal(np.asarray(sheet), np.asarray(plain))
