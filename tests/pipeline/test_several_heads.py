"""Clips with two labels in every command: run, report, evaluation, comparison, prediction, explanation, export.

The generated classes are four pairs of two directions of time. The pair and the direction are two labels of a clip.
Their combination is counted like the original class.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from in_process import in_process

from w3ray.data.manifest import read_manifest, write_manifest
from w3ray.errors import InputError
from w3ray.events import StepDone
from w3ray.explaining.videos import explain_videos
from w3ray.export import export_model
from w3ray.models.bundle import load_model
from w3ray.pipeline import run
from w3ray.recipe import Recipe
from w3ray.scoring.clip_scores import heads_of, read_scores
from w3ray.scoring.compare import compare
from w3ray.scoring.evaluate import evaluate
from w3ray.scoring.predict import predict

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

CLASSES = ("move", "open", "join", "appear", "forwards", "backwards")
SIZES = (("what", 4), ("way", 2))
EVENTS: list = []


def recipe(manifest: Path, storage: Path, **stage) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "two-labels",
            "storage": str(storage),
            "data": {"manifest": str(manifest), "num_frames": 4, "size": 32, "test_split": "test"},
            "model": {"name": "tsm", "backbone": "resnet_small", "attention": {"kind": "w3"}},
            "train": {"epochs": 1, "batch_size": 8, "microbatch_size": 4, "lr": 0.05, "log_every_steps": 1},
            "stages": [{"name": "teacher"}, {"name": "student", "teacher": "teacher", **stage}],
            "evaluation": {"split": "test"},
            "tracking": {"enabled": False},
        }
    )


@pytest.fixture(scope="module")
def manifest(motion_manifest, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("two-labels") / "two.parquet"
    write_manifest(replace(read_manifest(motion_manifest), classes=CLASSES, flip_map={}, head_sizes=SIZES), path)
    return path


@pytest.fixture(scope="module")
def finished(ray_session, manifest, tmp_path_factory):
    storage = tmp_path_factory.mktemp("storage")
    losses = {"mfr": 0.5, "cross_entropy.way": 0.5}
    return storage, in_process(recipe(manifest, storage, loss_weights=losses), on_event=EVENTS.append)


def model_of(finished) -> str:
    return finished[1].stages[-1].model


def test_a_run_has_a_loss_and_metrics_for_each_head(finished, manifest):
    _, result = finished
    steps = [event for event in EVENTS if isinstance(event, StepDone)]
    assert {tuple(step.losses) for step in steps if step.stage == "teacher"} == {
        ("cross_entropy.what", "cross_entropy.way")
    }
    assert {tuple(step.losses) for step in steps if step.stage == "student"} == {
        ("cross_entropy.what", "cross_entropy.way", "mfr")
    }
    metrics = result.stages[-1].metrics
    assert metrics["rows"] == 8
    assert metrics["top1"] <= min(metrics["what_top1"], metrics["way_top1"])
    assert metrics["loss"] == pytest.approx(metrics["what_loss"] + metrics["way_loss"])
    network, description = load_model(model_of(finished))
    assert network.classifier.out_features == 6
    assert (description.classes, description.head_sizes) == (CLASSES, SIZES)
    report = Path(model_of(finished)).parent / "report"
    assert {"what_confusion.png", "way_per_class.csv", "per_class.json"} <= {path.name for path in report.iterdir()}


def test_evaluation_agrees_with_the_run_and_says_each_head(finished, manifest):
    storage, result = finished
    found = evaluate([model_of(finished)], str(manifest), split="test", storage=str(storage))
    expected = result.stages[-1].metrics
    for name in ("top1", "top5", "mean_class_accuracy", "what_top1", "way_top1", "what_mean_class_accuracy"):
        assert found.metrics[name] == expected[name], name
    assert found.metrics["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert found.metrics["what_top1_interval"][0] <= found.metrics["what_top1"]
    assert 0 <= found.metrics["way_calibration_error"] <= 1
    document, scores = read_scores(found.directory)
    heads = heads_of(document)
    assert heads.sizes == SIZES
    np.testing.assert_allclose(scores.scores[:, :4].sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(scores.scores[:, 4:].sum(1), 1, rtol=1e-5)
    both = (scores.scores[:, :4].argmax(1) == scores.labels // 2) & (
        scores.scores[:, 4:].argmax(1) == scores.labels % 2
    )
    assert found.metrics["top1"] == both.mean()


def test_models_are_averaged_by_head_and_compared_by_combination(finished, manifest):
    storage, result = finished
    models = [stage.model for stage in result.stages]
    first, second = (evaluate([model], str(manifest), split="test", storage=str(storage)) for model in models)
    together = evaluate(models, str(manifest), split="test", storage=str(storage))  # from the stored scores
    assert together.metrics["rows"] == 8
    before, after = compare([first.directory, second.directory])
    assert after.difference == pytest.approx(second.metrics["top1"] - first.metrics["top1"])
    assert before.top1 == first.metrics["top1"]


def test_clips_without_labels_get_scores_and_count_nowhere(finished, manifest, tmp_path):
    storage, _ = finished
    clips = read_manifest(manifest)
    labels = clips.table["label"].to_pylist()
    splits = clips.table["split"].to_pylist()
    hidden = [None if split == "test" else label for label, split in zip(labels, splits, strict=True)]
    place = clips.table.schema.get_field_index("label")
    table = clips.table.set_column(place, clips.table.schema.field("label"), pa.array(hidden, pa.int32()))
    moved = table.set_column(
        table.schema.get_field_index("uri"), table.schema.field("uri"), pa.array(clips.resolved_uris())
    )
    unlabelled = write_manifest(replace(clips, table=moved, location=""), tmp_path / "hidden.parquet")
    options = {"split": "test", "storage": str(storage)}
    found = evaluate([model_of(finished)], unlabelled.location, **options)
    assert (found.clips, found.unlabelled, found.metrics) == (8, 8, {})
    _, scores = read_scores(found.directory)
    known = read_scores(evaluate([model_of(finished)], str(manifest), **options).directory)[1]
    np.testing.assert_array_equal(scores.scores, known.scores)
    assert scores.labels.tolist() == [-1] * 8
    assert not (Path(found.directory) / "report").exists()
    with pytest.raises(InputError, match="no clip has a label"):
        compare([found.directory, found.directory])


def test_prediction_says_the_best_combinations_and_each_head(finished, manifest):
    clips = read_manifest(manifest)
    video = clips.resolved_uris(clips.split("test"))[0]
    (one,) = predict(model_of(finished), [video], top=3)
    document = one.document()
    assert [len(document[name]) for name in ("top", "top_what", "top_way")] == [3, 3, 2]
    what, way = document["top_what"][0], document["top_way"][0]
    assert document["top"][0]["class"] == f"{what['class']} {way['class']}"
    assert document["top"][0]["score"] == pytest.approx(what["score"] * way["score"], rel=1e-5)
    json.dumps(document)


def test_explanation_and_export_know_the_heads(finished, manifest, tmp_path):
    clips = read_manifest(manifest)
    video = clips.resolved_uris(clips.split("test"))[0]
    (one,) = predict(model_of(finished), [video], top=1)
    answer = explain_videos(model_of(finished), [video], out=tmp_path, true="move forwards").document()
    explained = answer["videos"][0]["models"][0]
    assert explained["predicted"] == one.top[0][0]
    assert explained["top"][0]["score"] == pytest.approx(one.top[0][1], rel=1e-4)
    exported = export_model(model_of(finished), "torch", tmp_path / "model.pt2")
    assert exported.metadata["heads"] == [["what", 4], ["way", 2]]
    program = torch.export.load(tmp_path / "model.pt2")
    scores = program.module()(torch.zeros(2, 4, 32, 32, 3, dtype=torch.uint8))[1]
    torch.testing.assert_close(scores[:, 4:].sum(1), torch.ones(2))


def test_what_does_not_fit_the_heads_is_refused(finished, manifest, motion_manifest, tmp_path):
    with pytest.raises(InputError, match=r"stage student: loss_weights: unknown loss 'cross_entropy\.tool'"):
        run(recipe(manifest, tmp_path, loss_weights={"mfr": 0.5, "cross_entropy.tool": 1.0}))
    with pytest.raises(InputError, match="other classes"):
        evaluate([model_of(finished)], str(motion_manifest), storage=str(tmp_path))
    other = tmp_path / "other.parquet"
    write_manifest(replace(read_manifest(manifest), head_sizes=(("way", 2), ("what", 4))), other)
    with pytest.raises(InputError, match="has the heads"):
        evaluate([model_of(finished)], str(other), storage=str(tmp_path))
