"""A stage that starts before its turn changes no result, and is stopped when necessary."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from w3ray.data.schedule import Schedule
from w3ray.errors import RunError
from w3ray.events import StageStarted, StepDone
from w3ray.pipeline import ahead, complete, run
from w3ray.pipeline.ahead import LEAD_S, nearly_done
from w3ray.pipeline.stage_processes import follow
from w3ray.recipe import Recipe
from w3ray.runtime.faults import TeacherMissing


def test_nearly_done_is_by_the_seconds_that_are_left():
    schedule = Schedule(
        num_train=100, num_val=1, num_test=1, batch_size=10, microbatch_size=10, epochs=10, validate_every_epochs=1,
        seed=0, world_size=1,
    )  # fmt: skip

    def at(step: int, clips_per_s: float) -> bool:
        return nearly_done(SimpleNamespace(step=step, clips_per_s=clips_per_s), SimpleNamespace(schedule=schedule))

    assert not at(50, clips_per_s=500 / LEAD_S - 1)
    assert at(50, clips_per_s=500 / LEAD_S + 1)
    assert at(100, clips_per_s=0.1)


def test_a_stage_that_gave_up_is_started_again():
    class Run:
        def outcome(self, on_event, watch):
            return {"best_checkpoint": "step_00000001"}

    class GaveUp:
        def outcome(self, on_event, watch):
            raise TeacherMissing("not there")

    lost = []
    outcome = follow(
        SimpleNamespace(status=SimpleNamespace(step=0)), lambda item: Run(), started=GaveUp(),
        on_event=lambda event: None, watch=lambda: None, on_lost=lost.append,
    )  # fmt: skip
    assert outcome == {"best_checkpoint": "step_00000001"}
    assert lost == []


def test_a_stage_in_its_turn_is_not_started_again_for_its_teacher():
    class GaveUp:
        def outcome(self, on_event, watch):
            raise TeacherMissing("not there")

    with pytest.raises(TeacherMissing):
        follow(
            SimpleNamespace(status=SimpleNamespace(step=0)), lambda item: GaveUp(), started=None,
            on_event=lambda event: None, watch=lambda: None, on_lost=lambda message: None,
        )  # fmt: skip


def recipe(manifest: Path, storage: Path) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tiny",
            "storage": str(storage),
            "data": {"manifest": str(manifest), "num_frames": 4, "size": 32, "test_split": "test"},
            "model": {"name": "tsm", "backbone": "resnet_small", "attention": {"kind": "w3"}},
            "train": {"epochs": 1, "batch_size": 8, "microbatch_size": 8, "lr": 0.05, "log_every_steps": 1},
            "stages": [{"name": "teacher"}, {"name": "student", "teacher": "teacher", "loss_weights": {"mfr": 0.5}}],
            "evaluation": {"split": "test"},
        }
    )


def weights(result, name: str) -> bytes:
    found = next(item for item in result.stages if item.name == name)
    return (Path(found.model) / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
class TestChain:
    def test_same_result_as_one_after_the_other(self, motion_manifest, tmp_path, monkeypatch):
        events = []
        early = run(recipe(motion_manifest, tmp_path / "early"), on_event=events.append)
        # The display gets no events of the student before the teacher is done.
        heard = [event.stage for event in events if isinstance(event, StageStarted | StepDone)]
        assert heard == ["teacher"] * 4 + ["student"] * 4
        monkeypatch.setattr(ahead, "LEAD_S", -1.0)  # in sequence
        late = run(recipe(motion_manifest, tmp_path / "late"))
        assert weights(early, "student") == weights(late, "student")
        assert weights(early, "student") != weights(early, "teacher")

    def test_is_let_go_when_its_teacher_fails(self, motion_manifest, tmp_path, monkeypatch):
        chain = recipe(motion_manifest, tmp_path)

        def fail(*_):
            raise RunError("no space left")

        with monkeypatch.context() as patch:
            patch.setattr(complete, "complete_stage", fail)
            with pytest.raises(RunError, match="no space left"):
                run(chain)
        # At once: the early student may still hold a CPU that the teacher needs, but only for a short time.
        again = run(chain)
        assert [(item.name, item.state) for item in again.stages] == [("teacher", "resume"), ("student", "run")]
