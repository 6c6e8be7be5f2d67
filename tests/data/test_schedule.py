"""The stream's order: each sample once per epoch, the same for any number of workers, any step directly reachable."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from w3ray.data.balance import Balance, _shares
from w3ray.data.schedule import PADDING, Schedule, permute


@st.composite
def schedules_of(draw, least_together: int) -> Schedule:
    together = draw(st.integers(least_together, 3))
    return Schedule(
        num_train=together * draw(st.integers(1, 70 // together)),
        num_val=draw(st.integers(0, 30)),
        num_test=draw(st.integers(0, 30)),
        batch_size=together * draw(st.integers(4, 8)),
        microbatch_size=together * draw(st.integers(1, 4)),
        epochs=draw(st.integers(1, 5)),
        validate_every_epochs=draw(st.integers(1, 3)),
        seed=draw(st.integers(0, 2**31)),
        world_size=draw(st.integers(1, 5)),
        rows_together=together,
    )


schedules = schedules_of(1)


def walk(schedule: Schedule) -> list:
    return [schedule.item(k) for k in range(schedule.total_items)]


def valid(samples: np.ndarray) -> list[int]:
    return [int(s) for s in samples if s != PADDING]


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
@settings(max_examples=60, deadline=None)
def test_permute_is_a_bijection(size, key):
    assert sorted(permute(np.arange(size), size, key).tolist()) == list(range(size))


def test_permute_orders_differ_and_do_not_favour_a_place():
    first = permute(np.arange(1000), 1000, 1)
    assert (first != permute(np.arange(1000), 1000, 2)).mean() > 0.98
    # Mean index over 400 keys at each of 8 positions: 3.5 for a fair order, standard deviation 2.29 / 20 = 0.115.
    places = np.stack([permute(np.arange(8), 8, key) for key in range(400)])
    assert np.abs(places.mean(0) - 3.5).max() < 0.6


def test_permute_reaches_far_positions_of_a_huge_set():
    size = 10_000_000_000
    far = permute(np.array([0, size // 2, size - 1]), size, 7)
    assert len(set(far.tolist())) == 3
    assert far.min() >= 0
    assert far.max() < size


def test_permute_refuses_positions_outside():
    with pytest.raises(ValueError, match=r"\[0, 5\)"):
        permute(np.array([5]), 5, 0)


@given(schedules)
@settings(max_examples=80, deadline=None)
def test_every_sample_once_an_epoch_and_every_row_once_an_evaluation(schedule):
    seen: dict = {}
    for item in walk(schedule):
        seen.setdefault((item.kind, item.epoch), []).extend(valid(item.samples))
    for epoch in range(schedule.epochs):
        assert sorted(seen[("train", epoch)]) == list(range(schedule.num_train))
        if schedule.validates_after(epoch):
            assert seen[("val", epoch)] == list(range(schedule.num_val))
        else:
            assert ("val", epoch) not in seen
    if schedule.num_test:
        assert seen[("test", schedule.epochs - 1)] == list(range(schedule.num_test))


@given(schedules, st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_a_step_holds_the_same_samples_in_the_same_order_for_any_world_size(schedule, other_world_size):
    def steps(s: Schedule) -> dict:
        out: dict = {}
        for item in walk(s):
            if item.kind == "train":
                out.setdefault(item.step, []).extend(zip(item.positions, item.samples, strict=True))
        return {k: [(int(p), int(x)) for p, x in v if x != PADDING] for k, v in out.items()}

    mine = steps(schedule)
    assert mine == steps(schedule.for_world_size(other_world_size))
    assert {k: len(v) for k, v in mine.items()} == {k: schedule.valid_clips(k) for k in range(schedule.total_steps)}


def rows_of(schedule: Schedule, items) -> list[tuple]:
    """(kind, epoch, position, sample, a random number of its augmentation) of every sample in `items`."""
    return [
        (
            item.kind,
            item.epoch,
            int(position),
            int(sample),
            schedule.augmentation_generator(item.epoch, int(position)).random() if item.kind == "train" else None,
        )
        for item in items
        for position, sample in zip(item.positions, item.samples, strict=True)
        if sample != PADDING
    ]


def checkpoints(schedule: Schedule, every_steps: int) -> list[int]:
    """The steps after which a worker saves: at regular intervals, and after the last step before each validation."""
    ends = [
        (epoch + 1) * schedule.steps_per_epoch for epoch in range(schedule.epochs) if schedule.validates_after(epoch)
    ]
    return sorted({*range(0, schedule.total_steps + 1, every_steps), *ends, schedule.total_steps})


@given(
    schedules,
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 4)), max_size=6),
    st.integers(1, 4),
    st.integers(1, 9),
)
@settings(max_examples=120, deadline=None)
def test_what_survives_interruptions_is_the_undisturbed_history(schedule, interruptions, last_world_size, every_steps):
    """Each run of a stage reads from its newest checkpoint to any item, with its own number of workers."""
    survived, done = [], 0
    for share, world_size in [*interruptions, (1.0, last_world_size)]:
        run = schedule.for_world_size(world_size)
        first = run.first_item(done)
        stop = first + round(share * (run.total_items - first))
        whole = stop == run.total_items
        done = max(step for step in checkpoints(run, every_steps) if step >= done and run.first_item(step) <= stop)
        # Consumer i of n reads i, i + n, ... Items after the checkpoint are read again, so they do not count.
        end = stop if whole else run.first_item(done)
        shares = [range(first + rank, end, world_size) for rank in range(world_size)]
        survived += rows_of(run, [run.item(number) for numbers in shares for number in numbers])
        if whole:
            break
    undisturbed = rows_of(schedule, walk(schedule))
    assert sorted(survived, key=lambda row: row[:4]) == sorted(undisturbed, key=lambda row: row[:4])


@given(schedules)
@settings(max_examples=60, deadline=None)
def test_first_item_jumps_to_any_step(schedule):
    items = walk(schedule)
    for item in items:
        if item.kind == "train" and item.slot == 0:
            assert schedule.first_item(item.step) == item.number
    end = schedule.first_item(schedule.total_steps)
    assert [i.kind for i in items[end:]] == ["test"] * (len(items) - end)


@given(schedules)
@settings(max_examples=40, deadline=None)
def test_every_consumer_gets_as_many_items_of_each_part(schedule):
    per_part: dict = {}
    for item in walk(schedule):
        per_part.setdefault((item.kind, item.epoch, item.step), []).append(item.number % schedule.world_size)
    for consumers in per_part.values():
        assert consumers == [i % schedule.world_size for i in range(len(consumers))]
        assert len(consumers) % schedule.world_size == 0


def test_a_far_step_of_a_large_set_costs_no_more_than_a_near_one():
    schedule = Schedule(
        num_train=10_000_000, num_val=50_000, num_test=0, batch_size=64, microbatch_size=8, epochs=50,
        validate_every_epochs=1, seed=3, world_size=4,
    )  # fmt: skip
    number = schedule.first_item(1_000_000)
    item = schedule.item(number)
    assert (item.kind, item.step, item.slot, item.epoch) == ("train", 1_000_000, 0, 6)
    assert item.positions[0] == (1_000_000 % schedule.steps_per_epoch) * 64


def test_augmentation_is_a_function_of_seed_epoch_and_position():
    base = dict(num_train=9, num_val=0, num_test=0, batch_size=4, microbatch_size=2, epochs=2)
    one = Schedule(**base, validate_every_epochs=1, seed=1, world_size=1)
    two = Schedule(**base, validate_every_epochs=1, seed=1, world_size=3)
    other = Schedule(**base, validate_every_epochs=1, seed=2, world_size=1)
    draw = one.augmentation_generator(1, 5).random(4)
    assert np.array_equal(draw, two.augmentation_generator(1, 5).random(4))
    for generator in (
        one.augmentation_generator(0, 5),
        one.augmentation_generator(1, 6),
        other.augmentation_generator(1, 5),
    ):
        assert not np.array_equal(draw, generator.random(4))


@given(schedules_of(2))
@settings(max_examples=60, deadline=None)
def test_rows_that_belong_together_share_a_microbatch_and_their_random_numbers(schedule):
    together, orders = schedule.rows_together, {}
    for item in walk(schedule):
        if item.kind == "train":
            groups = np.array(valid(item.samples)).reshape(-1, together)
            assert (groups == groups[:, :1] // together * together + np.arange(together)).all()
            orders.setdefault(item.epoch, []).extend(groups[:, 0].tolist())
            for places in np.array(valid(item.positions)).reshape(-1, together):
                draws = {schedule.augmentation_generator(item.epoch, place).random() for place in places}
                assert len(draws) == 1
    if schedule.num_train > 10 * together:
        assert orders[0] != sorted(orders[0])


def test_rows_that_can_not_stay_together_are_refused():
    fields = dict(
        num_train=12, num_val=0, num_test=0, batch_size=4, microbatch_size=2, epochs=2, validate_every_epochs=1,
        seed=0, world_size=1, rows_together=2,
    )  # fmt: skip
    for field in ("num_train", "batch_size", "microbatch_size"):
        with pytest.raises(ValueError, match=f"rows_together 2 does not divide {field}"):
            Schedule(**{**fields, field: 3 if field != "batch_size" else 5})


@pytest.mark.parametrize(
    ("field", "value"),
    [("num_train", 0), ("epochs", 0), ("world_size", 0), ("num_val", -1), ("microbatch_size", 9)],
)
def test_errors_name_the_field(field, value):
    fields = dict(
        num_train=9, num_val=0, num_test=0, batch_size=4, microbatch_size=2, epochs=2, validate_every_epochs=1,
        seed=0, world_size=1,
    )  # fmt: skip
    with pytest.raises(ValueError, match=field):
        Schedule(**{**fields, field: value})


def test_items_carry_the_seeds_of_their_training_samples():
    schedule = Schedule(
        num_train=10, num_val=3, num_test=0, batch_size=4, microbatch_size=4, epochs=2, validate_every_epochs=1, seed=3,
        world_size=1, rows_together=2,
    )  # fmt: skip
    for number in range(schedule.total_items):
        item = schedule.item(number)
        wanted = [
            schedule.augmentation_key(item.epoch, position) if item.kind == "train" and position != PADDING else 0
            for position in item.positions.tolist()
        ]
        assert item.draws.dtype == np.uint64
        assert item.draws.tolist() == wanted


class TestBalance:
    LABELS = np.repeat([3, 0, 1], [40, 9, 3])  # class 2 has no clip

    def schedule(self, sampling, **changes):
        sizes = {
            "num_train": 52, "num_val": 4, "num_test": 4, "batch_size": 8, "microbatch_size": 3, "epochs": 12,
            "validate_every_epochs": 5, "seed": 1, "world_size": 1,
        }  # fmt: skip
        return Schedule(**{**sizes, "balance": Balance.of(self.LABELS, sampling), **changes})

    def epochs(self, schedule):
        """The samples of each epoch, in order."""
        found = {}
        for number in range(schedule.total_items):
            item = schedule.item(number)
            if item.kind == "train":
                found.setdefault(item.epoch, []).extend(item.samples[item.samples != PADDING].tolist())
        return [found[epoch] for epoch in range(schedule.epochs)]

    @pytest.mark.parametrize(("sampling", "quotas"), [("balanced", [18, 17, 17]), ("sqrt", [14, 8, 30])])
    def test_each_class_has_its_quota_and_its_clips_take_turns(self, sampling, quotas):
        epochs = self.epochs(self.schedule(sampling))
        for samples in epochs:
            assert len(samples) == 52
            counts = [np.count_nonzero(self.LABELS[samples] == label) for label in (0, 1, 3)]
            assert counts == quotas
        whole = np.bincount(np.concatenate(epochs), minlength=52)
        for label in (0, 1, 3):
            times = whole[label == self.LABELS]
            assert times.max() - times.min() <= 1, "each clip of a class as often as the others"
        assert len({tuple(samples) for samples in epochs}) == 12, "no epoch is like another"

    def test_any_world_size_and_any_step_has_the_same_samples(self):
        schedule = self.schedule("balanced")
        other = schedule.for_world_size(3)
        for one in (schedule, other):
            for step in (0, 7, 40, one.total_steps - 1):
                first = one.first_item(step)
                items = [one.item(first + slot) for slot in range(one.rounds_per_step * one.world_size)]
                samples = np.concatenate([item.samples for item in items])
                assert {item.step for item in items} == {step}
                kept = samples[samples != PADDING].tolist()
                epoch, in_epoch = divmod(step, one.steps_per_epoch)
                assert kept == self.epochs(schedule)[epoch][8 * in_epoch : 8 * in_epoch + 8]

    def test_repeats_of_a_clip_in_an_epoch_are_drawn_differently(self):
        schedule = self.schedule("balanced", batch_size=52, microbatch_size=52)
        item = schedule.item(0)
        rare = item.draws[self.LABELS[item.samples] == 1]
        assert len(rare) == len(set(rare.tolist())) == 17

    def test_a_rare_class_gets_a_place_if_there_is_one(self):
        assert Balance.of(np.repeat([0, 1], [9_999, 1]), "sqrt").quotas == (9901, 99)
        assert _shares(np.array([1e9, 1.0]), 10).tolist() == [9, 1]
        assert _shares(np.array([1.0, 1.0, 1.0]), 2).sum() == 2
        assert Balance.of(np.array([0, 1, 2, 2, 2]), "balanced").quotas == (2, 2, 1)
        assert sum(Balance.of(np.arange(50), "balanced").quotas) == 50

    def test_what_does_not_fit_is_refused(self):
        with pytest.raises(ValueError, match="a balance of 52 rows does not fit 48 rows"):
            self.schedule("balanced", num_train=48)
        with pytest.raises(ValueError, match="rows_together 2, which must be 1"):
            self.schedule("balanced", rows_together=2, microbatch_size=4)

    def test_schedules_are_compared_and_sent(self):
        schedule = self.schedule("sqrt")
        assert pickle.loads(pickle.dumps(schedule)) == schedule
        assert schedule != self.schedule("balanced")
        big = replace(schedule, num_train=170_000, balance=Balance.of(np.arange(170_000) % 174, "balanced"))
        assert len(pickle.dumps(big)) < 800_000


@st.composite
def repeating(draw) -> Schedule:
    repeats = draw(st.integers(2, 4))
    return Schedule(
        num_train=draw(st.integers(1, 50)),
        num_val=0,
        num_test=0,
        batch_size=repeats * draw(st.integers(2, 5)),
        microbatch_size=repeats * draw(st.integers(1, 2)),
        epochs=draw(st.integers(1, 9)),
        validate_every_epochs=1,
        seed=draw(st.integers(0, 2**31)),
        world_size=draw(st.integers(1, 3)),
        repeats=repeats,
    )


class TestRepeats:
    @given(repeating())
    @settings(max_examples=60, deadline=None)
    def test_neighbours_are_one_clip_and_clips_take_turns(self, schedule):
        m, n = schedule.repeats, schedule.num_train
        by_epoch: dict = {}
        for item in walk(schedule):
            by_epoch.setdefault(item.epoch, []).extend(valid(item.samples))
        in_turn = []
        for epoch in range(schedule.epochs):
            samples = by_epoch[epoch]
            assert len(samples) == n
            groups = [samples[start : start + m] for start in range(0, n, m)]
            assert all(len(set(group)) == 1 for group in groups)
            in_turn += [group[0] for group in groups]
        # Every n groups, through all epochs, each clip was there once.
        for start in range(0, len(in_turn) - n + 1, n):
            assert sorted(in_turn[start : start + n]) == list(range(n))

    @given(repeating())
    @settings(max_examples=40, deadline=None)
    def test_copies_share_frames_and_nothing_else(self, schedule):
        for item in walk(schedule):
            places = np.flatnonzero(item.samples != PADDING)
            frames = [int(item.frame_draws[place]) for place in places]
            draws = [int(item.draws[place]) for place in places]
            assert len(set(draws)) == len(draws)
            groups = item.positions[places] // schedule.repeats
            assert len(set(frames)) == len(set(groups.tolist()))
            for place in places:
                epoch, position = item.epoch, int(item.positions[place])
                assert int(item.frame_draws[place]) == schedule.frames_key(epoch, position)

    def test_without_repeats_nothing_is_new(self):
        schedule = Schedule(
            num_train=5, num_val=0, num_test=0, batch_size=4, microbatch_size=2, epochs=1, validate_every_epochs=1,
            seed=0, world_size=1,
        )  # fmt: skip
        assert schedule.item(0).frame_draws is None
        assert schedule.frames_generator(0, 0) is None

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"repeats": 3}, "repeats 3 must divide batch_size 8"),
            ({"repeats": 4}, "must divide batch_size 8 and microbatch_size 2"),
            ({"repeats": 2, "rows_together": 2, "num_train": 8}, "repeats do not work with rows_together"),
            ({"repeats": 0}, "repeats must be at least 1"),
        ],
    )
    def test_errors(self, changed, said):
        plain = Schedule(
            num_train=7, num_val=0, num_test=0, batch_size=8, microbatch_size=2, epochs=1, validate_every_epochs=1,
            seed=0, world_size=1,
        )  # fmt: skip
        with pytest.raises(ValueError, match=said):
            replace(plain, **changed)
