"""The recipes for the paper's results: their values, that they can be planned unchanged, and that they run."""

import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import resnet50

from w3ray.attention import attention_config
from w3ray.data.flow import FlowSettings, compute_flow
from w3ray.data.manifest import build_manifest, read_manifest, write_manifest
from w3ray.events import StepDone
from w3ray.models import MODELS
from w3ray.models.published import SYSTEMS, System
from w3ray.models.resnet_small import resnet_small
from w3ray.pipeline import run
from w3ray.pipeline.prepare import plan_stages, prepare_data
from w3ray.recipe import Recipe, load_recipe
from w3ray.recipe.load import known_recipes

# Name -> frames, classes of the data set (EPIC-Kitchens: 125 verbs and 352 nouns), split of the reported result.
ROWS = {
    "ssv1-w3-8f": (8, 174, "val"),
    "ssv1-tsm-8f": (8, 174, "val"),
    "ssv1-w3-16f": (16, 174, "val"),
    "ssv1-tsm-16f": (16, 174, "val"),
    "ssv2-w3-16f": (16, 174, "val"),
    "ssv2-tsm-16f": (16, 174, "val"),
    "egogesture-w3-8f": (8, 83, "test"),
    "egogesture-tsm-8f": (8, 83, "test"),
    "epic-w3-8f": (8, 477, "val"),
    "epic-tsm-8f": (8, 477, "val"),
    "ssv1-tsn-8f": (8, 174, "val"),
    "ssv1-tsn-bninception-8f": (8, 174, "val"),
    "ssv1-cbam-16f": (16, 174, "val"),
    "ssv1-cbam-mfr-16f": (16, 174, "val"),
    "ssv1-nonlocal-16f": (16, 174, "val"),
    "ssv1-tam-8f": (8, 174, "val"),
    "ssv1-tam-w3-8f": (8, 174, "val"),
    "ssv2-tsm-8f": (8, 174, "val"),
    "epic-tsn-8f": (8, 477, "val"),
    "ssv1-trn-multiscale-8f": (8, 174, "val"),
    "ssv1-trn-multiscale-bninception-8f": (8, 174, "val"),
    "ssv2-trn-multiscale-bninception-8f": (8, 174, "val"),
    "epic-trn-8f": (8, 477, "val"),
    "epic-trn-multiscale-8f": (8, 477, "val"),
    "ssv1-i3d-r18-32f": (32, 174, "val"),
    "ssv1-i3d-r18-w3-32f": (32, 174, "val"),
    "ssv1-i3d-r18-64f": (64, 174, "val"),
    "ssv1-i3d-r18-w3-64f": (64, 174, "val"),
    "egogesture-c3d-8f": (8, 83, "test"),
    "egogesture-c3d-16f": (16, 83, "test"),
    "egogesture-vgg16-lstm-16f": (16, 83, "test"),
    "ssv1-eco-8f": (8, 174, "val"),
    "ssv1-eco-16f": (16, 174, "val"),
    "ssv1-eco-lite-16f": (16, 174, "val"),
    "ssv1-eco-lite-20f": (20, 174, "val"),
    "ssv1-eco-lite-24f": (24, 174, "val"),
    "ssv1-eco-lite-32f": (32, 174, "val"),
    **{f"ssv1-eco-lite-flow-{frames}f": (frames, 174, "val") for frames in (16, 20, 24, 32)},
    "ssv1-i3d-r50-32f": (32, 174, "val"),
    "ssv1-i3d-r50-nl-32f": (32, 174, "val"),
    "ssv1-slowfast-r50-32f": (32, 174, "val"),
    "ssv1-trn-multiscale-bninception-flow-8f": (8, 174, "val"),
    "ssv2-trn-multiscale-bninception-flow-8f": (8, 174, "val"),
    "egogesture-i3d-inception-32f": (32, 83, "test"),
    "egogesture-c3d-rsttm-40f": (40, 83, "test"),
}
BANKS = {"epic-lfb-verb-32f": ("verb", 125), "epic-lfb-noun-32f": ("noun", 352)}
"""Recipes with a bank -> the head that they learn, and its classes."""
AS_TRN = (0.001, 64, 120, (50, 100), "partial", 20, 5e-4)
AS_THEIR_CODE = {
    "bninception": AS_TRN,
    "trn": AS_TRN,
    "eco": (0.001, 32, 22, (9.3, 18.6), "train", 40, 5e-4),
    "slowfast": (0.03, 16, 22, (14, 18), "train", None, 1e-6),
}
"""Part of the name -> learning rate, clips of a step, epochs, epochs at which the rate drops, batch norm, largest norm
of the gradient, weight decay. All others are trained as TSM's command says."""
WEIGHTS = {
    "bninception": "bn_inception-9f5701afb96c8044.pth", "i3d-r18": "resnet18-f37072fd.pth", "c3d": "c3d_sports1m.pth",
    "vgg16": "vgg16-397923af.pth", "eco-lite": "eco_lite_rgb_16F_kinetics_v3.pth.tar",
    "eco": "ECO_Full_rgb_model_Kinetics.pth.tar", "i3d-r50": "I3D_8x8_R50.pyth", "i3d-inception": "rgb_imagenet.pt",
    "slowfast": "SLOWFAST_8x8_R50.pyth",
}  # fmt: skip
"""Part of the name -> the file of initial weights. All others: `RESNET50`."""
RESNET50 = "resnet50-0676ba61.pth"


