"""A chain with a bank on generated clips: baseline, bank, and the network that reads it, and what is done with them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient

import w3ray
from w3ray.cli import main
from w3ray.data.synthetic import write_motion_dataset
from w3ray.errors import InputError
from w3ray.events import BankProgress
from w3ray.pipeline.identity import bank_identity
from w3ray.pipeline.planned import PlannedBank, PlannedStage
from w3ray.pipeline.prepare import plan_stages, prepare_data
from w3ray.recipe import Recipe
from w3ray.sweep.space import Space

SMALL = {"width": 8, "blocks": [1, 1, 1, 1]}
LFB = {"name": "lfb", "options": {**SMALL, "operator": "nl", "window": 4, "bank_channels": 256, "inner": 16}}


def recipe_of(storage: Path, **changes: Any) -> Recipe:
    values = {
        "name": "tiny-bank",
        "storage": str(storage),
        "data": {"synthetic": {"clips": 16, "val_clips": 8, "test_clips": 8, "size": 32}, "size": 32, "num_frames": 4},
        "model": {"name": "i3d_r50", "options": SMALL, "attention": None},
        "train": {"epochs": 1, "batch_size": 8, "lr_batch_size": 8, "microbatch_size": 4, "validate_every_epochs": 1},
        "stages": [
            {"name": "baseline"},
            {"name": "bank", "kind": "bank", "of": "baseline", "every_s": 0.5, "span_s": 0.5},
            {"name": "long", "bank": "bank", "model": LFB},
        ],
        "resources": {"workers": 1},
    }
    return Recipe.model_validate({**values, **changes})


def planned_of(recipe: Recipe) -> tuple[PlannedStage, PlannedBank, PlannedStage]:
    first, bank, last = plan_stages(recipe, prepare_data(recipe))
    assert isinstance(first, PlannedStage)
    assert isinstance(bank, PlannedBank)
    assert isinstance(last, PlannedStage)
    return first, bank, last


def with_stage(number: int, **changes: Any) -> list[dict[str, Any]]:
    stages = recipe_of(Path("runs")).to_dict()["stages"]
    stages[number] |= changes
    return stages


class TestPlan:
    def test_identities(self, tmp_path):
        first, bank, last = planned_of(recipe_of(tmp_path))
        assert last.determinants["bank"] == bank.identity
        assert "bank" not in first.determinants
        assert bank.determinants["of"] == first.identity
        assert (last.clip(prepare_data(recipe_of(tmp_path))).bank_window, last.total_steps, bank.total_steps) == (
            4,
            2,
            0,
        )
        slower = planned_of(recipe_of(tmp_path, stages=with_stage(1, every_s=1.0)))
        assert slower[0].identity == first.identity
        assert slower[1].identity != bank.identity
        assert slower[2].identity != last.identity
        longer = planned_of(recipe_of(tmp_path, train={"epochs": 2, "batch_size": 8, "microbatch_size": 4}))
        assert all(one.identity != other.identity for one, other in zip(longer, (first, bank, last), strict=True))
        wider = planned_of(recipe_of(tmp_path, stages=with_stage(2, model={**LFB, "dropout": 0.3})))
        assert [wider[0].identity, wider[1].identity] == [first.identity, bank.identity]

    def test_the_identity_of_a_bank_does_not_change(self):
        """It names the folders of banks that were made already."""
        data = {"manifest": "m", "splits": {"train": "train"}}
        document = {"versions": {"bank": 1}, "of": "i", "data": data, "every_s": 1.0, "span_s": 2.0}
        assert bank_identity(document)[:16] == "aa02dbf349c484ed"

    def test_wrong_channels_are_refused_before_anything_starts(self, tmp_path):
        stages = with_stage(2, model={**LFB, "options": {**LFB["options"], "bank_channels": 2048}})
        with pytest.raises(
            InputError, match=r"bank_channels is 2048, but i3d_r50 of stage baseline makes features of 256"
        ):
            planned_of(recipe_of(tmp_path, stages=stages))
        assert not (tmp_path / "stages").exists()

    def test_states(self, tmp_path):
        recipe = recipe_of(tmp_path)
        _, bank, _ = planned_of(recipe)
        assert bank.status.state == "run"
        bank.store.create(bank.determinants)
        (bank.store.directory / "videos.json").write_text("{}")
        assert planned_of(recipe)[1].status.state == "resume"
        (bank.store.directory / "bank.json").write_text("{}")
        assert planned_of(recipe)[1].status.state == "resume"
        bank.store.finish({"features": 1, "videos": 1, "tracking_run": None})
        assert planned_of(recipe)[1].status.state == "reuse"
        (_, other, _) = planned_of(recipe_of(tmp_path, stages=with_stage(1, every_s=1.0)))
        assert "every_s: 0.5 -> 1.0" in other.status.why


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bank-run") / "runs"


@pytest.fixture(scope="module")
def result(storage: Path) -> Any:
    return w3ray.run(recipe_of(storage))


@pytest.mark.ray
@pytest.mark.slow
class TestRun:
    def test_the_chain(self, result, storage):
        baseline, bank, long = result.stages
        assert [one.state for one in result.stages] == ["run", "run", "run"]
        assert (dict(bank.metrics), bank.model, bank.checkpoint) == ({}, "", "")
        document = json.loads((Path(bank.bank) / "bank.json").read_text())
        assert len(document["videos"]) == 24  # of train and val
        assert 0 <= long.metrics["top1"] <= 1
        about = json.loads((Path(long.model) / "model.json").read_text())
        assert about["bank"] == {"model": document["model"], "every_s": 0.5, "span_s": 0.5}
        assert "bank" not in json.loads((Path(baseline.model) / "model.json").read_text())

    def test_tracking(self, result):
        client = MlflowClient(result.tracking["uri"])
        run = client.get_run(result.stages[1].tracking_run)
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == result.tracking["run"]
        document = json.loads((Path(result.stages[1].bank) / "bank.json").read_text())
        counted = {"bank/features": sum(document["videos"].values()), "bank/videos": 24}
        assert {name: run.data.metrics[name] for name in counted} == counted

    def test_a_run_that_was_left_in_the_middle_of_a_bank_goes_on(self, result, tmp_path):
        class Enough(Exception):
            pass

        def leave(event):
            if isinstance(event, BankProgress) and event.features < event.total_features:
                raise Enough

        with pytest.raises(Enough):
            w3ray.run(recipe_of(tmp_path), on_event=leave)
        again = w3ray.run(recipe_of(tmp_path))
        assert [one.state for one in again.stages] == ["reuse", "resume", "run"]
        assert [one.identity for one in again.stages] == [one.identity for one in result.stages]
        files = sorted(Path(result.stages[1].bank).rglob("*.npy"))
        assert len(files) == 24
        for path in files:
            other = Path(again.stages[1].bank) / path.relative_to(result.stages[1].bank)
            np.testing.assert_array_equal(np.load(path), np.load(other))
        assert dict(again.stages[2].metrics) == dict(result.stages[2].metrics)

    def test_a_sweep_makes_the_bank_once(self, result, storage):
        space = Space.model_validate(
            {
                "name": "of-banks",
                "parameters": {"stages.long.model.dropout": {"choice": [0.3, 0.4]}},
                "search": {"searcher": "grid"},
            }
        )
        file = storage.parent / "tiny-bank.yaml"
        file.write_text(yaml.safe_dump(recipe_of(storage).to_dict()))
        made = w3ray.tune(space, str(file))
        assert [point.state for point in made.points] == ["finished", "finished"]
        assert {kind: len(list(storage.glob(f"stages/{kind}-*"))) for kind in ("baseline", "bank", "long")} == {
            "baseline": 1, "bank": 1, "long": 3,
        }  # fmt: skip

    def test_a_second_run_reuses_all(self, result, storage):
        again = w3ray.run(recipe_of(storage))
        assert [one.state for one in again.stages] == ["reuse", "reuse", "reuse"]
        assert [one.identity for one in again.stages] == [one.identity for one in result.stages]

    def test_evaluate_predict_and_export(self, result, storage, tmp_path, capfd, monkeypatch):
        monkeypatch.chdir(tmp_path)
        baseline, bank, long = result.stages
        (manifest,) = storage.glob("data/*/manifest.parquet")
        asked = ["--manifest", str(manifest), "--split", "val"]
        capfd.readouterr()
        assert main(["evaluate", long.model, *asked, "--bank", bank.bank, "--json"]) == 0
        found = json.loads(capfd.readouterr().out)
        assert found["metrics"]["top1"] == pytest.approx(long.metrics["top1"])
        assert main(["predict", long.model, *asked, "--bank", bank.bank, "--top", "1", "--json"]) == 0
        predicted = json.loads(capfd.readouterr().out)["predictions"]
        assert len(predicted) == 8
        seen, unseen = (next(manifest.parent.glob(f"**/{split}/**/*.mp4")) for split in ("val", "test"))
        assert main(["predict", long.model, str(seen), "--bank", bank.bank, "--json"]) == 0
        assert "top" in json.loads(capfd.readouterr().out)["predictions"][0]
        assert main(["predict", long.model, str(unseen), "--bank", bank.bank]) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert f"has no features of 1 of 1 videos of the prediction, such as '{unseen}'" in line
        assert main(["export", long.model, "--format", "torch", "--out", "model.pt2"]) == 2
        assert "cannot be exported: it reads bank with each clip" in capfd.readouterr().err

        other = write_motion_dataset(str(tmp_path / "clips"), clips=4, val_clips=2, test_clips=2, size=32, seed=7)
        for words, said in (
            ([long.model, *asked], "needs a bank of the videos; name its folder with --bank"),
            ([baseline.model, *asked, "--bank", bank.bank], "reads no bank; leave it out"),
            ([long.model, *asked, "--bank", str(tmp_path)], "no finished bank here"),
            ([long.model, "--manifest", other.location, "--bank", bank.bank], "has no features of"),
        ):
            assert main(["evaluate", *words]) == 2
            (line,) = capfd.readouterr().err.splitlines()
            assert said in line

    def test_a_bank_of_another_manifest(self, result, tmp_path, capfd):
        baseline, _, long = result.stages
        other = write_motion_dataset(str(tmp_path / "clips"), clips=4, val_clips=2, test_clips=2, size=32, seed=7)
        made = ["data", "bank", baseline.model, other.location, str(tmp_path / "bank"), "--json"]
        assert main([*made, "--every-s", "0.5", "--span-s", "0.5"]) == 0
        capfd.readouterr()
        asked = ["evaluate", long.model, "--manifest", other.location, "--split", "val", "--storage", str(tmp_path)]
        assert main([*asked, "--bank", str(tmp_path / "bank"), "--json"]) == 0
        capfd.readouterr()
        assert main([*made, "--every-s", "1"]) == 2
        assert "holds another bank" in capfd.readouterr().out
        for field, value, said in (
            ("model", "x" * 64, "was made by another model than the bank that"),
            ("every_s", 1.0, "was made with every_s=1, but"),
            ("channels", 5, "its features have 5 channels, but"),
        ):
            folder = tmp_path / field
            folder.mkdir()
            document = json.loads((tmp_path / "bank" / "bank.json").read_text())
            (folder / "bank.json").write_text(json.dumps({**document, field: value}))
            assert main([*asked, "--bank", str(folder)]) == 2
            (line,) = capfd.readouterr().err.splitlines()
            assert said in line

    def test_the_features_are_those_of_one_process(self, result, storage, tmp_path):
        from w3ray.cluster.plan import plan_resources
        from w3ray.data.bank import read_bank, videos_of
        from w3ray.scoring.make_bank import BankOrder, make_bank
        from w3ray.scoring.model_files import model_files
        from w3ray.storage import storage_path

        baseline, bank, _ = result.stages
        recipe, kept = recipe_of(storage), read_bank(bank.bank)
        data = prepare_data(recipe)
        order = BankOrder(
            folder=tmp_path, identity="i", files=model_files(storage_path(baseline.model)), about=kept.about,
            videos=videos_of(data.splits.values(), data.location), here=True,
        )  # fmt: skip
        plan = plan_resources(nodes=[{"CPU": 2}], workers=(1, 1), use_gpu=False, decoders=1, cpus_per_worker=None)
        make_bank(order, plan)
        for path in (tmp_path / "features").iterdir():
            np.testing.assert_allclose(np.load(path), np.load(Path(bank.bank) / "features" / path.name), atol=1e-5)
