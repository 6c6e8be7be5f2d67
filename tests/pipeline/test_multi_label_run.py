"""Multi-label clips in every command: run, report, evaluation, comparison, prediction, explanation, export.

The generated classes are four pairs of two directions of time. The pair and the direction are two classes of a clip;
two of the eight sets lack one of them, and one is empty.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from in_process import in_process
from sklearn.metrics import average_precision_score
from typer.testing import CliRunner

import w3ray
from w3ray.cli._display import RunView
from w3ray.cli.compare import shown as compared_text
from w3ray.cli.evaluate import shown as evaluated_text
from w3ray.cli.predict import shown as predicted_text
from w3ray.data.manifest import read_manifest, write_manifest
from w3ray.errors import InputError
from w3ray.events import StepDone
from w3ray.explaining.videos import explain_videos
from w3ray.export import export_model
from w3ray.models.bundle import load_model
from w3ray.pipeline.prepare import plan_stages, prepare_data
from w3ray.recipe import Recipe
from w3ray.scoring.clip_scores import heads_of, read_scores
from w3ray.scoring.compare import compare
from w3ray.scoring.evaluate import evaluate
from w3ray.scoring.predict import predict
from w3ray.scoring.submit import write_submission
from w3ray.sweep.plan import check_objectives
from w3ray.tracking.video_model import VideoModel

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

CLASSES = ("move", "open", "join", "forwards", "backwards")
SETS = ((0, 3), (0, 4), (1, 3), (1, 4), (2, 3), (2,), (3,), ())
EVENTS: list = []


def recipe(manifest: Path, storage: Path, **train) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "multi-label",
            "storage": str(storage),
            "data": {"manifest": str(manifest), "num_frames": 4, "size": 32, "test_split": "test", "scales": [1.0]},
            "model": {"name": "tsm", "backbone": "resnet_small"},
            "train": {
                "epochs": 10, "batch_size": 8, "microbatch_size": 4, "optimizer": "adamw", "lr": 0.003,
                "lr_batch_size": 8, "log_every_steps": 1, "validate_every_epochs": 5, **train,
            },
            "stages": [
                {"name": "teacher"},
                {
                    "name": "student", "teacher": "teacher", "loss_weights": {"mfr": 0.5}, "train": {"epochs": 1},
                    "model": {"attention": {"kind": "w3"}},
                },
            ],
            "evaluation": {"split": "test"},
            "tracking": {"enabled": False},
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def manifest(motion_manifest, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("multi-label") / "sets.parquet"
    clips = replace(read_manifest(motion_manifest), classes=CLASSES, flip_map={}, label_sets=SETS)
    write_manifest(clips, path)
    return path


@pytest.fixture(scope="module")
def finished(ray_session, manifest, tmp_path_factory):
    storage = tmp_path_factory.mktemp("storage")
    return storage, in_process(recipe(manifest, storage), on_event=EVENTS.append)


@pytest.fixture(scope="module")
def evaluated(finished, manifest):
    """Both models on the test clips."""
    storage, result = finished
    return [evaluate([stage.model], str(manifest), split="test", storage=str(storage)) for stage in result.stages]


def relabelled(manifest: Path, label_of: Callable[[int], int], path: Path, **changes) -> str:
    """The place of a manifest of the same clips with other labels."""
    clips = read_manifest(manifest)
    labels = pa.array([label_of(label) for label in clips.table["label"].to_pylist()], pa.int32())
    columns = {name: clips.table[name] for name in clips.table.column_names}
    columns |= {"label": labels, "uri": pa.array(clips.resolved_uris())}
    table = pa.table(columns, schema=clips.table.schema)
    return write_manifest(replace(clips, table=table, location="", **changes), path).location


def video_of(manifest: Path) -> str:
    clips = read_manifest(manifest)
    return clips.resolved_uris(clips.split("test"))[0]


def test_a_run_learns_the_classes_of_its_clips(finished, manifest):
    """Eight clips of a test split say nothing, so the clips of the training are asked. Chance is 0.3."""
    storage, result = finished
    found = evaluate([result.stages[0].model], str(manifest), split="train", storage=str(storage))
    assert found.metrics["map"] > 0.8
    low, high = found.metrics["map_interval"]
    assert low <= found.metrics["map"] <= high


def test_a_run_has_the_loss_and_the_metrics_of_multi_label_clips(finished):
    _, result = finished
    losses = {(step.stage, tuple(step.losses)) for step in EVENTS if isinstance(step, StepDone)}
    assert losses == {("teacher", ("binary_cross_entropy",)), ("student", ("binary_cross_entropy", "mfr"))}
    for stage in result.stages:
        assert {"map", "hit1", "micro_f1", "macro_f1", "loss", "rows"} <= set(stage.metrics)
        assert "map" in stage.validation
    network, description = load_model(result.stages[-1].model)
    assert network.classifier.out_features == 5
    assert description.multi_label
    assert json.loads((Path(result.stages[-1].model) / "model.json").read_text())["format"] == 4
    report = Path(result.stages[-1].model).parent / "report"
    assert {path.name for path in report.iterdir()} == {"per_class.csv", "per_class.json", "attention.csv"}
    view = RunView()
    for event in EVENTS:
        view.apply(event)
    assert view.best_text(view.stages["teacher"]).startswith("best mAP ")


def test_evaluation_agrees_with_the_run_and_with_scikit_learn(finished, evaluated):
    _, result = finished
    for stage, found in zip(result.stages, evaluated, strict=True):
        for name in ("map", "hit1", "micro_f1", "macro_f1", "micro_precision", "micro_recall"):
            assert found.metrics[name] == stage.metrics[name], name
        assert found.metrics["loss"] == pytest.approx(stage.metrics["loss"], rel=1e-4)
    document, scores = read_scores(evaluated[0].directory)
    heads = heads_of(document)
    assert heads.label_sets == SETS
    has = np.array([[one in SETS[label] for one in range(5)] for label in scores.labels])
    precisions = [average_precision_score(has[:, one], scores.scores[:, one]) for one in range(5)]
    assert evaluated[0].metrics["map"] == pytest.approx(np.mean(precisions), abs=1e-6)
    assert "mAP" in text_of(evaluated_text(evaluated[0]))


def test_thresholds_are_a_number_or_those_of_an_evaluation(finished, manifest, evaluated, tmp_path):
    storage, result = finished
    model, options = result.stages[0].model, {"split": "test", "storage": str(storage)}
    everything = evaluate([model], str(manifest), threshold="0", **options)
    assert everything.metrics["micro_recall"] == 1.0
    best = evaluate([model], str(manifest), threshold=evaluated[0].directory, **options)
    rows = json.loads((Path(best.directory) / "report" / "per_class.json").read_text())["classes"]
    assert [row["f1"] for row in rows] == pytest.approx([row["best_f1"] for row in rows])
    assert best.metrics["macro_f1"] >= evaluated[0].metrics["macro_f1"]
    video = video_of(manifest)
    (one,) = predict(model, [video], threshold=best.directory)
    assert {name for name, _ in one.classes} == {
        name for name, score in one.top if score >= next(row["threshold"] for row in rows if row["class"] == name)
    }
    for threshold in ("1.5", "nan", str(tmp_path)):
        with pytest.raises(InputError, match=r"--threshold .*: must be (a number )?from 0 to 1"):
            evaluate([model], str(manifest), threshold=threshold, **options)
    assert w3ray.evaluate(model, manifest, threshold=0, **options).metrics == everything.metrics
    assert w3ray.predict(model, video, threshold=Path(best.directory)) == [one]
    with pytest.raises(InputError, match=r"^threshold 1\.5: must be"):
        w3ray.predict(model, video, threshold=1.5)


def test_prediction_says_which_classes_a_video_has(finished, manifest):
    _, result = finished
    model, video = result.stages[0].model, video_of(manifest)
    (one,) = predict(model, [video], top=2, threshold="0.1")
    (all_of_them,) = predict(model, [video], top=5, threshold="0")
    document = one.document()
    assert [len(document["top"]), len(all_of_them.classes)] == [2, 5]
    assert document["classes"] == [
        {"class": name, "score": score} for name, score in all_of_them.classes if score >= 0.1
    ]
    (none,) = predict(model, [video], threshold="1")
    assert none.document()["classes"] == []
    assert "(no class)" in text_of(predicted_text([none]))
    assert ", ".join(name for name, _ in one.classes[:1]) in text_of(predicted_text([one]))


def test_models_are_compared_by_map(finished, manifest, evaluated):
    storage, result = finished
    before, after = compare([one.directory for one in evaluated])
    assert (before.map, after.map) == tuple(one.metrics["map"] for one in evaluated)
    assert after.difference == pytest.approx(after.map - before.map, abs=1e-6)
    assert after.interval[0] <= after.difference <= after.interval[1]
    assert before.top1 is None
    assert all(name in CLASSES for name, _, _ in after.classes)
    assert "mAP" in text_of(compared_text([before, after]))
    together = evaluate(
        [stage.model for stage in result.stages], str(manifest), split="test", storage=str(storage)
    )  # from the stored scores
    assert together.metrics["rows"] == 8


def test_other_numbers_of_the_same_sets_mean_the_same(finished, manifest, evaluated, tmp_path):
    storage, result = finished
    turned = relabelled(manifest, lambda label: 7 - label, tmp_path / "turned.parquet", label_sets=SETS[::-1])
    found = evaluate([result.stages[0].model], turned, split="test", storage=str(storage))
    assert found.metrics == evaluated[0].metrics
    same = compare([evaluated[0].directory, found.directory])[1]
    assert (same.difference, same.p_value) == (0.0, 1.0)
    wrong = relabelled(manifest, lambda label: 7 - label, tmp_path / "wrong.parquet")
    found = evaluate([result.stages[0].model], wrong, split="test", storage=str(storage))
    with pytest.raises(InputError, match="different labels for the same clips"):
        compare([evaluated[0].directory, found.directory])


def test_explanation_export_and_the_logged_model_know_the_sigmoid(finished, manifest, tmp_path):
    _, result = finished
    model, video = result.stages[-1].model, video_of(manifest)
    (one,) = predict(model, [video], top=5)
    scores = dict(one.top)
    explained = explain_videos(model, [video], out=tmp_path, true="move").document()["videos"][0]["models"][0]
    assert explained["predicted"] == one.top[0][0]
    assert {entry["class"]: entry["score"] for entry in explained["top"]} == pytest.approx(scores, rel=1e-4)
    exported = export_model(model, "torch", tmp_path / "model.pt2")
    assert exported.metadata["multi_label"] is True
    assert "sigmoid" in exported.metadata["outputs"]["logits"]["meaning"]
    program = torch.export.load(tmp_path / "model.pt2").module()
    logits, found = program(torch.zeros(2, 4, 32, 32, 3, dtype=torch.uint8))
    torch.testing.assert_close(found, logits.sigmoid())
    logged = VideoModel()
    logged.load_context(SimpleNamespace(artifacts={"model": model}))
    row = logged.predict(SimpleNamespace(), [video]).iloc[0]
    assert row["scores"] == pytest.approx([scores[name] for name in CLASSES], rel=1e-5)
    assert row["label"] == one.top[0][0]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"sampling": "sqrt"}, "train.sampling=sqrt is for clips with one class each"),
        ({"class_weights": "effective"}, "train.class_weights=effective is for clips with one class each"),
        ({"logit_adjustment": 1.0}, "train.logit_adjustment is for clips with one class each"),
        ({"best_metric": "top5"}, "train.best_metric=top5 is not for multi-label clips; set it to map"),
        (
            {"early_stopping": {"patience": 1, "metric": "mean_class_accuracy"}},
            "train.early_stopping.metric=mean_class_accuracy is not for multi-label clips",
        ),
    ],
)
def test_settings_for_one_class_are_refused(manifest, tmp_path, train, message):
    one = recipe(manifest, tmp_path, **train)
    with pytest.raises(InputError, match=f"^stage teacher: {message}"):
        plan_stages(one, prepare_data(one))


def test_metrics_are_chosen_by_the_clips(manifest, motion_manifest, tmp_path):
    one = recipe(manifest, tmp_path, early_stopping={"patience": 3})
    teacher, _ = plan_stages(one, prepare_data(one))
    assert (teacher.stage.train.best_metric, teacher.stage.train.early_stopping.metric) == ("map", "map")
    other = recipe(motion_manifest, tmp_path, best_metric="map")
    with pytest.raises(InputError, match=r"train\.best_metric=map is only for multi-label clips"):
        plan_stages(other, prepare_data(other))
    space = SimpleNamespace(name="s", objectives=[SimpleNamespace(metric="top1")])
    with pytest.raises(InputError, match=r"objective\.metric: top1 is not for multi-label clips; set it to map"):
        check_objectives(space, read_manifest(manifest).heads)


def test_what_does_not_fit_multi_label_is_refused(finished, manifest, motion_manifest, evaluated, tmp_path):
    storage, result = finished
    model, options = result.stages[0].model, {"split": "test", "storage": str(storage)}
    with pytest.raises(InputError, match="jester has clips with one class of each head"):
        write_submission([evaluated[0].directory], "jester", str(tmp_path / "x.csv"))
    with pytest.raises(InputError, match=r"--combine: .* its clips are multi-label; leave the option out"):
        evaluate([model] * 2, str(manifest), combine=True, **options)
    one_class = relabelled(manifest, lambda label: label % 5, tmp_path / "one.parquet", label_sets=None)
    with pytest.raises(InputError, match=r"its clips have one class each, but .* on clips that are multi-label"):
        evaluate([model], one_class, **options)
    with pytest.raises(InputError, match="sets of classes are of one head"):
        read_manifest(manifest).with_head("verb")


def text_of(shown) -> str:
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as capture:
        console.print(shown)
    return capture.get()


def test_the_command_imports_cells_with_several_classes(motion_manifest, tmp_path):
    from w3ray.cli.data_import import import_app

    folder = motion_manifest.parent
    videos = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.mp4"))[:3]
    rows = [f"{video},{label},train" for video, label in zip(videos, ("a|b", "b", "|"), strict=True)]
    (folder / "sets.csv").write_text("\n".join(["path,label,split", *rows, ""]))
    answer = CliRunner().invoke(
        import_app, ["csv", str(folder / "sets.csv"), "-o", str(tmp_path / "m.parquet"), "--json"]
    )
    assert answer.exit_code == 0, answer.output
    assert read_manifest(tmp_path / "m.parquet").label_sets == ((), (0, 1), (1,))
