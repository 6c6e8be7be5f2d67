"""The whole chain on real videos, a real Ray and a real MLflow store: small, but still slow."""

import json
import re
import shutil
import threading
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from in_process import in_process
from patience import wait_until
from safetensors.torch import load_file, save_file

from w3ray.cli._display import RunView, turning_point
from w3ray.data.manifest import read_manifest, write_manifest
from w3ray.data.sample_log import read_samples
from w3ray.data.shared_clips import SharedClips
from w3ray.data.stream import build_dataset
from w3ray.errors import InputError, RunError
from w3ray.events import Moment, StageStarted, StageStopped, StepDone, Validated, Warned, WeightsTaken
from w3ray.models import build_model
from w3ray.models.bundle import load_model
from w3ray.pipeline import plan_run, run
from w3ray.recipe import Recipe
from w3ray.runtime import building
from w3ray.runtime.building import uneven_of
from w3ray.tracking import Tracker
from w3ray.training.checkpoint_files import by_step, read_index, verify_checkpoint
from w3ray.training.losses.uneven import Uneven

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def recipe(manifest: Path, storage: Path, **changes) -> Recipe:
    values = {
        "name": "tiny",
        "storage": str(storage),
        "data": {"manifest": str(manifest), "num_frames": 4, "size": 32, "test_split": "test"},
        "model": {"name": "tsm", "backbone": "resnet_small", "attention": {"kind": "w3"}},
        "train": {
            "epochs": 2,
            "batch_size": 8,
            "microbatch_size": 3,
            "lr": 0.05,
            "log_samples": True,
            "log_every_steps": 1,
        },
        "stages": [{"name": "teacher"}, {"name": "student", "teacher": "teacher", "loss_weights": {"mfr": 0.5}}],
        "evaluation": {"split": "test"},
    }
    for name, value in changes.items():
        values[name] = {**values[name], **value} if isinstance(values.get(name), dict) else value
    return Recipe.model_validate(values)


def one_stage(manifest: Path, storage: Path, **changes) -> Recipe:
    """The teacher alone. It is not tracked: making a new MLflow store takes as long as its training."""
    alone = {"stages": [{"name": "teacher"}], "tracking": {"enabled": False}}
    return recipe(manifest, storage, **{**alone, **changes})


def samples(stage_directory: Path) -> dict[int, list]:
    """Optimiser step -> its (position, sample) pairs in order, from the logs of all ranks."""
    rows: dict[int, dict] = {}
    for path in stage_directory.glob("samples-*.jsonl"):
        rows.update({row["item"]: row for row in map(json.loads, filter(None, path.read_text().splitlines()))})
    steps: dict[int, list] = {}
    for _, row in sorted(rows.items()):
        if row["kind"] == "train":
            pairs = zip(row["positions"], row["samples"], row["valid"], strict=True)
            steps.setdefault(row["step"], []).extend((p, s) for p, s, valid in pairs if valid)
    return steps


def evaluated(stage_directory: Path, kind: str) -> list[int]:
    rows = [
        row
        for path in stage_directory.glob("samples-*.jsonl")
        for row in map(json.loads, filter(None, path.read_text().splitlines()))
        if row["kind"] == kind
    ]
    return sorted(s for row in rows for s, valid in zip(row["samples"], row["valid"], strict=True) if valid)


def losses_into(losses: dict[int, float]):
    """Stores the loss of each step of the first stage."""

    def on_event(event):
        if isinstance(event, StepDone) and event.stage == "teacher":
            losses[event.step] = event.losses["cross_entropy"]

    return on_event


LOSSES: dict[int, float] = {}
MOMENTS: list[Moment] = []


@pytest.fixture(scope="module")
def finished(ray_session, motion_manifest, tmp_path_factory):
    """The chain, run once with one worker: (storage, result). Fills `LOSSES` (of the teacher) and `MOMENTS`."""
    storage, keep_loss = tmp_path_factory.mktemp("finished"), losses_into(LOSSES)

    def on_event(event):
        keep_loss(event)
        if isinstance(event, Moment):
            MOMENTS.append(event)

    return storage, run(recipe(motion_manifest, storage), on_event=on_event)


