"""Pictures of chosen clips during training: in the stage's MLflow run, at the right steps, with no effect on it."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from in_process import in_process
from mlflow import MlflowClient
from PIL import Image

from w3ray.data.manifest import build_manifest, read_manifest, write_manifest
from w3ray.errors import InputError
from w3ray.events import Explained, Warned
from w3ray.pipeline import run
from w3ray.pipeline.prepare import plan_stages, prepare_data
from w3ray.plugins.shipping import NO_PLUGINS
from w3ray.recipe import Recipe
from w3ray.training.checkpoint_files import by_step


def recipe(manifest, storage: Path, tracking: dict | None = None, **changes) -> Recipe:
    values = {
        "name": "tiny",
        "storage": str(storage),
        "data": {"manifest": str(manifest), "num_frames": 4, "size": 32, "test_split": "test"},
        "model": {"name": "tsm", "backbone": "resnet_small", "attention": {"kind": "w3"}},
        "train": {"epochs": 4, "batch_size": 8, "microbatch_size": 4, "lr": 0.05, "validate_every_epochs": 2},
        "stages": [{"name": "teacher"}],
        "evaluation": {"split": "test"},
        "tracking": tracking or {},
        **changes,
    }
    return Recipe.model_validate(values)


@pytest.fixture(scope="module")
def chosen(motion_manifest) -> list[str]:
    """One clip of each split that the stage reads."""
    manifest = read_manifest(motion_manifest)
    return [manifest.split(split)["clip_id"][0].as_py() for split in ("train", "val")]


def pictures(result) -> dict[str, bytes]:
    """The files in `explain` of the stage's run."""
    client = MlflowClient(result.tracking["uri"])
    run_id = result.stages[-1].tracking_run
    found: dict[str, bytes] = {}

    def walk(folder: str) -> None:
        for file in client.list_artifacts(run_id, folder):
            if file.is_dir:
                walk(file.path)
            else:
                found[file.path] = Path(client.download_artifacts(run_id, file.path)).read_bytes()

    walk("explain")
    return found


def states(result) -> list[bytes]:
    """The result of the stage: its model, and the optimiser and random states of its checkpoints."""
    folder = Path(result.stages[-1].model)
    checkpoints = [Path(str(path)) for path in by_step(folder.parent / "checkpoints")]
    assert checkpoints
    files = [file for path in checkpoints for file in sorted(path.glob("*.safetensors"))]
    return [(folder / "model.safetensors").read_bytes(), *(file.read_bytes() for file in files)]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_pictures_at_each_validation_and_the_same_bits(motion_manifest, chosen, tmp_path):
    events = []
    plain = in_process(recipe(motion_manifest, tmp_path / "plain"))
    shown = in_process(recipe(motion_manifest, tmp_path / "shown", {"explain_clips": chosen}), events.append)
    assert not [event for event in events if isinstance(event, Warned | Explained)]
    assert shown.stages[0].identity == plain.stages[0].identity
    assert states(shown) == states(plain)
    assert shown.stages[0].metrics == plain.stages[0].metrics
    found = pictures(shown)
    # 24 clips in batches of 8: three steps per epoch. A validation every second epoch.
    assert set(found) == {f"explain/{clip}/step-{step:06d}.png" for clip in chosen for step in (6, 12)}
    assert pictures(plain) == {}
    images = {name: np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for name, content in found.items()}
    for image in images.values():
        assert image.std() > 5
    first, second = (images[f"explain/{chosen[0]}/step-{step:06d}.png"] for step in (6, 12))
    assert first.shape == second.shape
    assert (first != second).any(), "the weights changed, and so did the attention"
    assert list((tmp_path / "shown" / "tracking").rglob("*.png")) == [], "delivered pictures are not kept"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_every_epoch_beside_a_clip_that_can_not_be_read(motion_manifest, tmp_path):
    manifest = read_manifest(motion_manifest)
    rows = manifest.table.to_pylist()
    for row in rows:
        row["uri"] = manifest.resolve(row["uri"])
    (tmp_path / "zero.mp4").touch()
    rows[1]["uri"], rows[1]["clip_id"], rows[0]["clip_id"] = str(tmp_path / "zero.mp4"), "bröken/../x@1", "a/b c"
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    broken = write_manifest(build_manifest(columns, manifest.classes, manifest.flip_map), tmp_path / "odd.parquet")
    tracking = {"explain_clips": ["bröken/../x@1", "a/b c"], "explain_every_epochs": 3}
    data = {"manifest": broken.location, "num_frames": 4, "size": 32, "test_split": "test", "max_failed_share": 0.1}
    events = []
    result = in_process(recipe(broken.location, tmp_path / "runs", tracking, data=data), events.append)
    (folder,) = {str(Path(name).parent) for name in pictures(result)}
    assert folder.startswith("explain/a/b_c-")
    assert {Path(name).name for name in pictures(result)} == {"step-000009.png", "step-000012.png"}
    said = [event.message for event in events if isinstance(event, Warned) and "no pictures of" in event.message]
    assert len(said) == 1
    assert "no pictures of bröken/../x@1 (tracking.explain_clips) from now on" in said[0]
    assert "empty" in said[0]


