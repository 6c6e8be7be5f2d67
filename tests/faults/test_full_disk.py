"""The disk is full when a checkpoint is written: the run ends with one line, and resumes when there is space."""

import pytest
from fault_harness import Outcome, faulty_recipe, note

from w3ray.errors import RunError
from w3ray.pipeline import run
from w3ray.training.checkpoint_files import newest_valid_checkpoint

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_session")]


def test_the_run_ends_with_one_line_and_resumes_when_there_is_room(undisturbed, motion_manifest, small_disk):
    disk = small_disk("4m")  # a checkpoint is 2.5 MB
    recipe = faulty_recipe(motion_manifest, disk)
    # The last byte may be used by the checkpoint or by Ray Train's record of it.
    with pytest.raises(
        RunError, match=r"teacher-.*: cannot be written \(No space left on device\); make room"
    ) as caught:
        run(recipe)
    assert "\n" not in str(caught.value)
    (checkpoints,) = disk.glob("stages/*/checkpoints")
    newest = newest_valid_checkpoint(checkpoints)
    assert newest is not None
    assert newest.name == "step_00000002"

    small_disk("64m")
    result = run(recipe)
    assert result.stages[0].state == "resume"
    cost = Outcome(disk).cost("full disk at a checkpoint (then the same command, with room)", undisturbed, None)
    note(cost)
    assert (cost.lost, cost.doubled, cost.identical) == (0, 0, True)
    assert cost.steps_again <= 4