def weights_named(name: str) -> str:
    return next((file for part, file in WEIGHTS.items() if part in name), RESNET50)


def training_of(name: str) -> tuple[Any, ...] | None:
    """The row of `AS_THEIR_CODE`. None: trained as TSM's command says."""
    return next((values for part, values in AS_THEIR_CODE.items() if part in name), None)


TWO_STAGES = {name for name in ROWS if ("-w3-" in name or "mfr" in name) and "tam" not in name and "i3d" not in name}
PAIRS = [name for name in ROWS if "-w3-" in name]
"""Recipes with W3 whose baseline is here."""
# From TSM's README. --num_segments is the row's. Weight decay 5e-4 is the default in its opts.py.
TSM_COMMAND = """python main.py something RGB
     --arch resnet50 --num_segments 8
     --gd 20 --lr 0.01 --lr_steps 20 40 --epochs 50
     --batch-size 64 -j 16 --dropout 0.5 --consensus_type=avg --eval-freq=1
     --shift --shift_div=8 --shift_place=blockres --npb"""

CLIPS = {"train": 1000, "val": 200, "test": 150}


def test_all_of_them_are_here() -> None:
    assert {name for name in known_recipes() if re.search(r"-\d+f$", name)} == {*ROWS, *BANKS}


@pytest.mark.parametrize("name", ROWS)
class TestPage:
    def test_every_value_has_its_source_on_its_line(self, name: str) -> None:
        page = known_recipes()[name].read_text()
        section, before = "", ""
        stated = 0
        for line in page.splitlines():
            if re.match(r"\w+:", line):
                section = line.partition(":")[0]
            if section in ("data", "model", "train") and re.match(r"  +\w+: ", line):
                source = line.partition("#")[2] or before.partition("#")[2] * before.lstrip().startswith("#")
                if "manifest:" not in line:  # the header has its command
                    assert re.match(
                        r" (W3 |TSM |TSN |TRN |TAM |ECO |NL |SlowFast |our default: |a part of W3|"
                        r"the (data set's own|same))",
                        source,
                    ), line
                    stated += 1
            before = line
        assert stated >= 25

    def test_is_trained_as_its_code_or_tsms_command_says(self, name: str) -> None:
        if (values := training_of(name)) is not None:
            train = load_recipe(name).train
            assert train.lr_batch_size == train.batch_size
            assert values == (
                train.lr, train.batch_size, train.epochs, train.schedule.milestones, train.batch_norm,
                train.clip_grad_norm, train.weight_decay,
            )  # fmt: skip
            return
        said = dict(re.findall(r"--?([\w-]+)(?:[= ]([\w. ]+))?", TSM_COMMAND.replace("\n", " ")))
        options = {option: value.strip() for option, value in said.items()}
        for stage in load_recipe(name).resolved_stages():
            train, model = stage.train, stage.model
            assert model.backbone == ("vgg16" if "vgg16" in name else options["arch"])
            assert model.dropout == float(options["dropout"])
            if model.name == "tsm":
                assert model.options.shift_div == int(options["shift_div"])
            assert (train.lr, train.epochs) == (float(options["lr"]), int(options["epochs"]))
            assert train.batch_size == train.lr_batch_size == int(options["batch-size"])
            assert train.schedule.milestones == tuple(map(int, options["lr_steps"].split()))
            assert (train.schedule.kind, train.schedule.gamma, train.schedule.warmup_epochs) == ("step", 0.1, 0)
            assert train.clip_grad_norm == float(options["gd"])
            assert train.validate_every_epochs == int(options["eval-freq"])
            assert train.batch_norm == ("train" if "npb" in options else "partial")
            assert (train.optimizer, train.momentum, train.weight_decay) == ("sgd", 0.9, 5e-4)

    def test_header_says_what_is_needed_and_what_is_published(self, name: str) -> None:
        page = known_recipes()[name].read_text()
        recipe = load_recipe(name)
        manifest = str(recipe.data.manifest)
        if recipe.data.flow_fields is not None:
            videos = manifest.replace("-flow/", "/")
            assert f" w3ray data flow {videos} {Path(manifest).parent} --method tvl1\n" in page
            assert f" --manifest {videos} " in page
            # The networks of an ensemble of eight count the same; where there are two, the weights are written out.
            weights = "" if "eco-lite" in name else " --weight 1 --weight 1"
            assert f" --flow-manifest {manifest}{weights}" in page
            manifest = videos
        assert re.search(
            rf"# +w3ray data import [\w-]+ ANNOTATIONS --videos VIDEOS --out {re.escape(manifest)}\n", page
        )
        assert weights_named(name) in page
        assert f"w3ray run {name}\n" in page
        assert re.search(r"# published: +top-1 \d\d\.\d(, top-5 \d\d\.\d|; top-5 not published)", page)

    def test_teacher_and_student_are_trained_alike(self, name: str) -> None:
        stages = load_recipe(name).resolved_stages()
        assert all((stage.model, stage.train) == (stages[0].model, stages[0].train) for stage in stages)
        assert [stage.teacher for stage in stages] == ([None, "teacher"] if name in TWO_STAGES else [None])
        assert stages[0].model.refines == ("w3" in name)


