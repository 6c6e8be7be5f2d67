"""A recipe with parts from a file runs, with decoders, a trainer and scorers that never see the file."""

import json
from pathlib import Path

import pytest
import yaml
from plugin_parts import ATTENTION, LOSS, RECIPE

from w3ray.data.manifest import read_manifest
from w3ray.data.sample_log import read_samples
from w3ray.errors import InputError
from w3ray.pipeline import plan_run, run
from w3ray.recipe import load_recipe
from w3ray.scoring.evaluate import evaluate
from w3ray.scoring.predict import predict

DATA = '''"""A sampler and an augmentation."""

import numpy as np

from w3ray.data.augmentation import AUGMENTATIONS
from w3ray.data.clip_sampling import SAMPLERS


def last(num_frames, num_samples, stride_frames, rng):
    return np.full(num_samples, num_frames - 1)


def dark(clip_TSSC, rng):
    return (clip_TSSC * rng.uniform(0.2, 0.8)).astype(np.uint8)


SAMPLERS.add("last", last)
AUGMENTATIONS.add("dark", dark)
'''


WATCH = '''"""A callback that writes down what it sees."""

from w3ray.training.callbacks import CALLBACKS


class Watch:
    def on_step(self, event):
        print(event.step, type(event.model).__name__, file=open(FILE, "a"))

    def on_validation(self, event):
        print(event.step, event.split, file=open(FILE, "a"))


CALLBACKS.add("watch_run", Watch)
'''


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_all_that_is_left_of_the_file_is_what_was_loaded(motion_manifest, tmp_path):
    values = {
        **RECIPE,
        "storage": str(tmp_path / "runs"),
        "plugins": ["./network.py", "./data.py", "./loss.py", "./watch.py"],
        "data": {"manifest": str(motion_manifest), "num_frames": 4, "size": 32, "sampling": "last",
                 "augmentations": ["dark"]},
        "model": {"backbone": "resnet_small", "attention": {"kind": "scale"}},
        "train": {"epochs": 1, "batch_size": 8, "microbatch_size": 4, "log_samples": True, "log_every_steps": 1,
                  "callbacks": ["watch_run"]},
        "stages": [{"name": "one", "loss_weights": {"spread": 0.5}}],
        "tracking": {"enabled": False},
    }  # fmt: skip
    seen = tmp_path / "seen.txt"
    files = {
        "network.py": ATTENTION, "data.py": DATA, "loss.py": "import torch.nn.functional as F\n" + LOSS,
        "watch.py": f"{WATCH}FILE = {str(seen)!r}\n",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    recipe = load_recipe(tmp_path / "recipe.yaml")
    for name in files:
        (tmp_path / name).unlink()
    losses: list[dict[str, float]] = []
    (stage,) = run(recipe, on_event=lambda event: losses.append(getattr(event, "losses", {}))).stages
    assert all(set(step) == {"cross_entropy", "spread"} for step in losses if step)
    assert any(losses)
    assert seen.read_text().splitlines() == ["1 TSM", "2 TSM", "3 TSM", "3 val", "3 test"]
    folder = Path(stage.model)
    assert len(read_samples(folder.parent)) == 24 + 16 + 16
    document = json.loads((folder / "model.json").read_text())
    assert set(document["plugins"]) == {"attentions/scale", "samplers/last"}
    assert document["clip"]["augmentations"] == []
    plugins = json.loads((folder.parent / "stage.json").read_text())["determinants"]
    assert set(plugins["plugins"]) == {"attentions/scale", "losses/spread"}
    assert set(plugins["data"]["plugins"]) == {"samplers/last", "augmentations/dark"}

    scored = evaluate([str(folder)], str(motion_manifest), storage=str(tmp_path / "runs"))
    assert scored.metrics["top1"] == stage.validation["top1"]
    again = evaluate([str(folder)], str(motion_manifest), storage=str(tmp_path / "runs"))
    assert again.reused == 16

    # A changed loss is trained again. An equal loss is not.
    (tmp_path / "network.py").write_text(ATTENTION)
    (tmp_path / "data.py").write_text(DATA)
    (tmp_path / "loss.py").write_text(files["loss.py"])
    (tmp_path / "watch.py").write_text(WATCH + "# another source, and nothing is trained again\n")
    (planned,) = plan_run(load_recipe(tmp_path / "recipe.yaml"))["stages"]
    assert planned["state"] == "reuse"
    (tmp_path / "loss.py").write_text(LOSS.replace("FACTOR = 1", "FACTOR = 2"))
    (planned,) = plan_run(load_recipe(tmp_path / "recipe.yaml"))["stages"]
    assert planned["state"] == "run"
    assert "plugins.losses/spread.sha256: " in planned["why"]
    (tmp_path / "network.py").write_text(ATTENTION + "# another source\n")
    load_recipe(tmp_path / "recipe.yaml")
    assert evaluate([str(folder)], str(motion_manifest), storage=str(tmp_path / "runs")).reused == 0


def test_a_part_that_breaks_its_contract_is_refused_before_anything_starts(motion_manifest, tmp_path):
    (tmp_path / "a.py").write_text(LOSS.replace(".mean(dim=1).sum()", ".mean()"))
    values = {
        **RECIPE, "plugins": ["./a.py"], "storage": str(tmp_path / "runs"), "data": {"manifest": str(motion_manifest)},
        "stages": [{"name": "one", "loss_weights": {"spread": 0.5}}],
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(
        InputError, match=f"losses: 'spread' from {tmp_path}/a.py breaks the contract of its family: the sum"
    ):
        run(load_recipe(tmp_path / "recipe.yaml"))
    assert not (tmp_path / "runs").exists()


def test_a_few_videos_are_looked_at_in_this_process(motion_manifest, tmp_path):
    from test_plugins import TestModelsOnDisk

    folder = TestModelsOnDisk.folder.__wrapped__(None, tmp_path)
    manifest = read_manifest(motion_manifest)
    (told,) = predict(str(folder), [manifest.resolved_uris()[0]])
    assert {name for name, _ in told.top} == {"a", "b"}
