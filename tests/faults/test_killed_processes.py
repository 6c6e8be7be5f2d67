"""kill -9 of each process of a run, in each part of it: it goes on, loses nothing and ends with the same bits."""

import pytest
from fault_harness import (
    CONTROLLER,
    COORDINATOR,
    DECODER,
    WITH_STUDENT,
    WORKER,
    Strike,
    at_step,
    faulty_recipe,
    kill_one,
    note,
    recovery_s,
    struck_run,
    validating,
    writing_checkpoint,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_session")]


@pytest.mark.parametrize(
    ("fault", "title", "moment"),
    [
        ("training worker, in the teacher", WORKER, (at_step, "teacher", 9)),
        ("training worker, in the student", WORKER, (at_step, "student", 9)),
        ("training worker, during validation", WORKER, (validating, "teacher", 7)),
        ("training worker, during a checkpoint write", WORKER, (writing_checkpoint, "teacher", 8)),
        ("decoder", DECODER, (at_step, "teacher", 9)),
        ("stream coordinator", COORDINATOR, (at_step, "teacher", 9)),
        ("Train controller", CONTROLLER, (at_step, "teacher", 9)),
    ],
)
def test_killed_process(undisturbed, motion_manifest, tmp_path, fault, title, moment):
    when, stage, number = moment
    strike = Strike(when(tmp_path, stage, number), lambda: kill_one(title))
    stages = {"stages": WITH_STUDENT} if stage == "student" else {}
    outcome, told = struck_run(faulty_recipe(motion_manifest, tmp_path, **stages), strike)
    seconds = recovery_s(outcome.folders[stage], strike.at_s)
    cost = outcome.cost(f"kill -9: {fault}", undisturbed, seconds)
    note(cost)
    assert (cost.lost, cost.doubled, cost.identical) == (0, 0, True)
    # A checkpoint every second step, and its upload goes on beside the steps after it.
    assert cost.steps_again <= 4
    if title != DECODER:  # Ray starts a decoder again, and nobody but its clips waits
        assert any("from step" in message for message in told), told