@pytest.mark.parametrize("name", BANKS)
class TestBanks:
    def test_every_value_has_its_source_on_its_line(self, name: str) -> None:
        page = known_recipes()[name].read_text()
        values = page[page.index("\ndata:") : page.index("\nstages:")].splitlines()
        stated = 0
        for before, line in itertools.pairwise(values):
            if re.match(r"  +\w+: ", line) and "manifest:" not in line:
                source = line.partition("#")[2] or before.partition("#")[2] * before.lstrip().startswith("#")
                assert re.match(r" (W3 |LFB |NL |our default: |our default$|a part of W3)", source), line
                stated += 1
        assert stated >= 25
        assert f"w3ray run {name}\n" in page
        assert re.search(r"# published: +top-1 \d\d\.\d, top-5 \d\d\.\d", page)
        assert str(load_recipe(name).model.weights) in page

    def test_is_planned_as_it_is(self, name: str, tmp_path: Path) -> None:
        head, num_classes = BANKS[name]
        manifest = manifest_of(tmp_path / "manifest.parquet", "epic", 477)
        recipe = load_recipe(
            name, [f"data.manifest={manifest}", "model.weights=null", f"storage={tmp_path}/runs"]
        )  # fmt: skip
        data = prepare_data(recipe)
        assert recipe.data.head == head
        assert data.heads.num_scores == num_classes
        baseline, bank, lfb = plan_stages(recipe, data)
        assert bank.of is baseline
        assert lfb.bank is bank
        assert lfb.model_arguments(data)["num_classes"] == num_classes
        assert [stage.model.attention for stage in recipe.resolved_stages()] == [recipe.model.attention] * 2
        steps = recipe.train.epochs * 23191 / recipe.train.batch_size
        published = {"verb": 36_000, "noun": 50_000}[head]
        assert steps == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize("system", [one for one in SYSTEMS if one.recipe], ids=lambda one: f"{one.name} {one.frames}")
