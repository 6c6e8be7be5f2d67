"""A finished model on any manifest: every clip once, also after an interruption, alone and as an ensemble."""

import csv
import json
import logging
import shutil
import threading
from contextlib import closing
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import ray
import torch
from patience import wait_until
from ray.data import ActorPoolStrategy, TaskPoolStrategy
from videos import write_frames, write_video

from w3ray.attention import health
from w3ray.cluster.connect import node_resources
from w3ray.data.clip import ClipSpec
from w3ray.data.manifest import build_manifest, read_manifest, write_manifest
from w3ray.data.views import load_views, parse_protocol
from w3ray.errors import InputError, RunError
from w3ray.evaluation.normalize import IMAGENET_MEAN, IMAGENET_STD
from w3ray.evaluation.scorer import Scorer
from w3ray.models import build_model
from w3ray.models.bundle import ModelDescription, load_model, model_folder, write_model
from w3ray.scoring.clip_scores import _in_order, read_scores
from w3ray.scoring.compare import compare
from w3ray.scoring.evaluate import evaluate
from w3ray.scoring.model_files import model_files
from w3ray.scoring.predict import predict
from w3ray.scoring.question import Question, plan_scoring
from w3ray.scoring.score_clips import _scorers, score_clips
from w3ray.scoring.scorer_actor import ScorerActor, score_in_task

SPEC = ClipSpec(num_frames=4, size=32)


def a_model(folder: Path, manifest, seed: int = 0, spec: ClipSpec = SPEC) -> str:
    torch.manual_seed(seed)
    arguments = {"name": "tsm", "backbone": "resnet_small", "num_classes": manifest.num_classes}
    model = build_model(**arguments)
    for parameter in model.parameters():  # so that scores differ between clips
        torch.nn.init.normal_(parameter, std=0.3)
    write_model(
        folder, model,
        ModelDescription(
            model=arguments, clip=asdict(spec), classes=manifest.classes, mean=IMAGENET_MEAN, std=IMAGENET_STD
        ),
    )  # fmt: skip
    return str(folder)


@pytest.fixture(scope="module")
def manifest(motion_manifest):
    return read_manifest(motion_manifest)


@pytest.fixture(scope="module")
def model(manifest, tmp_path_factory) -> str:
    """A model, with the file that a stage writes about its gates."""
    folder = a_model(tmp_path_factory.mktemp("model") / "model", manifest)
    stages = [health.StageHealth(stage=2, channel=GATE, grad_norm=0.5)]
    (Path(folder) / health.HEALTH_NAME).write_text(json.dumps(health.document(stages)))
    return folder


GATE = health.GateHealth(mean=0.9, std=0.004, std_time=0.001, std_channels=0.003, near_zero=0.0, saturated=0.25)


def by_hand(model: str, manifest, protocol: str = "1clip-center", split: str = "val") -> np.ndarray:
    """Scores of each clip on its own, in a plain loop."""
    network, description = load_model(model)
    looks = parse_protocol(protocol)
    scorer = Scorer(network, description, mirrored_V=looks.mirrored_V, flip_map=manifest.flip_map)
    spec = ClipSpec(**description.clip)
    return np.concatenate(
        [
            scorer(load_views(manifest.resolve(row["uri"]), spec=spec, protocol=looks, reversed=row["reversed"])[None])
            for row in manifest.split(split).to_pylist()
        ]
    )


@pytest.fixture(scope="module")
def evaluations(ray_session, tmp_path_factory) -> str:
    """A storage for several tests."""
    return str(tmp_path_factory.mktemp("evaluations"))


@pytest.fixture(scope="module")
def scored(evaluations, model, manifest):
    """Evaluates the model once for each case. Returns the result and the reported progress."""

    @cache
    def score(split: str, protocol: str):
        seen: list[tuple[int, int]] = []
        found = evaluate(
            [model], manifest.location, split=split, protocol=protocol, storage=evaluations,
            on_progress=lambda done, total: seen.append((done, total)),
        )  # fmt: skip
        return found, seen

    return score


