"""kill -9 of each process of a run, at several moments: the run resumes, loses nothing and ends with the same bits."""

import pytest
from fault_harness import (
    CONTROLLER,
    COORDINATOR,
    DECODER,
    MOMENTS,
    WORKER,
    Strike,
    Victim,
    at_step,
    faulty_recipe,
    note,
    once,
    recovery_s,
    stages_to,
    struck_run,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_session")]


PROCESSES = {
    "training worker": WORKER,
    "decoder": DECODER,
    "stream coordinator": COORDINATOR,
    "Train controller": CONTROLLER,
}


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("name", PROCESSES)
def test_killed_process(undisturbed, motion_manifest, tmp_path, name, moment):
    stage, when = MOMENTS[moment]
    victim, now, trains = Victim(PROCESSES[name]), when(tmp_path), once(at_step(tmp_path, stage, 3))
    strike = Strike(lambda: trains() and victim.found() and now(), victim.kill)
    outcome, told = struck_run(faulty_recipe(motion_manifest, tmp_path, stages=stages_to(stage)), strike)
    seconds = recovery_s(outcome.folders[stage], strike.at_s)
    cost = outcome.cost(f"kill -9: {name}, {moment}", undisturbed, seconds)
    note(cost)
    assert (cost.lost, cost.doubled, cost.identical) == (0, 0, True)
    # A checkpoint every second step. Its upload runs during the next steps.
    assert cost.steps_again <= 4
    if name != "decoder":  # Ray restarts a decoder, and only its clips wait
        assert any("from step" in message for message in told), told
