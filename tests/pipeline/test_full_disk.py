"""A disk that is full when a checkpoint is due: the run ends with one line, and goes on where there is room."""

import pytest

from w3ray.errors import RunError
from w3ray.pipeline import run
from w3ray.recipe import Recipe
from w3ray.training.checkpoint_files import newest_valid_checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_session")]


def test_the_run_ends_with_one_line_and_resumes_when_there_is_room(motion_manifest, small_disk, tmp_path):
    disk = small_disk("4m")  # a checkpoint is 2.5 MB
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "storage": str(disk),
            "data": {"manifest": str(motion_manifest), "num_frames": 4, "size": 32, "test_split": "test"},
            "model": {"name": "tsm", "backbone": "resnet_small", "attention": {"kind": "w3"}},
            "train": {"epochs": 2, "batch_size": 8, "microbatch_size": 8, "lr": 0.05},
            "stages": [{"name": "teacher"}],
            "evaluation": {"split": "test"},
            "tracking": {"enabled": False},
        }
    )
    # Of the checkpoint, or of Ray Train's record of it: whichever is written when the last byte is used.
    with pytest.raises(
        RunError, match=r"teacher-.*: can not be written \(No space left on device\); make room"
    ) as caught:
        run(recipe)
    assert "\n" not in str(caught.value)
    (checkpoints,) = disk.glob("stages/*/checkpoints")
    newest = newest_valid_checkpoint(checkpoints)
    assert newest is not None
    assert newest.name == "step_00000003"

    small_disk("64m")
    result = run(recipe)
    assert result.stages[0].state == "resume"
    assert newest_valid_checkpoint(checkpoints) == checkpoints / "step_00000006"
