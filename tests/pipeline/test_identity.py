"""The same work has the same identity, and differences are named."""

import pytest

from w3ray.pipeline.identity import difference, stage_determinants, stage_identity
from w3ray.recipe import Recipe

BASE = {
    "name": "x",
    "data": {"synthetic": {"clips": 16}},
    "model": {"backbone": "resnet_small"},
    "train": {"epochs": 2, "batch_size": 8},
    "stages": [{"name": "teacher"}, {"name": "student", "teacher": "teacher", "loss_weights": {"mfr": 0.5}}],
}


def identities(**changes):
    recipe = Recipe.model_validate({**BASE, **changes})
    teacher = None
    out = []
    for stage in recipe.resolved_stages():
        teacher = stage_identity(
            stage_determinants(stage, seed=recipe.seed, data={"m": 1}, weights=None, teacher_identity=teacher)
        )
        out.append(teacher)
    return out


def test_the_same_recipe_has_the_same_identities():
    assert identities() == identities()


@pytest.mark.parametrize(
    "change",
    [
        {"storage": "elsewhere"},
        {"name": "y"},
        {"resources": {"workers": 2, "decoders": 3}},
        {"tracking": {"enabled": False}},
        {"train": {**BASE["train"], "log_every_steps": 1, "keep_checkpoints": 5, "checkpoint_every_steps": 3}},
    ],
)
def test_where_and_how_it_runs_does_not_matter(change):
    assert identities(**change) == identities()


@pytest.mark.parametrize(
    "change",
    [
        {"train": {**BASE["train"], "epochs": 3}},
        {"train": {**BASE["train"], "microbatch_size": 4}},
        {"train": {**BASE["train"], "precision": "bf16"}},
        {"train": {**BASE["train"], "tf32": True}},
        {"train": {**BASE["train"], "compile": True}},
        {"train": {**BASE["train"], "channels_last": True}},
        {"train": {**BASE["train"], "triton": True}},
        {"train": {**BASE["train"], "freeze": ["stem"]}},
        {"train": {**BASE["train"], "layer_decay": 0.9}},
        {"train": {**BASE["train"], "ema_decay": 0.9}},
        {"train": {**BASE["train"], "early_stopping": {"patience": 3}}},
        {"train": {**BASE["train"], "class_weights": "balanced"}},
        {"train": {**BASE["train"], "focal_gamma": 1.0}},
        {"train": {**BASE["train"], "sampling": "balanced"}},
        {"train": {**BASE["train"], "logit_adjustment": 1.0}},
        {"model": {"backbone": "resnet_small", "attention": None}},
        {"seed": 1},
    ],
)
def test_what_decides_the_result_changes_both_stages(change):
    for old, new in zip(identities(), identities(**change), strict=True):
        assert old != new


@pytest.mark.parametrize(
    ("attention", "start_of_hash"),
    [
        (None, "3285a7f82da92ed0"),
        ({"kind": "w3", "start": "near_open"}, "94451944445340d2"),
        ({"kind": "w3", "start": "near_open", "reduction": 8, "borders": "zeros"}, "82d1b0320e0c9a40"),
        # That commit gave this network a second hash under its other name, 691a372d1cba92dd: see test_older_stages.py.
        ({"kind": "w3", "identity_start": True}, "94451944445340d2"),
        ({"kind": "w3", "identity_start": True, "reduction": 16, "hidden": 1}, "94451944445340d2"),
        ({"kind": "w3", "identity_start": False}, "f9c8e2afa689b0a6"),
        ({"kind": "w3", "start": "plain"}, "f9c8e2afa689b0a6"),
        ({"kind": "cbam", "start": "plain"}, "991035a0bd8bd1c6"),
        ({"kind": "nonlocal"}, "f0a533ba164f0f9e"),
        ({"kind": "nonlocal", "pool": "input", "scale": False, "weight_start": "torch"}, "f0a533ba164f0f9e"),
        ({"kind": "nonlocal", "subsample": True}, "f0a533ba164f0f9e"),
        ({"kind": "nonlocal", "subsample": False}, "01cc12281e731c52"),
        ({"kind": "nonlocal", "pool": "none"}, "01cc12281e731c52"),
    ],
)
def test_stages_of_before_the_start_was_an_option_are_found(monkeypatch, attention, start_of_hash):
    """Hashes by commit 11c6159 for the same networks. It had no `start` where `start` has its default now."""
    for name, version in (("MODEL_VERSION", 1), ("TRAINING_VERSION", 2), ("STREAM_VERSION", 2)):
        monkeypatch.setattr(f"w3ray.pipeline.identity.{name}", version)
    recipe = Recipe.model_validate({**BASE, "model": {"backbone": "resnet_small", "attention": attention}})
    found = stage_determinants(recipe.resolved_stages()[0], seed=0, data={"m": 1}, weights=None, teacher_identity=None)
    assert stage_identity(found)[:16] == start_of_hash


@pytest.mark.parametrize(
    "change",
    [
        {"start": "unit"},
        {"start": "unit", "gain": "norm"},
        {"start": "near_open", "borders": "replicate"},
        {"start": "plain"},
    ],
)
def test_each_start_is_another_stage(change):
    of = {"model": {"backbone": "resnet_small", "attention": {"kind": "w3", "start": "near_open"}}}
    other = {"model": {"backbone": "resnet_small", "attention": {"kind": "w3", **change}}}
    assert identities(**of)[0] != identities(**other)[0]
    faster = {"train": {**BASE["train"], "attention_lr_multiplier": 3.0}}
    assert identities(**faster)[0] != identities()[0]


def test_a_change_of_the_student_keeps_its_teacher():
    stages = [BASE["stages"][0], {**BASE["stages"][1], "loss_weights": {"mfr": 0.7}}]
    old, new = identities(), identities(stages=stages)
    assert old[0] == new[0]
    assert old[1] != new[1]


def test_difference_names_what_changed():
    old = {"train": {"epochs": 10, "lr": 0.1}, "seed": 0}
    new = {"train": {"epochs": 3, "lr": 0.1}, "seed": 0, "teacher": "t"}
    assert difference(old, new) == ["teacher: absent -> t", "train.epochs: 10 -> 3"]
