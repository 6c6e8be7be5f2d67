"""Population based training depends only on the results so far. A stage can start from another one's checkpoints."""

import json
import shutil

import pytest

from w3ray.errors import InputError
from w3ray.pipeline.identity import shortest, stage_identity
from w3ray.pipeline.prefix import take_prefix
from w3ray.pipeline.prepare import plan_stages, prepare_data
from w3ray.recipe import load_recipe
from w3ray.sweep.book import NOT_YET, TrialBook, searcher_of, show_value
from w3ray.sweep.records import Report, SweepFolder
from w3ray.sweep.searchers import Known
from w3ray.sweep.space import Space, recipe_at

LR, DECAY = "stages.student.train.lr", "stages.student.train.weight_decay"
PHASES = "stages.student.train.phases"


def a_space(**more):
    values = {
        "name": "x",
        "parameters": {LR: {"loguniform": [0.001, 0.1]}, DECAY: {"choice": [0.0, 0.01, 0.1]}},
        "search": {"trials": 4},
        "scheduling": {"scheduler": "pbt", "interval_epochs": 2},
    }
    return Space.model_validate({**values, **more})


@pytest.fixture(scope="module")
def base():
    return load_recipe("quickstart", ["train.epochs=6"])


def generation(searcher, first, values):
    """The members from point `first` on, with these results."""
    points = [searcher.propose(first + place, []) for place in range(len(values))]
    return known(points, first, values)


def known(points, first, values):
    return [
        Known(point=point, values=None if value is None else (value,), number=first + place)
        for place, (point, value) in enumerate(zip(points, values, strict=True))
    ]


def test_the_last_goes_on_from_the_first_with_other_settings(base):
    searcher = searcher_of(a_space(), base)
    first = generation(searcher, 0, [0.2, 0.9, 0.1, 0.5])
    second = [searcher.propose(number, first) for number in range(4, 8)]
    assert [second[place] for place in (0, 1, 3)] == [first[place].point for place in (0, 1, 3)]
    phases = second[2].pop(PHASES)
    assert second[2] == first[1].point, "the start of the best member"
    (phase,) = phases
    assert phase["from_epoch"] == 2
    assert (phase["lr"], phase["weight_decay"]) != (first[1].point[LR], first[1].point[DECAY])
    assert 0.001 <= phase["lr"] <= 0.1
    assert phase["weight_decay"] in (0.0, 0.01, 0.1)


def test_it_is_a_function_of_what_is_known(base):
    first = generation(searcher_of(a_space(), base), 0, [0.2, 0.9, 0.1, 0.5])
    second = [searcher_of(a_space(), base).propose(6, first) for _ in range(2)]
    assert second[0] == second[1] == searcher_of(a_space(), base).propose(6, first[::-1])
    others = [searcher_of(a_space(search={"trials": 4, "seed": seed}), base).propose(6, first) for seed in range(8)]
    assert any(other != second[0] for other in others)


def test_settings_are_changed_by_a_fifth_from_where_they_are(base):
    space = a_space(
        parameters={LR: {"loguniform": [0.001, 0.1]}},
        scheduling={"scheduler": "pbt", "interval_epochs": 2, "resample": 0.0},
    )
    searcher = searcher_of(space, base)
    before = {LR: 0.02, PHASES: [{"from_epoch": 2, "lr": 0.05}]}
    point = searcher.propose(8, known([{LR: 0.01}, before, {LR: 0.03}, {LR: 0.04}], 4, [0.1, 0.9, 0.3, 0.4]))
    assert point[LR] == 0.02
    assert point[PHASES][0] == {"from_epoch": 2, "lr": 0.05}
    assert point[PHASES][1]["from_epoch"] == 4
    assert point[PHASES][1]["lr"] in (pytest.approx(0.04), pytest.approx(0.06))


def test_one_that_failed_is_replaced_and_never_a_donor(base):
    searcher = searcher_of(a_space(), base)
    first = generation(searcher, 0, [None, float("nan"), 0.1, 0.2])
    assert searcher.propose(5, first)[LR] == first[3].point[LR]
    lost = generation(searcher, 0, [None] * 4)
    assert [searcher.propose(4 + place, lost) for place in range(4)] == [one.point for one in lost]


def test_two_of_one_donor_differ(base):
    space = a_space(
        search={"trials": 8},
        parameters={DECAY: {"choice": [0.0, 0.01, 0.1]}},
        scheduling={"scheduler": "pbt", "interval_epochs": 2, "quantile": 0.25, "resample": 0.5},
    )
    searcher = searcher_of(space, base)
    points = [{DECAY: 0.01, PHASES: [{"from_epoch": 1, "weight_decay": value}]} for value in (0.0, 0.01, 0.1)] * 3
    first = known(points[:8], 0, [0.9, 0.8, 0.5, 0.5, 0.5, 0.5, 0.1, 0.2])
    for seed in range(4):
        searcher = searcher_of(
            space.model_copy(update={"search": space.search.model_copy(update={"seed": seed})}), base
        )
        seventh = searcher.propose(14, first)
        eighth = searcher.propose(15, [*first, Known(point=seventh, values=None, at_work=True, number=14)])
        assert eighth != seventh


