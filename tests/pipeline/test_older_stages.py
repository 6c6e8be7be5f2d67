"""One network has one identity, however its recipe is written, and stages of older versions are found.

`older_stages` holds the stage.json files that commit 211b091 wrote for two chains. Their recipes spelled out defaults.
At that time, this changed a stage's identity.
"""

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from w3ray.attention import ATTENTION
from w3ray.models import MODELS
from w3ray.pipeline import stage_store
from w3ray.pipeline.identity import bank_determinants, bank_identity, stage_determinants, stage_identity
from w3ray.pipeline.prepare import data_determinants, synthetic_root
from w3ray.pipeline.stage_store import StageStore
from w3ray.recipe import (
    Data,
    LrSchedule,
    Model,
    Phase,
    Recipe,
    ResolvedBank,
    Synthetic,
    Train,
    as_before,
    fields_that_decide,
    load_recipe,
)
from w3ray.recipe.load import known_recipes

OLDER = Path(__file__).parent / "older_stages"
CHAIN: dict[str, Any] = {
    "name": "x",
    "data": {"synthetic": {"clips": 16}, "size": 32},
    "model": {"backbone": "resnet_small"},
    "train": {"epochs": 2, "batch_size": 8},
    "stages": [{"name": "teacher"}, {"name": "student", "teacher": "teacher", "loss_weights": {"mfr": 0.5}}],
}


def determinants_of(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Stage -> its determinants, on a manifest with the fingerprint "m"."""
    data = data_determinants(recipe.data, manifest="m", splits={"train": "train", "val": "val", "test": "val"})
    found: dict[str, dict[str, Any]] = {}
    for stage in recipe.chain():
        if isinstance(stage, ResolvedBank):
            found[stage.name] = bank_determinants(stage, of=stage_identity(found[stage.of]), data=data)
            continue
        teacher = None if stage.teacher is None else stage_identity(found[stage.teacher])
        found[stage.name] = stage_determinants(
            stage, seed=stage.seed, data=data, weights=stage.model.weights, teacher_identity=teacher,
            bank=None if stage.bank is None else bank_identity(found[stage.bank]),
        )  # fmt: skip
    return found


def with_attention(**options: Any) -> dict[str, dict[str, Any]]:
    return determinants_of(Recipe.model_validate({**CHAIN, "model": {**CHAIN["model"], "attention": options}}))


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A storage with the older stages, for a process that has read none of them."""
    for name, version in (("MODEL_VERSION", 1), ("TRAINING_VERSION", 2), ("STREAM_VERSION", 2)):
        monkeypatch.setattr(f"w3ray.pipeline.identity.{name}", version)
    monkeypatch.setattr(stage_store, "_identities", {})
    shutil.copytree(OLDER, tmp_path / "stages")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "folders"),
    [
        ({"kind": "w3"}, ("teacher-7d182facf6d0", "student-3ef6192c2479")),
        ({"kind": "w3", "start": "near_open"}, ("teacher-66d8e3487aac", "student-ebdb27eb72b1")),
        ({"identity_start": True, "hidden": 1}, ("teacher-66d8e3487aac", "student-ebdb27eb72b1")),
    ],
)
def test_older_stages_are_found_and_so_are_their_students(storage, options, folders):
    found = with_attention(**options)
    for name, folder in zip(("teacher", "student"), folders, strict=True):
        store = StageStore(storage, name, stage_identity(found[name]))
        assert store.directory.name == folder
        store.create(found[name])  # a run rewrites the file; a later process must still find it
    stage_store._identities.clear()
    for name, folder in zip(("teacher", "student"), folders, strict=True):
        assert StageStore(storage, name, stage_identity(found[name])).directory.name == folder


@pytest.mark.usefixtures("storage")
def test_stages_of_the_present_form_keep_their_identities():
    """The hashes of this chain before plugins existed. Neither built-in parts nor later fields change them."""
    found = {name: stage_identity(each)[:16] for name, each in determinants_of(Recipe.model_validate(CHAIN)).items()}
    assert found == {"teacher": "cb2f1e55fd498053", "student": "6298006953957900"}


def test_another_network_is_another_stage(storage):
    (storage / "stages" / "teacher-000000000000").mkdir()
    (storage / "stages" / "teacher-111111111111").mkdir()
    (storage / "stages" / "teacher-111111111111" / "stage.json").write_text("{damaged")
    teacher = with_attention(kind="w3", reduction=8)["teacher"]
    store = StageStore(storage, "teacher", stage_identity(teacher))
    assert store.directory.name == f"teacher-{stage_identity(teacher)[:12]}"


def test_what_differs_from_an_older_stage_is_said_in_full(storage):
    shutil.rmtree(storage / "stages" / "teacher-66d8e3487aac")
    teacher = with_attention(kind="w3", reduction=8)["teacher"]
    store = StageStore(storage, "teacher", stage_identity(teacher))
    said = store.status(teacher).why
    assert said == "differs from teacher-7d182facf6d0: model.attention.reduction: 16 -> 8"


