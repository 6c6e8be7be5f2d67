"""Search spaces: typed, checked with a recipe before anything starts, and points that become recipes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w3ray.errors import InputError
from w3ray.recipe import load_recipe
from w3ray.sweep.book import TrialBook, searcher_of
from w3ray.sweep.records import SweepFolder
from w3ray.sweep.searchers import SEARCHERS
from w3ray.sweep.space import (
    CASE,
    Parameter,
    Space,
    check_space,
    known_spaces,
    load_space,
    objective_stage,
    point_key,
    recipe_at,
    usual_stage,
)

REDUCTION = "model.attention.reduction"
MFR = "stages.student.loss_weights.mfr"
TEMPORAL, KERNEL = "model.attention.temporal", "model.attention.temporal_kernel"


@pytest.fixture(scope="module")
def base():
    return load_recipe("quickstart")


def space(parameters, **more):
    return Space.model_validate({"name": "x", "parameters": parameters, **more})


def written(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


class TestParameter:
    @pytest.mark.parametrize(
        ("given", "values"),
        [
            ({"choice": [1, "a", None]}, (1, "a", None)),
            ({"grid": [3, 5]}, (3, 5)),
            ({"integer": [2, 5]}, (2, 3, 4, 5)),
            ({"integer": [2, 9], "step": 3}, (2, 5, 8)),
            ({"uniform": [0, 0.5], "step": 0.1}, (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)),
            ({"uniform": [0.0, 1.0]}, None),
            ({"loguniform": [0.001, 1.0]}, None),
        ],
    )
    def test_values(self, given, values):
        assert Parameter.model_validate(given).values == values

    @given(st.floats(0, 1, exclude_max=True), st.sampled_from(["uniform", "loguniform", "integer", "quantised"]))
    def test_a_draw_lies_in_the_range(self, share, kind):
        given = {
            "uniform": {"uniform": [0.5, 2.5]},
            "loguniform": {"loguniform": [0.5, 2.5]},
            "integer": {"integer": [1, 7]},
            "quantised": {"uniform": [0.5, 2.5], "step": 0.25},
        }[kind]
        one = Parameter.model_validate(given)
        least, most = one.bounds
        assert least <= one.at(share) <= most
        assert one.values is None or one.at(share) in one.values

    def test_logarithms_are_even(self):
        one = Parameter.model_validate({"loguniform": [0.01, 1.0]})
        assert one.at(0.5) == pytest.approx(0.1)


class TestPoints:
    def test_a_grid_is_each_combination_once(self, base):
        points = list(space({REDUCTION: {"choice": [4, 8]}, MFR: {"choice": [0.1, 0.3, 1.0]}}).grid_points(base))
        assert [(point[REDUCTION], point[MFR]) for point in points] == [
            (4, 0.1),
            (4, 0.3),
            (4, 1.0),
            (8, 0.1),
            (8, 0.3),
            (8, 1.0),
        ]

    def test_a_condition_removes_what_makes_no_difference(self, base):
        conditional = space({TEMPORAL: {"choice": [True, False]}, KERNEL: {"choice": [3, 5], "when": {TEMPORAL: True}}})
        points = list(conditional.grid_points(base))
        assert points == [{TEMPORAL: True, KERNEL: 3}, {TEMPORAL: True, KERNEL: 5}, {TEMPORAL: False}]

    def test_a_condition_on_the_recipe_and_on_several_values(self, base):
        of_recipe = space(
            {"train.momentum": {"choice": [0.8, 0.9], "when": {"train.optimizer": "sgd"}}, REDUCTION: {"choice": [4]}}
        )
        assert list(of_recipe.grid_points(base)) == [{REDUCTION: 4}], "quickstart trains with adamw"
        several = space({"train.momentum": {"choice": [0.8], "when": {"train.optimizer": ["sgd", "adamw"]}}})
        assert list(several.grid_points(base)) == [{"train.momentum": 0.8}]

    def test_cases_set_several_fields_at_once(self, base):
        cases = Space.model_validate(
            {"name": "x", "cases": {"whole": {}, "plain": {"model.attention": None, MFR: 0}}, "fixed": {"seed": 5}}
        )
        whole, plain = cases.grid_points(base)
        assert recipe_at(cases, base, whole).model.attention is not None
        recipe = recipe_at(cases, base, plain)
        assert (plain, recipe.model.attention, recipe.seed) == ({CASE: "plain"}, None, 5)
        assert recipe.resolved_stages()[1].loss_weights["mfr"] == 0

    def test_repeats_differ_in_the_seed_alone(self, base):
        one = space({MFR: {"choice": [0.3]}})
        first, second = (recipe_at(one, base, {MFR: 0.3}, seed_offset=offset) for offset in (0, 1))
        assert second.seed == first.seed + 1
        assert second.model_copy(update={"seed": first.seed}) == first


class TestFaults:
    @pytest.mark.parametrize(
        ("parameters", "more", "message"),
        [
            ({"model.attention.kernel": {"choice": [3]}}, {}, "attention.kernel: 3: W3: unknown option"),
            ({"train.dropout": {"uniform": [0.1, 0.5]}}, {}, "unknown key; did you mean 'model.dropout'"),
            ({KERNEL: {"choice": [3, 4]}}, {}, "temporal_kernel: 4: W3: temporal_kernel=4: must be odd"),
            ({"train.epochs": {"uniform": [1.0, 5.0]}}, {}, "must be a whole number, got 1.0"),
            ({"stages.pupil.loss_weights.mfr": {"choice": [0.1]}}, {}, "nothing is named 'pupil'"),
            (
                {MFR: {"choice": [0.1]}},
                {"objective": {"metric": "top2"}},
                "no stage reports 'top2'; did you mean 'top5'",
            ),
            ({MFR: {"choice": [0.1]}}, {"objective": {"stage": "pupil"}}, "objective.stage: no stage 'pupil'"),
            ({MFR: {"choice": [0.1]}}, {"objective": {"metric": "gmac"}}, "does not measure learning"),
            ({"storage": {"choice": ["a", "b"]}}, {}, "trials cannot differ in this field"),
            ({MFR: {"choice": [0.1]}}, {"fixed": {MFR: 0.2}}, "is also a parameter"),
            (
                {MFR: {"choice": [0.1]}},
                {"cases": {"a": {"train.epoch": 3}}},
                r"cases\.a\.train\.epoch: unknown key; did you mean",
            ),
        ],
    )
    def test_against_the_recipe(self, base, parameters, more, message):
        with pytest.raises(InputError, match=message):
            check_space(space(parameters, **more), base)

    def test_all_at_once_one_line_each(self, base):
        wrong = space({KERNEL: {"choice": [3, 4, 6]}, "train.epochz": {"integer": [1, 3]}})
        with pytest.raises(InputError) as caught:
            check_space(wrong, base)
        lines = str(caught.value).splitlines()
        assert [line.split(": ")[1] for line in lines] == [
            "parameters.model.attention.temporal_kernel",
            "parameters.model.attention.temporal_kernel",
            "parameters.train.epochz",
        ]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("parameters: {a: {choice: [1], grid: [2]}}", "mine.yaml: parameters.a: give exactly one of"),
            ("parameters: {a: {uniform: [2, 1]}}", "the first number must be less"),
            ("parameters: {a: {loguniform: [0.0, 1]}}", "must be above 0"),
            ("parameters: {a: {choice: [1], when: {b: 1}}, b: {choice: [1]}}", "b must stand before it"),
            ("parameters: {}", "nothing to search"),
            ("parameter: {a: {choice: [1]}}", "mine.yaml: parameter: unknown key"),
            ("parameters: {a: {integer: [1, 5], step: 0.5}}", "must be a whole number"),
            ("parameters: [", "mine.yaml: line 1: not valid YAML"),
        ],
    )
    def test_of_the_file(self, tmp_path, text, message):
        with pytest.raises(InputError, match=message):
            load_space(written(tmp_path, text))

    def test_no_such_space(self, tmp_path):
        with pytest.raises(InputError, match=r"unknown space 'w3_papper'; did you mean 'w3_paper'"):
            load_space("w3_papper")
        with pytest.raises(InputError, match="no such file"):
            load_space(tmp_path / "absent.yaml")

    def test_a_grid_of_a_continuum(self, base):
        with pytest.raises(InputError, match="a grid needs a list of values, but loguniform has none"):
            list(space({MFR: {"loguniform": [0.1, 1.0]}}).grid_points(base))


@pytest.mark.parametrize("name", sorted(known_spaces()))
def test_shipped_spaces_fit_the_quickstart(name, base):
    found = load_space(name)
    assert found.description
    check_space(found, base)
    searcher = SEARCHERS[found.search.searcher](found, base)
    points = [searcher.propose(number, []) for number in range(min(searcher.most or 8, 8))]
    recipes = [recipe_at(found, base, point) for point in points]
    assert len({recipe.fingerprint() for recipe in recipes}) == len({point_key(point) for point in points})


def test_there_are_shipped_spaces():
    assert set(known_spaces()) >= {"w3_paper", "mfr_only", "attention_kind", "optimiser", "ablation", "smoke"}


ALONE = [{"name": "alone", "train": {"epochs": 7}}]


class TestOtherStages:
    """Stages are looked up in the recipe after the fixed values and a case's values were applied."""

    def space(self, **more):
        return Space.model_validate({"name": "x", "parameters": {"train.lr": {"choice": [0.1, 0.2]}}, **more})

    def test_fixed_ones(self, base):
        space = self.space(fixed={"stages": ALONE, "stages.alone.train.lr": 0.3}, objective={"stage": "alone"})
        check_space(space, base)
        assert usual_stage(space, base).train.epochs == 7
        book = TrialBook(space, base, SweepFolder("nowhere", "x"))
        assert book.objective_stage == "alone"
        assert usual_stage(self.space(fixed={"stages": ALONE}), base).name == "alone"

    def test_of_a_population(self, base):
        space = self.space(
            parameters={"stages.alone.train.lr": {"choice": [0.1, 0.2]}},
            fixed={"stages": ALONE},
            scheduling={"scheduler": "pbt"},
        )
        check_space(space, base)
        assert searcher_of(space, base).epochs == 7

    def test_of_a_case(self, base):
        space = self.space(cases={"chain": {}, "one": {"stages": ALONE, "stages.alone.train.lr": 0.3}})
        check_space(space, base)
        recipes = [recipe_at(space, base, {"case": case}) for case in space.cases]
        assert [objective_stage(space, recipe).name for recipe in recipes] == ["student", "alone"]
        named = self.space(cases=space.to_dict()["cases"], objective={"stage": "alone"})
        check_space(named, base)
        assert usual_stage(named, base).name == "alone"
        with pytest.raises(InputError, match=r"objective\.stage: no stage 'alone'; known: teacher, student"):
            objective_stage(named, recipes[0])

    def test_those_that_are_gone(self, base):
        space = self.space(fixed={"stages": ALONE}, objective={"stage": "student"})
        with pytest.raises(InputError, match=r"objective\.stage: no stage 'student'; known: alone"):
            check_space(space, base)


def test_a_space_is_what_its_document_says(base):
    for name in known_spaces():
        found = load_space(name)
        assert Space.model_validate(found.to_dict()) == found
