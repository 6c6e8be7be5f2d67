import pytest
from fault_harness import WITH_STUDENT, Outcome, expected_history, faulty_recipe

from w3ray.pipeline import run


@pytest.fixture(scope="session")
def undisturbed(ray_session, motion_manifest, tmp_path_factory):
    """The result of the recipe of these tests without a fault."""
    storage = tmp_path_factory.mktemp("undisturbed")
    recipe = faulty_recipe(motion_manifest, storage, stages=WITH_STUDENT)
    run(recipe)
    outcome = Outcome(storage)
    assert outcome.steps_again == 0
    assert outcome.samples == {stage: expected_history(recipe, stage) for stage in ("student", "teacher")}
    return outcome