def test_systems_recipes_are_its_networks(system: System) -> None:
    """The recipes that the table of all systems names train the networks whose cost it has."""
    recipes = [load_recipe(name) for name in (system.recipe, *system.others) if name is not None]
    assert len(recipes) == len(system.networks)
    for recipe, network in zip(recipes, system.networks, strict=True):
        model = recipe.resolved_stages()[-1].model
        family = MODELS[network.model]
        assert (model.name, recipe.data.num_frames) == (network.model, network.frames)
        assert (model.backbone if family.takes_backbone else None, recipe.data.size) == (network.backbone, network.size)
        assert recipe.data.flow_fields == network.flow_fields
        assert {**model.options.values(), **network.options} == model.options.values()
        assert model.attention == (network.attention and attention_config(network.attention))


@pytest.mark.parametrize("name", PAIRS)
def test_baseline_differs_in_the_attention_alone(name: str) -> None:
    one = load_recipe(name)
    other = load_recipe(name.replace("w3", "tsm") if name in TWO_STAGES else name.replace("-w3", ""))
    assert (one.data, one.train, one.evaluation) == (other.data, other.train, other.evaluation)
    differing = {key for key, value in one.model if getattr(other.model, key) != value}
    assert differing == {"attention", "refinement"}


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory) -> Path:
    """A file like torchvision's ResNet-50 weights with 1000 classes; random, because the real one is a big download."""
    path = tmp_path_factory.mktemp("weights") / "resnet50-random.pth"
    torch.manual_seed(0)
    torch.save(resnet50().state_dict(), path)
    return path


def head_sizes_of(name: str, num_classes: int, verbs: int) -> dict[str, Any]:
    """Further arguments for clips with a verb and a noun: heads, and a flip map because they keep their labels."""
    if "epic" not in name:
        return {}
    return {"head_sizes": (("verb", verbs), ("noun", num_classes - verbs)), "flip_map": {0: 0}}


def manifest_of(path: Path, name: str, num_classes: int) -> Path:
    rows = [(split, i) for split, count in CLIPS.items() for i in range(count)]
    manifest = build_manifest(
        {
            "clip_id": [f"{split}-{i}" for split, i in rows],
            "uri": [f"{split}/{i}.webm" for split, i in rows],
            "label": [i % num_classes for _, i in rows],
            "split": [split for split, _ in rows],
        },
        [f"class {i}" for i in range(num_classes)],
        location=str(path),
        **head_sizes_of(name, num_classes, 125),
    )
    write_manifest(replace(manifest, flow="flow" in name.split("-")), path)
    return path


@pytest.mark.parametrize("name", ROWS)
def test_is_planned_as_it_is(name: str, imagenet: Path, tmp_path: Path) -> None:
    frames, num_classes, reported = ROWS[name]
    manifest = manifest_of(tmp_path / "manifest.parquet", name, num_classes)
    weights = imagenet if weights_named(name) == RESNET50 else "null"  # the networks' own tests read such files
    recipe = load_recipe(name, [f"data.manifest={manifest}", f"model.weights={weights}", f"storage={tmp_path}/runs"])
    data = prepare_data(recipe)
    size = (112, 128) if "c3d" in name else (256, 256) if "slowfast" in name else (224, 256)
    assert (data.clip.num_frames, data.clip.size, data.clip.resolved_short_side) == (frames, *size)
    assert {kind: rows.num_rows for kind, rows in data.splits.items()} == {**CLIPS, "test": CLIPS[reported]}
    stages = plan_stages(recipe, data)  # it builds the real network and loads the file
    assert [item.status.state for item in stages] == ["run"] * len(stages)
    for item in stages:
        steps = math.ceil(CLIPS["train"] / recipe.train.batch_size)  # the last batch is kept
        assert item.schedule.total_steps == recipe.train.epochs * steps
        assert item.model_arguments(data)["num_classes"] == num_classes