@pytest.mark.ray
@pytest.mark.parametrize("protocol", ["1clip-center", "10crop-2clip", "2clip-full-res"])
def test_every_clip_once_with_the_scores_of_a_plain_loop(scored, model, manifest, protocol):
    found, seen = scored("val", protocol)
    document, scores = read_scores(found.directory)
    expected = by_hand(model, manifest, protocol)
    rows = manifest.split("val")
    assert scores.scores == pytest.approx(expected, abs=1e-5)
    assert list(scores.clip_ids) == rows["clip_id"].to_pylist()
    assert scores.labels.tolist() == rows["label"].to_pylist()
    right = expected.argmax(1) == scores.labels
    assert found.metrics["top1"] == right.mean() == document["metrics"]["top1"]
    assert found.metrics["rows"] == found.clips == 16
    low, high = found.metrics["top1_interval"]
    assert low <= found.metrics["top1"] <= high
    loss = -np.log(expected[np.arange(16), scores.labels]).mean()
    assert found.metrics["loss"] == pytest.approx(loss, rel=1e-4)
    assert seen[-1] == (16, 16)
    report = Path(found.directory) / "report"
    files = {"per_class.csv", "per_class.json", "confusion.png", "calibration.png", "attention.csv"}
    assert {path.name for path in report.iterdir()} == files
    with (report / "attention.csv").open(newline="") as file:
        (gate,) = csv.DictReader(file)
    assert gate == {
        "model": model, "stage": "2", "gate": "channel", "mean": "0.9", "std": "0.004", "std_time": "0.001",
        "std_channels": "0.003", "std_space": "", "near_zero": "0.0", "saturated": "0.25", "verdict": "not moved",
        "grad_norm": "0.5",
    }  # fmt: skip
    assert json.loads((report / "per_class.json").read_text())["result"]["rows"] == 16


@pytest.mark.ray
def test_what_was_interrupted_goes_on_and_what_is_there_is_read(scored, model, manifest, tmp_path, monkeypatch):
    whole, _ = scored("train", "1clip-center")

    def interrupt(done: int, total: int) -> None:
        if done >= 16:
            raise KeyboardInterrupt

    again = dict(manifest=manifest.location, split="train", storage=str(tmp_path / "parts"))
    with pytest.raises(KeyboardInterrupt):
        evaluate([model], on_progress=interrupt, **again)
    later = evaluate([model], **again)
    assert later.reused == 16
    assert np.array_equal(read_scores(later.directory)[1].scores, read_scores(whole.directory)[1].scores)
    parts = sorted((Path(later.directory) / "scores").iterdir())
    assert [path.name for path in parts] == ["000000000-000000016.parquet", "000000016-000000024.parquet"]
    assert sum(pq.read_table(path).num_rows for path in parts) == 24

    def refuse(*arguments, **more):
        raise AssertionError("nothing is left to score")

    monkeypatch.setattr("w3ray.scoring.score_clips.score_clips", refuse)
    third = evaluate([model], **again)
    assert (third.reused, third.metrics) == (24, later.metrics)


@pytest.mark.parametrize(("gpus", "kind"), [(1.0, ActorPoolStrategy), (0.0, TaskPoolStrategy)])
def test_networks_stay_on_their_gpus(gpus, kind):
    plan = SimpleNamespace(workers=3, worker_gpus=gpus)
    pool = _scorers(plan, ("model",))
    assert isinstance(pool["compute"], kind)
    assert pool["fn"] is (ScorerActor if gpus else score_in_task)


