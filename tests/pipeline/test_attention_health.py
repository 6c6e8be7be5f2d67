"""The health of a stage's gates, from training to model: in MLflow, in its result and report, in the linter."""

import csv
import io
import json
from pathlib import Path

import pytest
from in_process import in_process
from mlflow import MlflowClient
from rich.console import Console

from w3ray.attention.health import HEALTH_NAME, StageHealth, faults, read_health
from w3ray.cli._display import Display
from w3ray.events import AttentionHealth, StepDone
from w3ray.lint import lint
from w3ray.recipe import Recipe


def recipe(manifest: Path, storage: Path, **train) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "tiny",
            "storage": str(storage),
            "data": {"manifest": str(manifest), "num_frames": 4, "size": 32, "test_split": "test"},
            "model": {"name": "tsm", "backbone": "resnet_small", "attention": {"kind": "w3"}},
            # The learning rate is too low for any gate to move.
            "train": {"epochs": 2, "batch_size": 8, "microbatch_size": 3, "lr": 1e-6, "log_every_steps": 1,
                      "checkpoint_every_steps": 2, **train},
            "stages": [{"name": "teacher"}],
            "evaluation": {"split": "test"},
        }
    )  # fmt: skip


def gates(stages: tuple[StageHealth, ...]) -> list[dict[str, dict[str, float]]]:
    return [{kind: gate.numbers() for kind, gate in stage.gates().items()} for stage in stages]


def found_by_lint(one: Recipe) -> list[str]:
    return [finding.source for finding in lint(one).findings if finding.rule == "gates_of_finished_stages"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_from_the_worker_to_the_linter(motion_manifest, tmp_path):
    one = recipe(motion_manifest, tmp_path)

    def interrupt(event):
        if isinstance(event, StepDone) and event.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_process(one, interrupt)
    assert found_by_lint(one) == [], "the stage is not finished"
    told: list[AttentionHealth] = []
    stream = io.StringIO()
    with Display(Console(file=stream, force_terminal=False, width=80)) as display:

        def hear(event):
            display.handle(event)
            if isinstance(event, AttentionHealth):
                told.append(event)

        result = in_process(one, hear)
    (stage,) = result.stages
    assert stage.state == "resume"

    # For each validation, in MLflow, also for the validation before the interruption.
    client = MlflowClient(result.tracking["uri"])
    last = told[-1]
    assert (last.stage, last.step, [one.stage for one in last.stages]) == ("teacher", 6, [1, 2, 3, 4])
    for health in last.stages:
        assert health.grad_norm is not None
        assert health.grad_norm > 0
        assert len(health.metrics()) == 13
        for name, value in health.metrics().items():
            points = client.get_metric_history(stage.tracking_run, f"attention/{name}")
            assert [point.step for point in points] == [3, 6]
            assert points[-1].value == value

    # For the best checkpoint, in the stage's own evaluation: beside the model, in the result, in the report.
    model = Path(stage.model)
    assert stage.attention == read_health(model)
    assert [one.stage for one in stage.attention] == [1, 2, 3, 4]
    document = json.loads(json.dumps(result.document(), allow_nan=False))["stages"][0]
    assert document["attention"] == json.loads((model / HEALTH_NAME).read_text())
    assert document["attention_faults"] == faults(stage.attention)
    with (model.parent / "report" / "attention.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [(row["model"], row["stage"], row["gate"], row["verdict"]) for row in table] == [
        ("teacher", str(number), kind, "not moved") for number in (1, 2, 3, 4) for kind in ("channel", "spatial")
    ]
    assert float(table[1]["std_space"]) == stage.attention[0].spatial.std_space
    assert "attention.csv" in {Path(file.path).name for file in client.list_artifacts(stage.tracking_run, "report")}

    # What the user sees at the end, and from the linter.
    lines = stream.getvalue().splitlines()
    (said,) = [line for line in lines if line.startswith("attention    of teacher: gates deviate by 0.0")]
    assert said.endswith(" (spatial)")
    sentences = faults(stage.attention)
    assert len(sentences) == 2
    assert all("of stages 1, 2, 3, 4 have not moved" in sentence for sentence in sentences)
    assert [line for line in lines if "have not moved" in line] == [f"warning: teacher: {one}" for one in sentences]
    assert found_by_lint(one) == [f"in the finished stage {sentence}" for sentence in sentences]
    assert found_by_lint(recipe(motion_manifest, tmp_path, epochs=3)) == [], "another training"

    # The results do not depend on place or interruption. A stage of a version before this feature is also finished.
    plain = in_process(recipe(motion_manifest, tmp_path / "plain"))
    assert gates(plain.stages[0].attention) == gates(stage.attention)
    (model / HEALTH_NAME).unlink()
    (older,) = in_process(one).stages
    assert (older.state, older.attention, older.attention_faults) == ("reuse", (), ())
    assert found_by_lint(one) == []