MORE_BLOCKS = {"ssv1-i3d-r50-nl-32f": {"blocks": (2, 2, 2, 2)}}
"""Options of the small network where it needs more: non-local blocks are behind every second block."""


def small(name: str, manifest: Path, weights: Path, storage: Path) -> Recipe:
    """The recipe with a smaller size: fewer pixels, clips and epochs, a small network."""
    model = load_recipe(name).model
    family = MODELS[model.name]
    network = ["model.backbone=resnet_small", f"model.weights={weights}"]
    if not family.takes_backbone:
        options = json.dumps({**model.options.values(), **family.options.small, **MORE_BLOCKS.get(name, {})})
        network = [f"model.options={options}", "model.weights=null", "data.size=32"]
    elif model.name == "lstm":
        network.append("model.options.fc6=64")
    return load_recipe(
        name,
        [
            f"storage={storage}",
            f"data.manifest={manifest}",
            "data.size=28",
            "data.short_side=32",
            *network,
            "train.epochs=5",
            "train.schedule.milestones=[2, 4]",
            "train.batch_size=16",
            "train.schedule.warmup_epochs=0",
            "train.validate_every_epochs=5",
            "train.log_every_steps=1",
            "tracking.enabled=false",
            "resources.workers=1",
        ],
    )


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("name", ROWS)
def test_runs(name: str, motion_manifest: Path, tmp_path: Path) -> None:
    weights = tmp_path / "small.pth"
    torch.manual_seed(0)
    torch.save(resnet_small().state_dict(), weights)
    heads = head_sizes_of(name, 6, 4)
    if heads:  # the 8 generated classes are 4 pairs, forwards and backwards
        motion = replace(read_manifest(motion_manifest), classes=("a", "b", "c", "d", "e", "f"), **heads)
        motion_manifest = tmp_path / "heads.parquet"
        write_manifest(motion, motion_manifest)
    if "flow" in name.split("-"):
        compute_flow(read_manifest(motion_manifest), str(tmp_path / "flow"), FlowSettings(method="dis-ultrafast"))
        motion_manifest = tmp_path / "flow" / "manifest.parquet"
    recipe = small(name, motion_manifest, weights, tmp_path / "runs")
    steps: dict[str, list[StepDone]] = {}

    def hear(event: object) -> None:
        if isinstance(event, StepDone):
            steps.setdefault(event.stage, []).append(event)

    result = run(recipe, on_event=hear)
    assert list(steps) == [stage.name for stage in recipe.stages] == [stage.name for stage in result.stages]
    for stage in result.stages:
        losses = {"cross_entropy.verb", "cross_entropy.noun"} if heads else {"cross_entropy"}
        losses |= {"mfr"} if stage.name == "student" else set()
        assert set(steps[stage.name][0].losses) >= losses
        assert len(steps[stage.name]) == 5 * 2  # 24 clips in batches of 16
        # 0.01 at 64 clips is 0.0025 at 16. A tenth of it from the second epoch on, and again from the fourth.
        rates = [event.lr for event in steps[stage.name]]
        rate, batch_size, *_ = training_of(name) or (0.01, 64)
        first = rate * 16 / batch_size
        assert rates == pytest.approx([first] * 4 + [first / 10] * 4 + [first / 100] * 2)
        assert stage.metrics["rows"] == (8 if ROWS[name][2] == "test" else 16)