def executors() -> list[str]:
    """Threads of Ray Data that start tasks."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("StreamingExecutor")]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_scoring_that_is_left_in_the_middle_starts_no_more_tasks(model, manifest):
    """There are so many rows that scoring does not end by itself while the test waits."""
    question = Question.of(manifest.location, "train", protocol="1clip-center", average="scores", fold=None, folds=None)
    scored = score_clips(
        model_files(model_folder(model)), pa.concat_tables([question.resolved_rows()] * 2_000), spec=SPEC,
        protocol=question.protocol, average="scores", plan=plan_scoring(node_resources()),
    )  # fmt: skip
    with closing(scored):
        assert next(scored).readable.all()
        assert not logging.getLogger("ray.data").isEnabledFor(logging.INFO), "Ray Data would print on the terminal"
        assert executors()
    assert logging.getLogger("ray.data").isEnabledFor(logging.INFO)
    wait_until(lambda: ray.available_resources().get("CPU", 0) == 2 and not executors(), what="2 free CPUs")


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_fold_scores_the_clips_that_its_run_did_not_see(model, manifest, tmp_path):
    expected = by_hand(model, manifest.with_fold(1, 2))
    found = evaluate([model], manifest.location, fold=1, folds=2, storage=str(tmp_path))
    document, scores = read_scores(found.directory)
    assert list(scores.clip_ids) == manifest.with_fold(1, 2).split("val")["clip_id"].to_pylist()
    assert scores.scores == pytest.approx(expected, abs=1e-5)
    assert (document["fold"], document["folds"]) == (1, 2)
    other = evaluate([model], manifest.location, fold=0, folds=2, storage=str(tmp_path))
    assert (other.reused, other.clips) == (0, 20)
    assert other.directory != found.directory
    seen = {*scores.clip_ids, *read_scores(other.directory)[1].clip_ids}
    assert seen == set(manifest.table.filter(pc.field("split") != "test")["clip_id"].to_pylist())
    again = evaluate([model], manifest.location, fold=1, folds=2, storage=str(tmp_path))
    assert (again.reused, again.directory) == (20, found.directory)


@pytest.mark.ray
def test_an_ensemble_averages_models_that_see_other_clips(scored, evaluations, model, manifest, tmp_path):
    alone, _ = scored("val", "1clip-center")
    other = a_model(tmp_path / "other", manifest, seed=1, spec=ClipSpec(num_frames=2, size=32))
    found = evaluate([model, other], manifest.location, storage=evaluations)
    assert found.reused == 16, "the scores of the first one exist"
    scores = read_scores(found.directory)[1].scores
    expected = (by_hand(model, manifest) + by_hand(other, manifest)) / 2
    assert scores == pytest.approx(expected, abs=1e-5)
    labels = manifest.split("val")["label"].to_numpy()
    assert found.metrics["top1"] == (expected.argmax(1) == labels).mean()

    fused = evaluate([model, other], manifest.location, storage=evaluations, weights=[1, 1.5])
    assert (fused.reused, fused.weights) == (32, (1, 1.5)), "no clip is scored again"
    assert fused.directory != found.directory
    weighted = (by_hand(model, manifest) + 1.5 * by_hand(other, manifest)) / 2.5
    assert read_scores(fused.directory)[1].scores == pytest.approx(weighted, abs=1e-5)
    same = evaluate([model, other], manifest.location, storage=evaluations, weights=[2, 2])
    assert (same.directory, same.weights) == (found.directory, None)

    first, second = compare([alone.directory, found.directory], classes=8)
    right, now = by_hand(model, manifest).argmax(1) == labels, expected.argmax(1) == labels
    assert (first.top1, second.top1) == (right.mean(), now.mean())
    assert second.difference == pytest.approx(now.mean() - right.mean())
    assert (second.only_first, second.only_this) == ((right & ~now).sum(), (now & ~right).sum())
    changes = {name: change for name, _, change in second.classes}
    for label, name in enumerate(manifest.classes):
        mine = labels == label
        assert changes.get(name, 0.0) == pytest.approx(now[mine].mean() - right[mine].mean())
    other_clips, _ = scored("train", "1clip-center")
    with pytest.raises(InputError, match="40 clips are in one of them only"):
        compare([alone.directory, other_clips.directory])
    with pytest.raises(InputError, match="at least two"):
        compare([alone.directory])


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_clip_that_can_not_be_read_is_named_and_counts_nowhere(model, manifest, tmp_path):
    rows = manifest.split("val").to_pylist()
    for row in rows:
        row["uri"] = manifest.resolve(row["uri"])
    (tmp_path / "empty.mp4").touch()
    rows[3]["uri"] = str(tmp_path / "empty.mp4")
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    broken = write_manifest(build_manifest(columns, manifest.classes), tmp_path / "broken.parquet")
    with pytest.raises(RunError, match=r"1 of 16 clips cannot be read.*the file is empty"):
        evaluate([model], broken.location, storage=str(tmp_path / "runs"))
    found = evaluate([model], broken.location, storage=str(tmp_path / "runs"), max_failed_share=0.1)
    assert (found.unreadable, found.metrics["rows"], found.reused) == (1, 15, 16)
    _, scores = read_scores(found.directory)
    assert scores.reasons == {rows[3]["clip_id"]: "the file is empty (0 bytes)"}
    expected = np.delete(by_hand(model, manifest), 3, 0)
    assert scores.scores[scores.readable] == pytest.approx(expected, abs=1e-5)
    right = expected.argmax(1) == np.delete(scores.labels, 3)
    assert found.metrics["top1"] == right.mean()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(split="absent"), "split 'absent' is empty; it has test"),
        (dict(protocol="3clips"), "protocol '3clips': no such protocol"),
        (dict(average="votes"), "--average must be scores or logits"),
        (dict(models=["nowhere"]), "nowhere: no model here"),
        (dict(fold=1), "--fold and --folds go together"),
        (dict(folds=2), "--fold and --folds go together"),
        (dict(fold=2, folds=2), "fold 2 of 2"),
        (dict(models=[]), "name at least one model"),
    ],
)
def test_bad_input(model, manifest, tmp_path, arguments, message):
    given = {"models": [model], "manifest": manifest.location, "storage": str(tmp_path), **arguments}
    with pytest.raises(InputError, match=message):
        evaluate(**given)
    assert not (tmp_path / "evaluations").exists()


def test_a_manifest_of_other_classes_is_refused(model, manifest, tmp_path):
    for classes, message in (
        (manifest.classes[::-1], "the same classes in another order"),
        ((*manifest.classes[:-1], "else"), "other classes: 2 are in one of them only"),
    ):
        rows = manifest.split("val").to_pylist()
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        columns["uri"] = [manifest.resolve(uri) for uri in columns["uri"]]
        other = write_manifest(build_manifest(columns, classes), tmp_path / "other.parquet")
        with pytest.raises(InputError, match=message):
            evaluate([model], other.location, storage=str(tmp_path))


def test_scores_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match="no finished evaluation"):
        read_scores(str(tmp_path))


def test_parts_that_overlap_count_each_row_once():
    names = ["000000000-000000008.parquet", "000000004-000000012.parquet", "000000016-000000024.parquet", "x.partial"]
    assert _in_order(names) == [(names[0], 0, 8), (names[1], 4, 12)]


def test_a_few_videos_are_looked_at_here(model, manifest, tmp_path):
    uris = manifest.resolved_uris(manifest.split("val"))
    expected = by_hand(model, manifest)
    folder = tmp_path / "clips"
    (folder / "below").mkdir(parents=True)
    for number, uri in enumerate(uris[:3]):
        shutil.copy(uri, folder / ("below" if number == 2 else "") / f"{number} ü.mp4")
    (folder / "notes.txt").write_text("no video")
    (folder / "zero.mp4").touch()
    for asked in ([str(folder)], [f"{folder}/**/*.mp4"], [str(folder), f"{folder}/0*"]):
        found = {Path(one.video).name: one for one in predict(model, asked, top=2)}
        assert sorted(found) == ["0 ü.mp4", "1 ü.mp4", "2 ü.mp4", "zero.mp4"]
        assert found["zero.mp4"].reason == "the file is empty (0 bytes)"
        for number in range(3):
            row = manifest.split("val").to_pylist()[number]
            if row["reversed"]:
                continue
            top = found[f"{number} ü.mp4"].top
            order = np.argsort(-expected[number])[:2]
            assert [name for name, _ in top] == [manifest.classes[label] for label in order]
            assert [score for _, score in top] == pytest.approx(expected[number][order], abs=1e-5)


def test_a_folder_of_frames_is_one_video(model, tmp_path):
    write_frames(tmp_path / "clips" / "jumping", 12)
    write_frames(tmp_path / "clips" / "running", 12)
    write_video(tmp_path / "clips" / "film.mp4", 12)
    folder = tmp_path / "clips"
    for asked in ([str(folder)], [f"{folder}/*"]):
        assert [Path(one.video).name for one in predict(model, asked)] == ["film.mp4", "jumping", "running"]
    (one,) = predict(model, [str(folder / "jumping")])
    assert one.reason is None


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_many_videos_are_looked_at_on_the_cluster(model, manifest, monkeypatch):
    here = list(predict(model, manifest=manifest.location, split="val"))
    monkeypatch.setattr("w3ray.scoring.predict.FEW", 3)
    there = list(predict(model, manifest=manifest.location, split="val"))
    assert [one.video for one in there] == manifest.split("val")["clip_id"].to_pylist()
    for mine, theirs in zip(here, there, strict=True):
        assert mine.video == theirs.video
        assert [name for name, _ in mine.top] == [name for name, _ in theirs.top]
        assert [score for _, score in mine.top] == pytest.approx([score for _, score in theirs.top], abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(), "name videos, or a manifest"),
        (dict(videos=["x.mp4"], manifest="m.parquet"), "one of the two"),
        (dict(videos=["/nowhere/*.mp4"]), "no such file, and no video matches it"),
        (dict(videos=["x.mp4"], split="val"), "--split names a split of a manifest"),
        (dict(videos=["x.mp4"], top=0), "--top must be at least 1"),
        (dict(videos=["x.mp4"], average="votes"), "--average must be scores or logits"),
    ],
)
def test_bad_questions(model, arguments, message):
    with pytest.raises(InputError, match=message):
        list(predict(model, **arguments))