def test_chain_trains_evaluates_and_registers(finished):
    _, result = finished
    assert [(stage.name, stage.state) for stage in result.stages] == [("teacher", "run"), ("student", "run")]
    for stage in result.stages:
        assert stage.metrics["rows"] == 8
        assert stage.validation["rows"] == 16
        assert verify_checkpoint(stage.checkpoint)["meta"]["metrics"] == stage.validation
        assert (Path(stage.model) / "model.safetensors").is_file()
        report = Path(stage.model).parent / "report"
        files = {"per_class.csv", "per_class.json", "confusion.png", "attention.csv"}
        assert {path.name for path in report.iterdir()} == files
    assert result.model["name"] == "tiny"
    assert result.model["version"] == "1"
    assert result.overhead["to_first_step_s"] > 0
    assert set(result.overhead["between_stages_s"]) == {"student"}
    json.dumps(result.document(), allow_nan=False)


@pytest.mark.usefixtures("finished")
def test_each_part_of_the_starts_and_ends_is_told_once():
    in_order = sorted(MOMENTS, key=lambda moment: moment.time_s)
    assert [moment.what for moment in in_order if moment.stage is None] == [
        "the data were read, and the stages planned", "Ray started", "MLflow had everything",
    ]  # fmt: skip
    for stage in ("teacher", "student"):
        told = [moment.what for moment in in_order if moment.stage == stage]
        told.remove("the first microbatch was there")  # at any time before the first step
        assert told == [
            "Ray Train's controller started", "the first worker began", "the first worker imported its modules",
            "the first worker built its network", "the first step was done", "the last step was done",
            "the processes ended", "model, report and result were written",
        ]  # fmt: skip


def test_every_sample_once_an_epoch(finished):
    _, result = finished
    for stage in result.stages:
        steps = samples(Path(stage.model).parent)
        assert len(steps) == 6
        for epoch in range(2):
            seen = [sample for step in range(3 * epoch, 3 * epoch + 3) for _, sample in steps[step]]
            assert sorted(seen) == list(range(24))


def test_tracking_links_stages_models_and_the_registered_version(finished):
    import mlflow

    _, result = finished
    client = mlflow.MlflowClient(result.tracking["uri"])
    parent = client.get_run(result.tracking["run"])
    assert parent.info.status == "FINISHED"
    teacher, student = result.stages
    for stage in result.stages:
        child = client.get_run(stage.tracking_run)
        assert child.info.status == "FINISHED"
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert len(client.get_metric_history(stage.tracking_run, "train/loss_cross_entropy")) >= 2
        assert [point.step for point in client.get_metric_history(stage.tracking_run, "val/top1")] == [3, 6]
        paths = {file.path for file in client.list_artifacts(stage.tracking_run, "report")}
        assert "report/confusion.png" in paths
    assert client.get_logged_model(student.logged_model).tags["w3ray.teacher_model_id"] == teacher.logged_model
    version = client.get_model_version("tiny", result.model["version"])
    assert student.logged_model in version.source
    assert version.run_id == student.tracking_run


def test_registered_model_gives_the_scores_of_the_evaluation(finished, motion_manifest):
    import mlflow

    _, result = finished
    mlflow.set_tracking_uri(result.tracking["uri"])
    model = mlflow.pyfunc.load_model(result.model["uri"])
    manifest = read_manifest(motion_manifest)
    rows = manifest.split("test")
    scored = model.predict(manifest.resolved_uris(rows))
    right = [scored["label"][i] == manifest.classes[label] for i, label in enumerate(rows["label"].to_pylist())]
    assert np.mean(right) == result.stages[-1].metrics["top1"]


def test_second_run_reuses_everything_and_says_why(finished, motion_manifest):
    storage, first = finished
    events = []
    again = run(recipe(motion_manifest, storage), on_event=events.append)
    assert [stage.state for stage in again.stages] == ["reuse", "reuse"]
    assert [stage.metrics for stage in again.stages] == [stage.metrics for stage in first.stages]
    started = [event for event in events if isinstance(event, StageStarted)]
    assert all("finished" in event.why for event in started)


