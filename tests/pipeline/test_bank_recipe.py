"""Chains with a bank: what they mean, what is refused, and that chains without one are what they were."""

from typing import Any

import pytest

from w3ray.cli import main
from w3ray.errors import InputError
from w3ray.recipe import Recipe, ResolvedBank, load_recipe

SMALL = {"width": 8, "blocks": [1, 1, 1, 1]}
LFB = {"name": "lfb", "options": {**SMALL, "window": 4, "bank_channels": 256}, "attention": None}
BASE: dict[str, Any] = {
    "name": "x",
    "data": {"synthetic": {"clips": 16}, "size": 32, "num_frames": 4},
    "model": {"name": "i3d_r50", "options": SMALL, "attention": None},
    "stages": [
        {"name": "baseline"},
        {"name": "bank", "kind": "bank", "of": "baseline"},
        {"name": "long", "bank": "bank", "model": LFB},
    ],
}


def chain(*stages: dict[str, Any]) -> Recipe:
    return Recipe.model_validate({**BASE, "stages": list(stages)})


def test_a_chain_with_a_bank():
    recipe = Recipe.model_validate(BASE)
    first, bank, last = recipe.chain()
    assert bank == ResolvedBank(index=1, name="bank", of="baseline", every_s=1.0, span_s=2.0)
    assert [stage.name for stage in recipe.resolved_stages()] == ["baseline", "long"]
    assert (first.seed, last.seed) == (0, 2)
    assert recipe.resolved_stages()[1].bank == "bank"
    assert recipe.resolved_stages()[1].bank_shape() == (4, 256)
    assert recipe.resolved_stages()[0].bank_shape() is None
    again = Recipe.model_validate(recipe.to_dict())
    assert again == recipe


def test_a_chain_without_a_bank_is_written_as_before():
    written = load_recipe("quickstart").to_dict()
    for stage in written["stages"]:
        assert set(stage) == {"name", "teacher", "loss_weights", "train", "model", "seed_offset"}
    with_bank = Recipe.model_validate(BASE).to_dict()["stages"][1]
    assert (with_bank["kind"], with_bank["of"]) == ("bank", "baseline")


def test_what_decides_a_bank_decides_the_recipe():
    found = {Recipe.model_validate(BASE).fingerprint()}
    for change in ({"every_s": 0.5}, {"span_s": 1.0}):
        first, bank, last = BASE["stages"]
        found.add(chain(first, bank | change, last).fingerprint())
    assert len(found) == 3


def test_the_plain_stage_comes_first_and_the_bank_stays():
    recipe = Recipe.model_validate({**BASE, "model": {**BASE["model"], "attention": {"kind": "w3"}}})
    plain = recipe.with_plain()
    assert [stage.name for stage in plain.stages] == ["plain", "baseline", "bank", "long"]
    assert [stage.seed for stage in plain.resolved_stages()] == [0, 0, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: {"of": None}}, "stages.bank.of: is missing; name the earlier training whose network makes the features"),
        ({1: {"of": "base"}}, "stages.bank.of: 'base' is not an earlier training; did you mean 'baseline'?"),
        ({1: {"of": "long"}}, "stages.bank.of: 'long' is not an earlier training"),
        ({1: {"train": {"epochs": 1}}}, "stages.bank.train: a stage of kind bank trains nothing; remove it"),
        ({1: {"teacher": "baseline"}}, "stages.bank.teacher: a stage of kind bank trains nothing; remove it"),
        ({1: {"every_s": 0}}, "stages.bank.every_s: must be greater than 0"),
        ({1: {"kind": "banks"}}, "stages.bank.kind: must be 'train' or 'bank', got 'banks'"),
        ({2: {"bank": None}}, "stages.long.bank: is missing; lfb reads a bank; name an earlier stage of kind bank"),
        ({2: {"bank": "bnak"}}, "stages.long.bank: 'bnak' is not an earlier stage of kind bank; did you mean 'bank'?"),
        ({2: {"bank": "baseline"}}, "stages.long.bank: 'baseline' is not an earlier stage of kind bank"),
        ({2: {"name": "bank"}}, "stages.bank: two stages have this name; rename one"),
        ({2: {"span_s": 1.0}}, "stages.long.span_s: only a stage of kind bank has it"),
        ({2: {"teacher": "bank"}}, "stages.long.teacher: 'bank' is a bank; a teacher is a training"),
        ({2: {"model": {}}}, "stages.long.bank: i3d_r50 reads no bank; remove it"),
        ({2: None}, "stages.bank: no stage follows that could read this bank"),
        (
            {0: {"model": {**LFB, "name": "i3d_gcn", "options": SMALL}}},
            "stages.bank.of: i3d_gcn reads boxes with each clip, and there are none for all moments of a video",
        ),
    ],
)
def test_faults(change, message):
    stages = [{**stage, **(change.get(number) or {})} for number, stage in enumerate(BASE["stages"])]
    stages = [stage for number, stage in enumerate(stages) if change.get(number, {}) is not None]
    with pytest.raises(ValueError, match="stages") as caught:
        chain(*stages)
    assert message in "\n".join(_lines(caught.value, stages))


def _lines(error: Any, stages: list[dict[str, Any]]) -> list[str]:
    from w3ray.recipe.faults import fault_lines

    return fault_lines(error, Recipe, (), stage_names=[stage["name"] for stage in stages])


def test_a_student_reads_the_bank_of_its_teacher():
    first, bank, last = BASE["stages"]
    student = {**last, "name": "student", "teacher": "long", "loss_weights": {"mfr": 1.0}}
    chain(first, bank, last, student)
    with pytest.raises(ValueError, match=r"stages.student.bank: its teacher long reads the bank 'bank'; name the same"):
        chain(first, bank, {**bank, "name": "other"}, last, {**student, "bank": "other"})


def test_a_wrong_chain_ends_with_one_line(tmp_path, capsys):
    path = tmp_path / "r.yaml"
    path.write_text(
        "name: x\ndata: {synthetic: {clips: 16}}\n"
        "stages: [{name: a}, {name: b, kind: bank, of: c}, {name: d}]\n"
    )  # fmt: skip
    assert main(["run", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "r.yaml: stages.b.of: 'c' is not an earlier training" in line
    with pytest.raises(InputError):
        load_recipe(path)