def test_a_clip_that_is_in_no_split_is_refused_before_anything_starts(motion_manifest, chosen, tmp_path):
    wrong = f"{chosen[1]}x"
    for tracking, message in (
        ({"explain_clips": [chosen[0], wrong]}, f"explain_clips: '{wrong}' is no clip of .*did you mean '{chosen[1]}'"),
        (
            {"explain_clips": ["zebra"]},
            "'zebra' is no clip of the splits train, val, test; the splits hold '.*' and others",
        ),
    ):
        with pytest.raises(InputError, match=message):
            run(recipe(motion_manifest, tmp_path / "runs", tracking))
    assert list(tmp_path.rglob("*.jsonl")) == []
    off = recipe(motion_manifest, tmp_path, {"explain_clips": ["zebra"], "enabled": False})
    assert prepare_data(off).explained == ()


def test_what_is_drawn_decides_no_identity(motion_manifest, chosen, tmp_path):
    plain, shown = (
        recipe(motion_manifest, tmp_path, tracking)
        for tracking in ({}, {"explain_clips": chosen, "explain_every_epochs": 2})
    )
    assert plain.fingerprint() == shown.fingerprint()
    (a,), (b,) = (plan_stages(one, prepare_data(one)) for one in (plain, shown))
    assert (a.identity, a.determinants) == (b.identity, b.determinants)
    found = prepare_data(shown).explained
    assert [clip.clip_id for clip in found] == chosen
    manifest = read_manifest(motion_manifest)
    labels = dict(zip(manifest.table["clip_id"].to_pylist(), manifest.table["label"].to_pylist(), strict=True))
    assert [clip.true for clip in found] == [manifest.classes[labels[name]] for name in chosen]


@pytest.mark.parametrize("kind", ["w3", "cbam", "nonlocal"])
def test_drawing_leaves_the_network_and_the_random_numbers_as_they_were(motion_manifest, chosen, tmp_path, kind):
    from w3ray.models import build_model
    from w3ray.runtime.event_channel import LocalChannel
    from w3ray.runtime.explained import ClipPictures, _load

    one = recipe(motion_manifest, tmp_path, {"explain_clips": chosen})
    data = prepare_data(one)
    events = LocalChannel()
    pictures = ClipPictures(
        data.explained, spec=data.clip, stage="teacher", heads=data.heads, roots=None, decode_timeout_s=60,
        events=events,
    )  # fmt: skip
    pictures._frames = {clip: _load(clip, data.clip, None, NO_PLUGINS) for clip in data.explained}
    model = build_model("tsm", backbone="resnet_small", num_classes=data.heads.num_scores, attention={"kind": kind})
    model.train()
    model.backbone.layer1.eval()  # like frozen norms
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random, numpy_random = torch.get_rng_state(), np.random.get_state()[1].copy()
    pictures.draw(model, 7)
    told = events.receive(0.0)
    assert [(event.clip_id, event.step) for event in told] == [(clip, 7) for clip in chosen]
    pictures.draw(model, 7)
    assert [event.picture for event in events.receive(0.0)] == [event.picture for event in told]
    assert torch.equal(random, torch.get_rng_state())
    assert (numpy_random == np.random.get_state()[1]).all()
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_recipe_faults(motion_manifest, tmp_path):
    for tracking, changes, message in (
        ({"explain_clips": ["a", "a"]}, {}, "explain_clips: 'a' is named twice"),
        ({"explain_every_epochs": 2}, {}, "'explain_every_epochs' needs 'explain_clips'"),
        ({"explain_clips": ["a"], "explain_every_epochs": 0}, {}, "greater than or equal to 1"),
        (
            {"explain_clips": ["a"]},
            {"model": {"name": "tsm", "backbone": "resnet_small", "attention": None}},
            "tracking.explain_clips: stage 'teacher' has no attention",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            recipe(motion_manifest, tmp_path, tracking, **changes)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_one_worker_of_two_draws_and_both_go_on(motion_manifest, chosen, tmp_path):
    two = {"resources": {"workers": 2, "cpus_per_worker": 0.5, "decoders": 1}}
    results = {}
    for name, tracking in (("plain", {}), ("shown", {"explain_clips": chosen})):
        results[name] = run(recipe(motion_manifest, tmp_path / name, tracking, **two))
    assert states(results["shown"]) == states(results["plain"])
    assert set(pictures(results["shown"])) == {
        f"explain/{clip}/step-{step:06d}.png" for clip in chosen for step in (6, 12)
    }
