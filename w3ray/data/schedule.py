"""Which samples does item k of a stage's stream hold?

A stage reads ONE stream from its first training step to its last test row. The stream is a sequence of items, an item
is one microbatch, and what an item holds is a pure function of its number: nothing is stored, so any step can be
jumped to in O(1) and every process that asks gets the same answer.

    epoch 0: step 0: slot 0, slot 1, ...   step 1: slot 0, ...   | validation rounds |   epoch 1: ...   | test rounds |

A global batch is cut into microbatches (slots) of `microbatch_size`; consumer i of n takes items i, i+n, i+2n, ...
So empty slots are added up to a multiple of the world size, and the tails of an epoch and of an evaluation are filled
with `PADDING` positions: nothing is dropped and nothing is counted twice. Which samples an optimiser step sees does not
depend on the world size.

`rows_together` neighbouring rows of the training table can stay neighbours in every epoch's order, with the same random
frames and crop. Then a clip and its reversed twin are in one microbatch and differ only in the order of frames. What
they share cancels in the gradient.

With `repeats`, m neighbouring places of an epoch hold the same clip, with the same frames, but other crops and
augmentations (repeated augmentation: Hoffer et al., "Augment Your Batch", CVPR 2020). Its frames are decoded once, as
with PySlowFast's AUG.NUM_SAMPLE. An epoch keeps its length, so it has only every m-th clip, and the clips take turns
through all epochs.

With a `Balance`, an epoch has rare classes more often and frequent ones less often, still as a pure function.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from w3ray.data.balance import Balance

Kind = Literal["train", "val", "test"]

PADDING = -1
"""Position and sample index of a place in a microbatch that holds no sample."""

_ROUNDS = 8
_MASK64 = (1 << 64) - 1


def stable_key(*parts: int | str) -> int:
    """A 64-bit key that depends on `parts` alone: the same in every process, on every machine."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def permute(positions: np.ndarray, size: int, key: int) -> np.ndarray:
    """Maps positions of a shuffled sequence of `size` samples to sample indices, without making the sequence.

    A balanced Feistel network over the smallest power of four that holds `size`, with cycle walking (Black and
    Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002, section 3.2): a bijection on [0, size) for every key.

    Args:
        positions: int64 [N], each in [0, size).
        size: number of samples, at least 1.
        key: 64-bit key; another key is another order.

    Returns:
        int64 [N], each in [0, size).

    Raises:
        ValueError: a position lies outside [0, size).
    """
    if positions.size and (positions.min() < 0 or positions.max() >= size):
        raise ValueError(f"positions must lie in [0, {size}); got {positions.min()} to {positions.max()}")
    half_bits = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    round_keys = [stable_key(key, i) for i in range(_ROUNDS)]
    out = _feistel(positions.astype(np.uint64), half_bits, round_keys)
    outside = out >= size
    while outside.any():  # the domain is at most four times the size, so at most four turns on average
        out[outside] = _feistel(out[outside], half_bits, round_keys)
        outside = out >= size
    return out.astype(np.int64)


def _feistel(values: np.ndarray, half_bits: int, round_keys: list[int]) -> np.ndarray:
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for key in round_keys:
        left, right = right, left ^ (_mix(right, key) & mask)
    return (left << shift) | right