def test_dry_run_names_states_and_changes_nothing(finished, motion_manifest):
    storage, _ = finished
    before = sorted(path for path in storage.rglob("*"))
    changed = recipe(
        motion_manifest,
        storage,
        stages=[{"name": "teacher"}, {"name": "student", "teacher": "teacher", "loss_weights": {"mfr": 0.7}}],
    )
    plan = plan_run(changed)
    assert [stage["state"] for stage in plan["stages"]] == ["reuse", "run"]
    assert "loss_weights.mfr: 0.5 -> 0.7" in plan["stages"][1]["why"]
    assert plan["resources"]["workers"] == 1
    assert sorted(path for path in storage.rglob("*")) == before


def test_two_workers_see_the_same_samples_and_count_the_same(finished, motion_manifest, tmp_path):
    _, alone = finished
    losses: dict[int, float] = {}
    two = run(one_stage(motion_manifest, tmp_path, resources={"workers": 2}), on_event=losses_into(losses))
    assert losses == pytest.approx(LOSSES, rel=1e-4)
    assert len(losses) == 6
    mine, theirs = Path(alone.stages[0].model).parent, Path(two.stages[0].model).parent
    assert mine.name == theirs.name, "the number of workers is not part of a stage's identity"
    assert samples(mine) == samples(theirs)
    assert len(list(theirs.glob("samples-*.jsonl"))) == 2
    for kind, rows, times in (("val", 16, 2), ("test", 8, 1)):
        assert evaluated(theirs, kind) == evaluated(mine, kind) == sorted(list(range(rows)) * times)


def test_the_same_weights_score_the_same_on_two_workers(finished, motion_manifest, tmp_path):
    _, alone = finished
    source = Path(alone.stages[0].model).parent
    copy = tmp_path / "stages" / source.name
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("result.json", "model", "report"))
    scored = run(one_stage(motion_manifest, tmp_path, resources={"workers": 2}))
    assert scored.stages[0].state == "resume"
    assert scored.stages[0].metrics == alone.stages[0].metrics
    for ours, theirs in zip(scored.stages[0].attention, alone.stages[0].attention, strict=True):
        for kind, gate in theirs.gates().items():
            assert ours.gates()[kind].numbers() == pytest.approx(gate.numbers(), rel=1e-6, abs=1e-9)