def test_lower_is_better_where_the_objective_says_so(base):
    searcher = searcher_of(a_space(objective={"metric": "loss"}), base)
    first = generation(searcher, 0, [0.2, 0.9, 0.1, 0.5])
    assert searcher.propose(5, first)[LR] == first[2].point[LR]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"parameters": {"train.lr": {"choice": [0.1, 0.2]}}}, "parameters.train.lr: pbt changes settings while stage"),
        ({"search": {"trials": 1}}, "population of at least 2"),
        ({"search": {"trials": 4, "repeats": 2}}, "search.repeats"),
        ({"fixed": {"train.validate_every_epochs": 4}}, r"must be a multiple of train\.validate_every_epochs \(4\)"),
    ],
)
def test_what_it_can_not_search_is_refused(base, more, said):
    space = a_space(**more)
    with pytest.raises(InputError, match=said):
        searcher_of(space, base)


def test_a_generation_waits_for_the_one_before(base, tmp_path):
    space = a_space()
    folder = SweepFolder(str(tmp_path), space.name)
    with folder.open(space, base):
        book = TrialBook(space, base, folder)
        assert book.most_trials == 12
        trials = [book.next() for _ in range(4)]
        assert [book.stops_after(trial) for trial in trials] == [2] * 4
        for trial, value in zip(trials[:3], (0.2, 0.9, 0.5), strict=True):
            book.reported(trial.id, Report(epoch=2, metrics={"top1": value}, best=value, time_s=0.0))
            book.left(trial.id)
        assert book.next() is NOT_YET
        book.reported(trials[3].id, Report(epoch=2, metrics={"top1": 0.1}, best=0.1, time_s=0.0))
        book.left(trials[3].id)
        later = [book.next() for _ in range(4)]
        assert [trial.point == before.point for trial, before in zip(later, trials, strict=True)] == [True] * 3 + [
            False
        ]
        assert "its generation ended after 2 epochs" in {trial.reason for trial in book.trials}
        assert book.next() is NOT_YET
    assert book.recipe(later[3]).resolved_stages()[1].train.keep_checkpoints == 7


def test_phases_are_shown_in_words():
    assert show_value([{"from_epoch": 2, "lr": 0.0123}]) == "from epoch 2 lr 0.0123"


# The first checkpoint of a stage with phases.


def planned(base, storage, phases):
    values = base.to_dict() | {"storage": str(storage)}
    values["stages"][1]["train"] = {"phases": phases}
    recipe = type(base).model_validate(values)
    return plan_stages(recipe, prepare_data(recipe))[1]


def checkpoint(item, epoch):
    """Like the checkpoint of a stage. Only the index and the files that it names are read here."""
    import torch

    from w3ray.training.checkpoint import save_checkpoint

    step = epoch * item.schedule.steps_per_epoch
    folder = item.store.directory / "checkpoints" / f"step_{step:08d}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(folder, model=torch.nn.Linear(2, 2), meta={"step": step, "metrics": {}})
    return folder


def test_a_stage_begins_as_the_one_it_is_equal_to_until_then(base, tmp_path):
    plain, phase = planned(base, tmp_path, []), {"from_epoch": 2, "lr": 0.01}
    for epoch in (1, 2, 3):
        checkpoint(plain, epoch)
    item = planned(base, tmp_path, [phase, {"from_epoch": 4, "lr": 0.02}])
    assert take_prefix(item).startswith(plain.store.directory.name)
    steps = sorted(path.name for path in (item.store.directory / "checkpoints").iterdir())
    per_epoch = plain.schedule.steps_per_epoch
    assert steps == [f"step_{per_epoch:08d}", f"step_{2 * per_epoch:08d}"], (
        "not the third, which trained with other settings"
    )
    assert item.store.status(item.determinants).step == 2 * per_epoch

    nearer = planned(base, tmp_path, [phase])
    checkpoint(nearer, 4)
    shutil.rmtree(item.store.directory)
    assert "until epoch 4" in take_prefix(item)


def test_a_damaged_or_missing_beginning_is_none(base, tmp_path):
    plain, item = planned(base, tmp_path, []), planned(base, tmp_path, [{"from_epoch": 2, "lr": 0.01}])
    assert take_prefix(item) is None
    checkpoint(plain, 1)
    assert take_prefix(item) is None, "too early for a start there"
    index = checkpoint(plain, 2) / "checkpoint.json"
    index.write_text(index.read_text()[:-5])
    assert take_prefix(item) is None
    assert not (item.store.directory / "checkpoints").exists()


def test_without_phases_a_stage_is_what_it_was(base, tmp_path):
    item = planned(base, tmp_path, [])
    assert item.determinants["train"]["phases"] == []
    assert "phases" not in shortest(item.determinants)["train"], "the hash is the one from before phases existed"
    assert stage_identity(item.determinants) == item.identity
    assert json.dumps(planned(base, tmp_path, [{"from_epoch": 1, "lr": 0.1}]).determinants["train"]["phases"])


def test_phases_rise_and_end_before_the_stage_does(base):
    for phases in ([{"from_epoch": 6}], [{"from_epoch": 2}, {"from_epoch": 2}], [{"from_epoch": 3}, {"from_epoch": 1}]):
        with pytest.raises(InputError, match="increasing epochs below epochs=6"):
            recipe_at(a_space(), base, {PHASES: phases})


def test_the_settings_of_an_epoch(base):
    recipe = recipe_at(
        a_space(), base, {PHASES: [{"from_epoch": 2, "lr": 0.5}, {"from_epoch": 4, "weight_decay": 0.2}]}
    )
    train = recipe.resolved_stages()[1].train
    settings = [(train.at_epoch(epoch).lr, train.at_epoch(epoch).weight_decay) for epoch in range(6)]
    before = (train.lr, train.weight_decay)
    assert settings == [before] * 2 + [(0.5, before[1])] * 2 + [(0.5, 0.2)] * 2