def written_out(recipe: Recipe) -> Recipe:
    """The same recipe with every default, and the meaning of each null, written out."""
    values = recipe.to_dict()
    values["data"]["short_side"] = recipe.data.clip_spec().resolved_short_side
    if recipe.data.synthetic is not None:
        values["data"]["synthetic"] = recipe.data.synthetic.determinants()
    for written, stage in zip(values["stages"], recipe.chain(), strict=True):
        if isinstance(stage, ResolvedBank):
            written |= {"every_s": stage.every_s, "span_s": stage.span_s}
            continue
        written["seed_offset"] = stage.seed - recipe.seed
        written["loss_weights"] = dict(stage.loss_weights)
        written["train"] = stage.train.model_dump(mode="json")
        written["model"] = stage.model.model_dump(mode="json")
    return Recipe.model_validate(json.loads(json.dumps(values)))


@pytest.mark.parametrize("name", known_recipes())
def test_a_recipe_with_all_defaults_written_out_is_the_same_one(name):
    recipe = load_recipe(name)
    ours, theirs = determinants_of(recipe), determinants_of(written_out(recipe))
    identities = [
        {stage: (bank_identity if "of" in found else stage_identity)(found) for stage, found in of_recipe.items()}
        for of_recipe in (ours, theirs)
    ]
    assert identities[0] == identities[1]
    assert ours == theirs


def test_a_student_may_write_out_a_default_of_its_teacher():
    stages = [CHAIN["stages"][0], {**CHAIN["stages"][1], "model": {"attention": {"reduction": 16}}}]
    recipe = Recipe.model_validate({**CHAIN, "stages": stages})
    assert determinants_of(recipe) == determinants_of(Recipe.model_validate(CHAIN))


def test_generated_clips_have_one_folder_however_their_numbers_are_written():
    values = {**CHAIN, "data": {"synthetic": {"clips": 16, "val_clips": 8, "test_clips": 8, "difficulty": "easy"}}}
    assert synthetic_root(Recipe.model_validate(values)) == synthetic_root(Recipe.model_validate(CHAIN))


FIRST_FIELDS = json.loads((OLDER.parent / "first_fields.json").read_text())
"""Section -> the fields that decided a stage's result in commit 211b091."""
SECTIONS: dict[str, Any] = {kind.__name__: kind for kind in (Synthetic, Data, Model, Train, LrSchedule, Phase)}


@pytest.mark.parametrize("name", SECTIONS)
def test_a_later_field_says_what_its_absence_means(name):
    """Or it decides nothing. Otherwise finished stages of older versions are not found, or wrongly found."""
    later = [field for field in fields_that_decide(SECTIONS[name]) if field not in FIRST_FIELDS[name]]
    assert [field for field in later if field not in as_before(SECTIONS[name])] == []
    assert set(FIRST_FIELDS[name]) <= set(SECTIONS[name].model_fields), "a removed field must still be read from stages"


@pytest.mark.parametrize("kind", ATTENTION)
def test_a_later_option_of_an_attention_has_a_value_that_means_as_before(kind):
    """If the field names no other value, `AttentionConfig` uses the default. It must describe the older networks."""
    options = {field.name for field in fields(ATTENTION[kind].config)}
    assert options == set(FIRST_FIELDS[kind]), "add the option to first_fields.json with the test of its old meaning"


@pytest.mark.parametrize("name", MODELS)
def test_a_later_option_of_a_model_has_a_value_that_means_as_before(name):
    options = {field.name for field in fields(MODELS[name].options)}
    assert options == set(FIRST_FIELDS.get(name, ())), "as above"


def identities(overrides: list[str]) -> list[str]:
    recipe = load_recipe("quickstart", overrides)
    return [stage_identity(found) for found in determinants_of(recipe).values()]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (["model.shift_div=4"], ["model.options.shift_div=4"]),
        (["model.options.shift_div=8", "model.options.shift_mode=bidirectional"], []),
        (["model.name=tsn", "model.options={}"], ["model.name=tsn"]),
        (["model.name=r3d_18", "model.backbone=resnet18"], ["model.name=r3d_18"]),
        (["model.attention.every=1", "model.attention.stages=null"], []),
        (["model.attention.causal=false"], []),
        (["data.augmentations=[rand_augment]"], ["data.augmentations=[{name: rand_augment, magnitude: 9}]"]),
    ],
)
def test_two_ways_to_write_a_model_are_one_identity(ours, theirs):
    assert identities(ours) == identities(theirs)


@pytest.mark.parametrize(
    "override",
    [
        "model.options.shift_div=4",
        "model.attention.every=2",
        "model.attention.stages=[2]",
        "model.attention.causal=true",
        "data.augmentations=[trivial_augment]",
        "train.mix={}",
        "train.stochastic_depth=0.1",
        "train.repeated_augmentation=2",
    ],
)
def test_another_option_is_another_identity(override):
    assert not set(identities([override])) & set(identities([]))