def test_a_resumed_stage_ends_with_the_same_bits_from_the_newest_whole_checkpoint(finished, motion_manifest, tmp_path):
    """The newest checkpoint is damaged: the run reports it, and repeats the second epoch from the older checkpoint."""
    _, alone = finished
    source = Path(alone.stages[0].model).parent
    copy = tmp_path / "stages" / source.name
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("result.json", "model", "report", "samples-*"))
    with (copy / "checkpoints" / "step_00000006" / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    events = []
    again = run(one_stage(motion_manifest, tmp_path), on_event=events.append)
    assert again.stages[0].state == "resume"
    assert any(isinstance(event, Warned) and "step_00000006 is damaged" in event.message for event in events)
    assert sorted(samples(copy)) == [3, 4, 5]
    assert read_index(again.stages[0].checkpoint)["meta"]["step"] in (3, 6)
    weights = [
        (Path(stages.checkpoint).parent / "step_00000006" / "model.safetensors").read_bytes()
        for stages in (alone.stages[0], again.stages[0])
    ]
    assert weights[0] == weights[1]


def left_over() -> list[str]:
    """Threads that remain after a stage."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("fit-", "StreamingExecutor"))]


def weights(result) -> list[bytes]:
    """Those of each stage."""
    return [(Path(stage.model) / "model.safetensors").read_bytes() for stage in result.stages]


def folders(result) -> list[Path]:
    return [Path(stage.model).parent for stage in result.stages]


def interrupt_at_step_5(event):
    if isinstance(event, StepDone) and event.step == 5:
        raise KeyboardInterrupt


def test_in_one_process_and_after_an_interruption_the_bits_are_the_same(finished, motion_manifest, tmp_path):
    _, alone = finished
    one = recipe(motion_manifest, tmp_path, train={"checkpoint_every_steps": 2}, tracking={"enabled": False})
    with pytest.raises(KeyboardInterrupt):
        in_process(one, interrupt_at_step_5)
    assert not left_over()
    seen: list[int] = []
    again = in_process(one, lambda event: seen.append(event.step) if isinstance(event, StepDone) else None)
    assert seen[0] >= 4, "it resumed at its newest checkpoint"
    assert not left_over()
    assert weights(again) == weights(alone)
    for mine, other in zip(again.stages, alone.stages, strict=True):
        assert mine.metrics == other.metrics
    for mine, other in zip(folders(again), folders(alone), strict=True):
        assert read_samples(mine) == read_samples(other)
        kept = [[read_index(path)["meta"]["step"] for path in by_step(one / "checkpoints")] for one in (mine, other)]
        assert kept[0][0] == 6
        assert kept[0] == kept[1], "the same ones that Ray Train keeps"


def test_clips_and_features_of_another_trial_make_the_same_bits(finished, motion_manifest, tmp_path, monkeypatch):
    _, alone = finished
    shared = SharedClips(folder=tmp_path / "clips" / "sweep", limit_bytes=1 << 30)

    def trial(name: str, **train) -> Recipe:
        return recipe(motion_manifest, tmp_path / name, train=train, tracking={"enabled": False})

    first = in_process(trial("first"), shared=shared)
    features = {file.name for file in shared.folder.glob("*.features")}
    assert len(features) == 2 * 9, "of each microbatch of the student's two epochs"
    one, streams = trial("later", checkpoint_every_steps=2), []

    def built(*arguments, first_item):
        streams.append(first_item)
        return build_dataset(*arguments, first_item=first_item)

    def computed(*_):
        raise AssertionError("the teacher ran again")

    monkeypatch.setattr("w3ray.runtime.in_process_stage.build_dataset", built)
    monkeypatch.setattr("w3ray.runtime.shared_teacher.SharedTeacher._computed", computed)
    with pytest.raises(KeyboardInterrupt):
        in_process(one, interrupt_at_step_5, shared)
    later = in_process(one, shared=shared)
    assert streams == [], "no clip was decoded"
    gone = sorted(shared.folder.glob("*.clip"))[::3]
    for file in gone:
        file.unlink()
    some = in_process(trial("some"), shared=shared)
    assert len(streams) == 2, "one for each stage"
    assert all(file.exists() for file in gone)
    assert {file.name for file in shared.folder.glob("*.features")} == features
    assert [weights(result) for result in (first, later, some)] == [weights(alone)] * 3
    assert read_samples(folders(later)[0]) == read_samples(folders(alone)[0])


def test_options_for_gpus_reach_the_network_and_are_other_stages(finished, motion_manifest, tmp_path, monkeypatch):
    """On a CPU they change the last bits at most. So do weights of classes, if all classes have as many clips."""
    _, alone = finished
    seen, uneven = [], []
    monkeypatch.setattr(building, "uneven_of", lambda stage: uneven.append(uneven_of(stage)) or uneven[-1])

    def compiled(model):
        convolution = model.get_submodule("backbone.layer2.0.conv1").weight
        last = convolution.is_contiguous(memory_format=torch.channels_last)
        seen.append((type(model).__name__, last, torch.backends.cuda.matmul.allow_tf32))
        return torch.compile(model, dynamic=False, backend="eager")

    for module in ("worker", "building"):
        monkeypatch.setattr(f"w3ray.runtime.{module}.compiled", compiled)
    options = {"compile": True, "channels_last": True, "tf32": True, "precision": "auto"}
    options |= {"class_weights": "balanced", "logit_adjustment": 1.0}
    found = in_process(recipe(motion_manifest, tmp_path, train=options, tracking={"enabled": False}))
    assert seen == [("TSM", True, True)] * 3, "the teacher, the student, and the teacher in the student's stage"
    assert not torch.backends.cuda.matmul.allow_tf32
    assert uneven == [Uneven(class_weights="balanced", logit_adjustment=1.0, counts={"": (3,) * 8}, clips=24)] * 2
    assert found.stages[0].identity != alone.stages[0].identity
    stored = json.dumps(json.loads((folders(found)[0] / "stage.json").read_text()))
    assert '"precision": "fp32"' in stored
    assert '"auto"' not in stored
    mine, other = (load_file(Path(each.stages[0].model) / "model.safetensors") for each in (found, alone))
    assert mine.keys() == other.keys()
    for name, value in other.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-2, atol=1e-2)


def test_a_run_may_start_from_a_registered_model(finished, motion_manifest):
    storage, before = finished
    train = {"epochs": 1, "lr": 1e-9, "weight_decay": 0.0}  # so the weights stay what they were at the start
    one = one_stage(motion_manifest, storage, model={"weights": "models:/tiny@current"}, train=train, seed=1)
    (planned,) = plan_run(one)["stages"]
    told = []
    found = in_process(one, told.append)
    (taken,) = (event for event in told if isinstance(event, WeightsTaken))
    assert planned["weights"] == asdict(taken)
    assert (taken.stage, taken.layout, taken.left_out, taken.fresh) == ("teacher", "w3ray", (), ())
    assert "weights models:/tiny/1 (w3ray layout): 1" in turning_point(taken, RunView())
    ours, theirs = (load_file(Path(run.stages[-1].model) / "model.safetensors") for run in (found, before))
    for name, value in theirs.items():
        if "running" not in name and "tracked" not in name:  # norms count what they see
            torch.testing.assert_close(ours[name], value, rtol=0.0, atol=1e-5)
    told.clear()
    assert in_process(one, told.append).stages[0].state == "reuse"
    assert not any(isinstance(event, WeightsTaken) for event in told)
    assert found.stages[0].identity == planned["identity"]


def test_parts_rest_until_a_phase_wakes_them(motion_manifest, tmp_path):
    torch.manual_seed(0)
    start = build_model("tsm", backbone="resnet_small", num_classes=8, attention={"kind": "w3"}).state_dict()
    save_file(start, tmp_path / "start.safetensors")
    model = {"weights": str(tmp_path / "start.safetensors")}
    train = {"freeze": ["backbone"], "phases": [{"from_epoch": 1, "freeze": ["stem", "stage1"]}], "keep_checkpoints": 9}
    whole = in_process(one_stage(motion_manifest, tmp_path / "whole", model=model, train=train))

    def changed(state):
        return {name for name, value in state.items() if not torch.equal(value, start[name])}

    first, last = (
        load_file(folder / "model.safetensors") for folder in sorted((folders(whole)[0] / "checkpoints").glob("step_*"))
    )
    assert {name.partition(".")[0] for name in changed(first)} == {"classifier", "refinement"}
    resting = ("backbone.conv1", "backbone.bn1", "backbone.layer1.")
    assert {name.startswith(resting) for name in changed(last)} == {False}
    assert "backbone.layer2.0.bn1.running_mean" in changed(last)

    plain = in_process(one_stage(motion_manifest, tmp_path / "half", model=model, train={**train, "phases": []}))
    half = in_process(one_stage(motion_manifest, tmp_path / "half", model=model, train=train))
    assert plain.stages[0].identity != half.stages[0].identity == whole.stages[0].identity
    assert weights(half) == weights(whole)

    for freeze, message in (
        (["stage9"], "train.freeze: 'stage9' names nothing of TSM; it has stem, stage1"),
        (["*"], "train.freeze: nothing is left to train"),
    ):
        with pytest.raises(InputError, match=f"stage teacher: {re.escape(message)}"):
            plan_run(one_stage(motion_manifest, tmp_path / "wrong", train={"freeze": freeze}))
    with pytest.raises(InputError, match=r"train.phases: from_epoch 1: freeze: 'x' names nothing"):
        plan_run(one_stage(motion_manifest, tmp_path / "wrong", train={"phases": [{"from_epoch": 1, "freeze": ["x"]}]}))


def test_the_moving_average_becomes_the_model(motion_manifest, tmp_path):
    train = {"ema_decay": 0.9, "checkpoint_every_steps": 2, "keep_checkpoints": 9}
    plain = in_process(one_stage(motion_manifest, tmp_path / "plain", train={"checkpoint_every_steps": 1}))
    one = one_stage(motion_manifest, tmp_path / "average", train=train)
    with pytest.raises(KeyboardInterrupt):
        in_process(one, interrupt_at_step_5)
    resumed = in_process(one)
    assert resumed.stages[0].state == "resume"
    whole = in_process(one_stage(motion_manifest, tmp_path / "whole", train=train))
    assert weights(resumed) == weights(whole)
    assert plain.stages[0].identity != whole.stages[0].identity

    (folder,) = folders(whole)
    averaged, raw = (load_file(folder / "model" / name) for name in ("model.safetensors", "raw.safetensors"))
    last = sorted((folders(plain)[0] / "checkpoints").glob("step_*"))[-1]
    for name, value in load_file(last / "model.safetensors").items():
        assert torch.equal(raw[name], value), f"{name}: the training itself is the one without an average"
    assert any(not torch.equal(averaged[name], value) for name, value in raw.items())
    model, _ = load_model(folder / "model")
    for name, value in model.state_dict().items():
        assert torch.equal(value, averaged[name])
    index = read_index(Path(whole.stages[0].checkpoint))
    assert index["averaged_steps"] == index["meta"]["step"]
    assert whole.stages[0].validation != plain.stages[0].validation


def test_balanced_sampling_is_resumed_with_the_same_bits(motion_manifest, tmp_path):
    manifest = read_manifest(motion_manifest)
    seen, rows = {}, []
    for row in manifest.table.to_pylist():
        row["uri"] = manifest.resolve(row["uri"])
        seen[row["split"], row["label"]] = seen.get((row["split"], row["label"]), 0) + 1
        if row["split"] != "train" or row["label"] < 6 or seen["train", row["label"]] == 1:
            rows.append(row)  # of the last two classes one training clip each, of the others three
    table = manifest.table.schema.empty_table().from_pylist(rows, schema=manifest.table.schema)
    uneven = tmp_path / "uneven.parquet"
    write_manifest(type(manifest)(table, manifest.classes, manifest.flip_map, str(uneven)), uneven)
    train = {"sampling": "balanced", "checkpoint_every_steps": 2}
    one = one_stage(uneven, tmp_path / "resumed", train=train)
    with pytest.raises(KeyboardInterrupt):
        in_process(one, interrupt_at_step_5)
    resumed, whole = in_process(one), in_process(one_stage(uneven, tmp_path / "whole", train=train))
    assert resumed.stages[0].state == "resume"
    assert weights(resumed) == weights(whole)
    drawn = [one for one in read_samples(folders(whole)[0]) if one.kind == "train"]
    assert len(drawn) == 2 * 20
    label_of = {row["clip_id"]: row["label"] for row in rows}
    counts = np.bincount([label_of[one.clip_id] for one in drawn], minlength=8)
    assert counts.max() - counts.min() <= 2, "in each of two epochs, quotas differ by one at most"


def test_augmented_and_regularised_training_is_resumed_with_the_same_bits(motion_manifest, tmp_path):
    train = {
        "mix": {}, "stochastic_depth": 0.3, "repeated_augmentation": 2, "batch_size": 8, "microbatch_size": 4,
        "checkpoint_every_steps": 2,
    }  # fmt: skip
    data = {"augmentations": ["rand_augment", {"name": "random_erasing", "probability": 1.0}]}
    one = one_stage(motion_manifest, tmp_path / "resumed", train=train, data=data)
    with pytest.raises(KeyboardInterrupt):
        in_process(one, interrupt_at_step_5)
    resumed = in_process(one)
    whole = in_process(one_stage(motion_manifest, tmp_path / "whole", train=train, data=data))
    assert resumed.stages[0].state == "resume"
    assert weights(resumed) == weights(whole)
    drawn = [one.clip_id for one in read_samples(folders(whole)[0]) if one.kind == "train"]
    assert drawn[0::2] == drawn[1::2], "neighbours are the same clip"
    assert len(set(drawn)) == 24, "in two epochs each clip is there"
    for name, value in (("mix", None), ("stochastic_depth", 0.0)):
        less = in_process(one_stage(motion_manifest, tmp_path / name, train={**train, name: value}, data=data))
        assert weights(less) != weights(whole)


def test_more_epochs_go_on_where_the_shorter_stage_ended(motion_manifest, tmp_path):
    def trained(epochs, storage, **schedule):
        told = []
        train = {"epochs": epochs, "schedule": {"warmup_epochs": 0.5, **schedule}}
        result = in_process(one_stage(motion_manifest, tmp_path / storage, train=train), told.append)
        (start,) = (event for event in told if isinstance(event, StageStarted))
        return result, start

    trained(2, "goes-on", kind="constant")
    longer, start = trained(3, "goes-on", kind="constant")
    assert (start.state, start.step) == ("resume", 6)
    assert start.why.endswith(", which is the same until epoch 2")
    whole, start = trained(3, "whole", kind="constant")
    assert (start.state, start.step) == ("run", 0)
    assert weights(longer) == weights(whole)
    assert longer.stages[0].validation == whole.stages[0].validation

    trained(2, "cosine", kind="cosine")
    _, start = trained(3, "cosine", kind="cosine")
    assert (start.state, start.step) == ("run", 0)
    reason = "the stage with 2 epochs is not continued: the rates of a cosine schedule depend on train.epochs"
    assert f"train.epochs: 2 -> 3; {reason} (those of constant and step do not)" in start.why


STOPPING = {"epochs": 6, "early_stopping": {"patience": 2, "min_delta": 1.0}}  # no top-1 gets better by 1


def test_a_training_that_stops_early_is_evaluated_and_reused(motion_manifest, tmp_path):
    told = []
    one = one_stage(motion_manifest, tmp_path / "runs", train=STOPPING)
    found = in_process(one, told.append)
    (stopped,) = (event for event in told if isinstance(event, StageStopped))
    assert (stopped.stage, stopped.epochs) == ("teacher", 3)
    assert turning_point(stopped, RunView()) == ("teacher: stopped after epoch 3 of 6: no better top1 in 2 validations")
    assert [event.epoch for event in told if isinstance(event, Validated) and event.split == "val"] == [0, 1, 2]
    assert max(event.step for event in told if isinstance(event, StepDone)) == 9
    assert found.stages[0].metrics["rows"] == 8
    drawn = read_samples(folders(found)[0])
    assert Counter(one.kind for one in drawn) == {"train": 3 * 24, "val": 3 * 16, "test": 8}
    assert in_process(one).stages[0].state == "reuse"

    plain = in_process(one_stage(motion_manifest, tmp_path / "plain", train={"epochs": 3}))
    assert plain.stages[0].identity != found.stages[0].identity
    assert weights(plain) == weights(found), "the schedule of steps does not depend on the number of epochs"


def test_one_that_is_interrupted_when_it_stops(motion_manifest, tmp_path):
    one = one_stage(motion_manifest, tmp_path, train=STOPPING)

    def interrupt(event):
        if isinstance(event, StageStopped):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_process(one, interrupt)
    told = []
    found = in_process(one, told.append)
    assert found.stages[0].state == "resume"
    assert not any(isinstance(event, StepDone) for event in told), "nothing is trained on"
    assert found.stages[0].metrics["rows"] == 8


class Enough(Exception):
    """An exception that ends a run from a callback, like Ctrl-C."""


def enough(*_: object) -> None:
    raise Enough


@pytest.mark.parametrize("when", ["while the controller starts", "while it trains"])
def test_a_run_that_is_left_takes_its_stage_with_it(motion_manifest, tmp_path, monkeypatch, when):
    import ray

    if when == "while the controller starts":
        monkeypatch.setattr(Tracker, "check", enough)

    def on_event(event):
        if isinstance(event, StepDone):
            raise Enough

    def free():
        return ray.available_resources().get("CPU", 0) == ray.cluster_resources()["CPU"]

    # So many epochs that the stage does not end by itself while the test waits.
    long = {"epochs": 5_000, "log_every_steps": 1}
    with pytest.raises(Enough):
        run(one_stage(motion_manifest, tmp_path, train=long, tracking={"enabled": True}), on_event=on_event)
    # A thread that outlives the connection to Ray would end the whole process.
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("fit-")]
    wait_until(free, every_s=0.2, what="the caller's cluster still runs an abandoned stage")
    logs = [path.read_text().splitlines() for path in tmp_path.glob("stages/*/samples-*.jsonl")]
    items = [json.loads(line)["item"] for lines in logs for line in lines if line]
    assert len(items) == len(set(items)), "its workers were restarted after the end of the run"


def with_broken_clips(manifest_path: Path, target: Path, broken: int) -> Path:
    """The manifest with its first training clips replaced by an empty file."""
    manifest = read_manifest(manifest_path)
    empty = target / "empty.mp4"
    empty.touch()
    rows = manifest.table.to_pylist()
    left = broken
    for row in rows:
        row["uri"] = manifest.resolve(row["uri"])
        if row["split"] == "train" and left:
            row["uri"], left = str(empty), left - 1
    table = manifest.table.schema.empty_table().from_pylist(rows, schema=manifest.table.schema)
    path = target / "broken.parquet"
    write_manifest(type(manifest)(table, manifest.classes, manifest.flip_map, str(path)), path)
    return path


def test_unreadable_clips_within_the_share_are_masked_and_written_down(motion_manifest, tmp_path):
    path = with_broken_clips(motion_manifest, tmp_path, 2)
    events = []
    result = in_process(one_stage(path, tmp_path / "runs", data={"max_failed_share": 0.1}), on_event=events.append)
    directory = Path(result.stages[0].model).parent
    ledger = [json.loads(line) for line in (directory / "failures.jsonl").read_text().splitlines()]
    assert len(ledger) == 2, "each clip once, not once per epoch"
    assert any(isinstance(event, Warned) and "cannot be read" in event.message for event in events)
    seen = [sample for pairs in samples(directory).values() for _, sample in pairs]
    assert len(seen) == 2 * (24 - 2)


def test_too_many_unreadable_clips_stop_the_run(motion_manifest, tmp_path):
    path = with_broken_clips(motion_manifest, tmp_path, 3)
    with pytest.raises(RunError, match=r"clips cannot be read, more than data\.max_failed_share=0\.01"):
        in_process(one_stage(path, tmp_path / "runs"))
    assert list((tmp_path / "runs").glob("stages/*/failures.jsonl"))
    assert not list((tmp_path / "runs").glob("stages/*/result.json"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resources": {"workers": 3}}, "3 workers need 3 CPUs, but the cluster has 2"),
        ({"data": {"manifest": "/absent/manifest.parquet"}}, "/absent/manifest.parquet"),
        ({"data": {"val_split": "validation"}}, "split 'validation' is empty; it has test"),
        ({"tracking": {"uri": "http://127.0.0.1:9"}}, "tracking.uri http://127.0.0.1:9"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(motion_manifest, tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        run(recipe(motion_manifest, tmp_path / "runs", **changes))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_flipping_without_a_flip_map_is_refused(motion_manifest, tmp_path):
    manifest = read_manifest(motion_manifest)
    path = tmp_path / "manifest.parquet"
    rows = [{**row, "uri": manifest.resolve(row["uri"])} for row in manifest.table.to_pylist()]
    table = manifest.table.schema.empty_table().from_pylist(rows, schema=manifest.table.schema)
    write_manifest(type(manifest)(table, manifest.classes, {}, str(path)), path)
    with pytest.raises(InputError, match="no flip map"):
        run(one_stage(path, tmp_path / "runs", data={"flip": True}))
    assert not (tmp_path / "runs" / "stages").exists()


def test_unwritable_storage_is_refused(motion_manifest, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        run(recipe(motion_manifest, tmp_path / "file" / "runs"))