def _mix(values: np.ndarray, key: int) -> np.ndarray:
    """The splitmix64 finaliser (Steele et al., OOPSLA 2014) of `values + key`; arithmetic is modulo 2**64."""
    with np.errstate(over="ignore"):
        z = values + np.uint64(key & _MASK64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


@dataclass(frozen=True, slots=True)
class Item:
    """One microbatch of the stream.

    `step` is the number of the optimiser step a train item belongs to, and the number of steps already done when a
    val or test item is read. `positions` int64 [M] are places in the epoch's (or split's) order, `samples` int64 [M]
    the row numbers in the split's table; both are PADDING where the microbatch holds no sample. `draws` uint64 [M] is
    the seed of the random numbers of each training sample, 0 at padding and in evaluation. `frame_draws` uint64 [M] are
    the seeds of the choice of frames alone, if a clip is there several times; None: it comes from `draws`.
    """

    number: int
    kind: Kind
    epoch: int
    step: int
    slot: int
    positions: np.ndarray
    samples: np.ndarray
    draws: np.ndarray
    frame_draws: np.ndarray | None = None


class Order(Protocol):
    """What a stream reads: numbered items, from 0 on. `Schedule` is the order of a stage."""

    @property
    def world_size(self) -> int:
        """Number of consumers; consumer i of n takes items i, i+n, i+2n, ..."""

    @property
    def total_items(self) -> int:
        """Number of items of all consumers together."""

    def item(self, number: int) -> Item:
        """What the item of this number holds: a pure function, the same in every process."""


def draw_generator(draw: int) -> np.random.Generator:
    """The random numbers of a training sample, from its seed in `Item.draws`."""
    return np.random.Generator(np.random.Philox(key=int(draw)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The order of a stage's stream, for one world size. Sizes are in clips; see the module's drawing.

    Raises:
        ValueError: a field is out of its range; the message names it.
    """

    num_train: int
    num_val: int
    num_test: int
    batch_size: int
    microbatch_size: int
    epochs: int
    validate_every_epochs: int
    seed: int
    world_size: int
    rows_together: int = 1
    repeats: int = 1
    """How many neighbouring places of an epoch hold the same clip."""
    balance: Balance | None = None
    """How often a clip of each class is in an epoch; None: every clip once."""

    def __post_init__(self) -> None:
        for name in (
            "num_train",
            "batch_size",
            "microbatch_size",
            "epochs",
            "validate_every_epochs",
            "world_size",
            "rows_together",
            "repeats",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("num_val", "num_test"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}")
        if self.microbatch_size > self.batch_size:
            raise ValueError(f"microbatch_size {self.microbatch_size} is larger than batch_size {self.batch_size}")
        for name in ("num_train", "batch_size", "microbatch_size"):
            if getattr(self, name) % self.rows_together:
                raise ValueError(
                    f"rows_together {self.rows_together} does not divide {name} {getattr(self, name)}, so rows would "
                    "be separated; set it to 1, or give a number that it divides"
                )

        if self.repeats > 1:
            if self.rows_together > 1 or self.balance is not None:
                raise ValueError("repeats do not work with rows_together or a balance")
            if self.batch_size % self.repeats or self.microbatch_size % self.repeats:
                raise ValueError(
                    f"repeats {self.repeats} must divide batch_size {self.batch_size} and microbatch_size "
                    f"{self.microbatch_size}"
                )
        if self.balance is not None and (self.rows_together > 1 or sum(self.balance.counts) != self.num_train):
            raise ValueError(
                f"a balance of {sum(self.balance.counts)} rows does not fit {self.num_train} rows with rows_together "
                f"{self.rows_together}, which must be 1"
            )

    def for_world_size(self, world_size: int) -> "Schedule":
        return replace(self, world_size=world_size)

    # Sizes. All are counts; a round is one item for each consumer.

    @property
    def steps_per_epoch(self) -> int:
        return _ceil_div(self.num_train, self.batch_size)

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def rounds_per_step(self) -> int:
        return _ceil_div(_ceil_div(self.batch_size, self.microbatch_size), self.world_size)

    def rounds(self, kind: Kind) -> int:
        """Rounds of one training step, or of one whole validation or test."""
        if kind == "train":
            return self.rounds_per_step
        size = self.num_val if kind == "val" else self.num_test
        return _ceil_div(_ceil_div(size, self.microbatch_size), self.world_size)

    @property
    def total_items(self) -> int:
        return self._first_test_item + self.rounds("test") * self.world_size

    def valid_clips(self, step: int) -> int:
        """How many samples optimiser step `step` holds over all consumers: less than a batch at an epoch's end."""
        in_epoch = step % self.steps_per_epoch
        return min(self.batch_size, self.num_train - in_epoch * self.batch_size)

    def validates_after(self, epoch: int) -> bool:
        """Is there a validation after epoch `epoch` (counted from 0)? The last epoch always has one."""
        due = (epoch + 1) % self.validate_every_epochs == 0 or epoch == self.epochs - 1
        return due and self.num_val > 0

    # Numbers.

    def first_item(self, step: int) -> int:
        """The number of the item to read next after `step` optimiser steps and the validations due after them."""
        if not 0 <= step <= self.total_steps:
            raise ValueError(f"step must lie in [0, {self.total_steps}]; got {step}")
        train_items = step * self.rounds_per_step * self.world_size
        validations = self._validations_before(step // self.steps_per_epoch)
        return train_items + validations * self.rounds("val") * self.world_size

    def item(self, number: int) -> Item:
        """The microbatch that item `number` holds. O(microbatch_size), for any number."""
        if not 0 <= number < self.total_items:
            raise IndexError(f"item must lie in [0, {self.total_items}); got {number}")
        if number >= self._first_test_item:
            return self._evaluation_item(number, "test", self.epochs - 1, number - self._first_test_item)
        epoch = self._epoch_of(number)
        within = number - self._first_item_of_epoch(epoch)
        per_step = self.rounds_per_step * self.world_size
        step_in_epoch, slot = divmod(within, per_step)
        if step_in_epoch >= self.steps_per_epoch:
            return self._evaluation_item(number, "val", epoch, within - self.steps_per_epoch * per_step)
        offsets = slot * self.microbatch_size + np.arange(self.microbatch_size)
        positions = step_in_epoch * self.batch_size + offsets
        valid = (offsets < self.batch_size) & (positions < self.num_train)
        samples = np.full(self.microbatch_size, PADDING, dtype=np.int64)
        samples[valid] = self._shuffled(epoch, positions[valid])
        step = epoch * self.steps_per_epoch + step_in_epoch
        draws = np.zeros(self.microbatch_size, dtype=np.uint64)
        draws[valid] = [self.augmentation_key(epoch, int(position)) for position in positions[valid]]
        frame_draws = None
        if self.repeats > 1:
            frame_draws = np.zeros(self.microbatch_size, dtype=np.uint64)
            frame_draws[valid] = [self.frames_key(epoch, int(position)) for position in positions[valid]]
        places = np.where(valid, positions, PADDING)
        return Item(number, "train", epoch, step, slot, places, samples, draws, frame_draws)

    def augmentation_generator(self, epoch: int, position: int) -> np.random.Generator:
        """The random numbers of one training sample: a function of (seed, epoch, position) and of nothing else.

        Rows that stay together draw the same numbers.
        """
        return draw_generator(self.augmentation_key(epoch, position))

    def augmentation_key(self, epoch: int, position: int) -> int:
        """The 64-bit seed of `augmentation_generator`."""
        return stable_key("augmentation", self.seed, epoch, position // self.rows_together)

    def frames_key(self, epoch: int, position: int) -> int:
        """With repeats: the 64-bit seed of the choice of frames, the same for all places of a clip."""
        return stable_key("frames", self.seed, epoch, position // self.repeats)

    def frames_generator(self, epoch: int, position: int) -> np.random.Generator | None:
        """With repeats: the random numbers of the choice of frames. None: `augmentation_generator` has them."""
        return draw_generator(self.frames_key(epoch, position)) if self.repeats > 1 else None

    def _shuffled(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        if self.balance is not None:
            places = permute(positions, self.num_train, stable_key("places", self.seed, epoch))
            return self.balance.samples(places, epoch, self._turn)
        if self.repeats > 1:
            return self._in_turns(epoch, positions // self.repeats)
        groups, within = np.divmod(positions, self.rows_together)
        key = stable_key("order", self.seed, epoch)
        return permute(groups, self.num_train // self.rows_together, key) * self.rows_together + within

    def _in_turns(self, epoch: int, groups: np.ndarray) -> np.ndarray:
        """The clips of an epoch's groups of places: each clip once in a turn, and turns go on through the epochs."""
        turns, places = np.divmod(epoch * _ceil_div(self.num_train, self.repeats) + groups, self.num_train)
        samples = np.empty_like(places)
        for turn in np.unique(turns):
            now = turns == turn
            samples[now] = permute(places[now], self.num_train, stable_key("order", self.seed, int(turn)))
        return samples

    def _turn(self, positions: np.ndarray, size: int, label: int, turn: int) -> np.ndarray:
        """The order of a class's clips in one of its turns."""
        return permute(positions, size, stable_key("turn", self.seed, label, turn))

    def _evaluation_item(self, number: int, kind: Kind, epoch: int, slot: int) -> Item:
        size = self.num_val if kind == "val" else self.num_test
        rows = slot * self.microbatch_size + np.arange(self.microbatch_size)
        rows = np.where(rows < size, rows, PADDING).astype(np.int64)
        draws = np.zeros(self.microbatch_size, dtype=np.uint64)
        return Item(number, kind, epoch, (epoch + 1) * self.steps_per_epoch, slot, rows, rows, draws)

    @property
    def _first_test_item(self) -> int:
        return self._first_item_of_epoch(self.epochs)

    def _validations_before(self, epoch: int) -> int:
        """Validations that belong to epochs 0 to epoch-1."""
        if self.num_val == 0:
            return 0
        regular = epoch // self.validate_every_epochs
        last_is_extra = epoch == self.epochs and self.epochs % self.validate_every_epochs != 0
        return regular + int(last_is_extra)

    def _first_item_of_epoch(self, epoch: int) -> int:
        per_epoch = self.steps_per_epoch * self.rounds_per_step * self.world_size
        return epoch * per_epoch + self._validations_before(epoch) * self.rounds("val") * self.world_size

    def _epoch_of(self, number: int) -> int:
        """The last epoch whose first item is not after `number`; by bisection, so O(log epochs)."""
        low, high = 0, self.epochs - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self._first_item_of_epoch(middle) <= number:
                low = middle
            else:
                high = middle - 1
        return low


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)
