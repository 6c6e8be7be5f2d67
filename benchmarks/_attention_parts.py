"""The plan of `attention_study.py`: the arms, the data sets, the parts in order, and the numbers of its rule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PLAIN: dict[str, Any] = {"model.attention": None}
ARMS: dict[str, dict[str, Any]] = {
    "plain": PLAIN,
    "plain-wide": {**PLAIN, "model.backbone": "resnet_small_wide"},
    "w3-near-open": {"model.attention": {"kind": "w3", "start": "near_open"}},
    "w3-plain-start": {"model.attention": {"kind": "w3", "start": "plain"}},
    "w3-unit": {"model.attention": {"kind": "w3", "start": "unit"}},
    "w3-unit-norm-gain": {"model.attention": {"kind": "w3", "start": "unit", "gain": "norm"}},
    "w3-unit-replicate": {"model.attention": {"kind": "w3", "start": "unit", "borders": "replicate"}},
    "w3-unit-lr3": {
        "model.attention": {"kind": "w3", "start": "unit"},
        "train.attention_lr_multiplier": 3.0,
    },
    "w3-unit-lr10": {
        "model.attention": {"kind": "w3", "start": "unit"},
        "train.attention_lr_multiplier": 10.0,
    },
    "w3-unit-after": {"model.attention": {"kind": "w3", "start": "unit", "placement": "after"}},
    "w3-unit-dense": {"model.attention": {"kind": "w3", "start": "unit", "depthwise": False}},
    "w3-unit-hidden4": {"model.attention": {"kind": "w3", "start": "unit", "hidden": 4}},
    "w3-unit-batch-norm": {"model.attention": {"kind": "w3", "start": "unit", "temporal_norm": "batch"}},
    "w3-unit-no-afr": {"model.attention": {"kind": "w3", "start": "unit"}, "model.refinement": False},
    "cbam-plain-start": {"model.attention": {"kind": "cbam", "start": "plain"}},
    "cbam-unit": {"model.attention": {"kind": "cbam", "start": "unit"}},
    "nonlocal": {"model.attention": {"kind": "nonlocal"}},
    # No teacher, but as many steps as teacher and student together.
    "plain-twice": {**PLAIN, "train.epochs": 80},
    "w3-twice": {"model.attention": {"kind": "w3", "start": "unit"}, "train.epochs": 80},
    # Frame networks without time, and with the weighted sums of TAM (Table 8).
    "tsn": {**PLAIN, "model.name": "tsn"},
    "tam": {**PLAIN, "model.name": "tam"},
    "tam-w3": {"model.name": "tam", "model.attention": {"kind": "w3", "start": "unit"}},
    # Tables 5 and 6 at a small scale, with the start "unit".
    "without-spatial": {"model.attention": {"kind": "w3", "start": "unit", "spatial": False}},
    "without-temporal": {"model.attention": {"kind": "w3", "start": "unit", "temporal": False}},
}
"""Arm -> its differences from the base recipe."""

SGD = {"train.optimizer": "sgd", "train.lr": 0.02, "train.weight_decay": 5e-4}
"""The paper's optimiser, with a rate for batches of 8 and training from scratch."""

TEACHER: list[Mapping[str, Any]] = [{"name": "teacher"}]
STUDENT = {"name": "student", "teacher": "teacher", "loss_weights": {"cross_entropy": 1.0, "mfr": 0.1}}
CHAIN: list[Mapping[str, Any]] = [*TEACHER, STUDENT]
ONCE = {"train.best_metric": "last", "train.validate_every_epochs": 1000, "train.checkpoint_every_epochs": 1000}
"""No held-out clip chooses a checkpoint, so the sets need no further split."""


def generated(
    difficulty: str, clips: int = 160, epochs: int = 12, batch: int = 8, val_clips: int = 32, **train: Any
) -> dict[str, Any]:
    """A generated set. Trial runs of plain TSM (seed 100) chose clips and epochs so that it is wrong on some clips."""
    drawn = {"clips": clips, "val_clips": val_clips, "test_clips": 800, "seed": 0, "size": 56, "difficulty": difficulty}
    batches = dict.fromkeys(("train.batch_size", "train.microbatch_size", "train.lr_batch_size"), batch)
    return {
        "recipe": "quickstart",
        "set": {
            "data.synthetic": drawn,
            "train.epochs": epochs,
            **batches,
            "evaluation.split": "val",
            "data.test_split": None,
            **ONCE,
            **{f"train.{name}": value for name, value in train.items()},
        },
        "split": "test",
    }


SETS: dict[str, dict[str, Any]] = {
    **{difficulty: generated(difficulty) for difficulty in ("easy", "medium", "hard")},
    # Which matters: the number of clips, the number of steps, or the size of a batch?
    "hard-320-b16": generated("hard", clips=320, batch=16),
    "hard-96-long": generated("hard", clips=96, epochs=40),
    **{f"{difficulty}-few": generated(difficulty, clips=96, epochs=40) for difficulty in ("easy", "medium", "hard")},
    # Validated at intervals, to count the steps until an accuracy.
    "hard-few-watched": generated("hard", clips=96, epochs=40, val_clips=160, validate_every_epochs=2),
    "reversed-twins": {
        "recipe": "reversed-twin",
        "import": ["--reversed-twin"],
        "set": {"train.validate_every_epochs": 1000, "train.checkpoint_every_epochs": 1000},
        "split": "val",
        "of": "ut-interaction",
        "short_side": 120,
    },
    "quickstart": {"recipe": "quickstart", "set": {}, "split": "test"},
    "ut-interaction": {
        "recipe": "ut-interaction",
        "import": ["--classes", "hand shaking,hugging,kicking,pointing,punching,pushing", "--flip-map", "identity"],
        "set": {"data.size": 56, "train.epochs": 40, **ONCE},
        "split": "val",
        "folds": 5,
        "short_side": 120,
    },
    "tank-state": {
        "recipe": "tank-state",
        "import": [],
        "set": {"data.size": 56, "train.epochs": 10, **ONCE},
        "split": "val",
    },
    "egogestar": {
        "recipe": "tank-state",
        "import": [],
        "set": {
            "data.size": 80,
            "data.scales": [1.0, 0.875],
            "data.shared_clips_gib": 8,
            "train.epochs": 40,
            **ONCE,
        },
        "split": "val",
        "short_side": 120,
    },
}
"""`of`: whose videos, where the name is another. `short_side`: copies of that height whose frames stand alone, as they
decode far faster."""


def from_weights(name: str) -> dict[str, Any]:
    """A real set for EfficientNet-Lite0 with ImageNet weights, at 80 pixels, with the rate and epochs of `CHOSEN`."""
    about = SETS[name]
    lr, epochs = CHOSEN[name]
    changed = {
        "model.backbone": "efficientnet_lite0",
        "model.weights": "efficientnet_lite0",
        "data.size": 80,
        "data.shared_clips_gib": 8,
        "train.lr": lr,
        "train.epochs": epochs,
    }
    return {**about, "set": {**about["set"], **changed}, "of": name, "short_side": 96}


TRIALS: dict[str, tuple[tuple[float, ...], tuple[int, ...]]] = {
    "egogestar": ((3e-4, 1e-3), (6, 12)),
    # All but the last case of the first trials were at chance, so the others try higher rates.
    "egogestar-more": ((2e-3, 4e-3), (12, 24)),
    "tank-state": ((1e-3, 3e-3), (3, 6)),
    "ut-interaction": ((1e-3, 3e-3), (8, 16)),
}
"""The rates and the numbers of epochs that the trials of a set try."""
CHOSEN = {"egogestar": (2e-3, 24), "tank-state": (1e-3, 6), "ut-interaction": (1e-3, 16)}
"""Rate and epochs by set, from the trials (rule 5)."""

SETS |= {
    **{f"{name}-weights": from_weights(name) for name in CHOSEN},
    # The trials on UT-Interaction use the set's own split, not its five folds.
    "ut-interaction-weights-split": {k: v for k, v in from_weights("ut-interaction").items() if k != "folds"},
    # Table 8's third network has no weights here, so it learns from generated clips.
    "hard-few-3d": {
        **SETS["hard-few"],
        "set": {**SETS["hard-few"]["set"], "model.name": "i3d_r18", "model.options": {"width": 16}},
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One question of the study: arms x seeds on one set."""

    data: str
    arms: tuple[str, ...]
    seeds: range
    stages: Sequence[Mapping[str, Any]] = field(default_factory=lambda: TEACHER)
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Settings of all arms."""
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Further cases: name -> all settings of the case."""
    draws: range | None = None
    """Seeds of the generated clips, instead of training seeds: each arm is run once on each of these sets."""
    beside: tuple[str, ...] = ()
    """Parts of the same set whose rows are also shown."""
    pairs: Sequence[tuple[str, str]] = ()
    """Rows to compare: the first minus the second."""
    seed_by_seed: bool = False
    """A sweep for each seed, so that an interruption of a long part loses one seed at most."""


SCREENED = (
    "plain", "plain-wide", "w3-near-open", "w3-plain-start", "w3-unit", "w3-unit-norm-gain", "w3-unit-replicate",
    "w3-unit-lr3", "w3-unit-lr10", "w3-unit-after", "w3-unit-dense", "w3-unit-hidden4", "w3-unit-batch-norm",
    "w3-unit-no-afr", "cbam-plain-start", "cbam-unit",
)  # fmt: skip
TABLE_ROWS = (
    "plain", "cbam-unit", "nonlocal", "w3-unit", "w3-unit-no-afr", "without-spatial", "without-temporal",
)  # fmt: skip
PAPER = {
    ("w3-unit, student", "w3-unit, teacher"): "5, without MFR: 52.6 - 50.3",
    ("w3-unit, student", "w3-unit-no-afr, student"): "5, without AFR: 52.6 - 50.1",
    ("w3-unit, student", "without-spatial, student"): "5, without spatial: 52.6 - 49.8",
    ("w3-unit, student", "without-temporal, student"): "5, without temporal: 52.6 - 47.2",
    ("cbam-unit, teacher", "plain, teacher"): "6, CBAM for none: 49.1 - 47.2",
    ("nonlocal, teacher", "plain, teacher"): "6, NL for none: 49.8 - 47.2",
    ("w3-unit, student", "cbam-unit, teacher"): "6, W3 for CBAM: 52.6 - 49.1",
    ("w3-unit, student", "nonlocal, teacher"): "6, W3 for NL: 52.6 - 49.8",
    ("w3-unit, teacher", "cbam-unit, teacher"): "7, W3 for CBAM, both without MFR: 50.2 - 49.1",
    ("cbam-unit, student", "cbam-unit, teacher"): "7, CBAM with MFR: 50.5 - 49.1",
    ("w3-unit, student", "cbam-unit, student"): "7, W3 for CBAM, both with MFR: 52.6 - 50.5",
}
"""The comparisons in the paper's tables, with their results (Something-Something V1, 16 frames, top-1 in percent)."""

TWICE = (
    ("plain, student", "plain, teacher"), ("plain-twice, teacher", "plain, teacher"),
    ("plain, student", "plain-twice, teacher"), ("w3-twice, teacher", "w3-unit, teacher"),
    ("w3-unit, student", "w3-twice, teacher"), ("w3-twice, teacher", "plain-twice, teacher"),
)  # fmt: skip
WEIGHTS_ROWS = ("tsn", "plain", "cbam-unit", "w3-unit")
WEIGHTS_PAIRS = (
    ("w3-unit, teacher", "plain, teacher"), ("w3-unit, teacher", "cbam-unit, teacher"),
    ("w3-unit, student", "w3-unit, teacher"), ("w3-unit, student", "cbam-unit, student"),
    ("w3-unit, student", "plain, student"), ("plain, student", "plain, teacher"),
    ("cbam-unit, student", "cbam-unit, teacher"), ("tsn, student", "tsn, teacher"), ("plain, teacher", "tsn, teacher"),
)  # fmt: skip
MFR_WEIGHTS = {"w3-unit": (0.0, 0.03, 0.1, 0.3, 0.8), "plain": (0.0, 0.1)}
"""0.8 is the sum of 0.1 over the eight frames."""
MFR_FORMS = {
    # At a norm of 25, its gradient is as long as that of the norm with weight 0.1.
    "mfr-squared-0.002": {"mfr": 0.0, "mfr_squared": 0.002},
    # The same change at all 25 places has the same effect as on the norm with weight 0.1.
    "mfr-pooled-0.5": {"mfr": 0.0, "mfr_pooled": 0.5},
}


def mfr_cases() -> dict[str, dict[str, Any]]:
    """The cases of MFR: each weight for both networks, each form for W3."""
    cases = {
        f"{arm}-mfr-{weight:g}": {**ARMS[arm], "stages.student.loss_weights.mfr": weight}
        for arm, weights in MFR_WEIGHTS.items()
        for weight in weights
    }
    for name, losses_of_form in MFR_FORMS.items():
        losses = {f"stages.student.loss_weights.{loss}": weight for loss, weight in losses_of_form.items()}
        cases[f"w3-unit-{name}"] = {**ARMS["w3-unit"], **losses}
    return cases


PARTS: dict[str, Part] = {
    "screen": Part(data="hard", arms=SCREENED, seeds=range(3)),
    "explore-batch-16": Part(
        data="hard-320-b16", arms=("plain", "w3-near-open", "w3-unit", "w3-unit-replicate"), seeds=range(3)
    ),
    "explore-few-clips": Part(
        data="hard-96-long", arms=("plain", "w3-near-open", "w3-unit", "w3-unit-replicate"), seeds=range(3)
    ),
    "confirm-hard": Part(data="hard", arms=("plain", "w3-unit"), seeds=range(10, 20)),
    "confirm-medium": Part(data="medium", arms=("plain", "w3-unit"), seeds=range(10, 20)),
    "confirm-hard-few": Part(data="hard-few", arms=("plain", "w3-unit"), seeds=range(20, 30)),
    "confirm-medium-few": Part(data="medium-few", arms=("plain", "w3-unit"), seeds=range(20, 30)),
    "confirm-tank-state": Part(data="tank-state", arms=("plain", "w3-unit"), seeds=range(10, 15)),
    "confirm-ut-interaction": Part(data="ut-interaction", arms=("plain", "w3-unit"), seeds=range(10, 15)),
    "confirm-egogestar": Part(data="egogestar", arms=("plain", "w3-unit"), seeds=range(10, 15)),
    "tables": Part(data="hard-few", arms=TABLE_ROWS, seeds=range(20, 25), stages=CHAIN, pairs=(*PAPER, TWICE[0])),
    "twice": Part(
        data="hard-few", arms=("plain-twice", "w3-twice"), seeds=range(20, 25), beside=("tables",), pairs=TWICE
    ),
    "quickstart": Part(
        data="quickstart",
        arms=("plain", "w3-unit"),
        seeds=range(5),
        stages=CHAIN,
        pairs=(("w3-unit, student", "w3-unit, teacher"), ("plain, student", "plain, teacher")),
    ),
    "wide": Part(
        data="hard-few",
        arms=("plain-wide",),
        seeds=range(20, 30),
        beside=("confirm-hard-few",),
        pairs=(("plain-wide, teacher", "plain, teacher"), ("w3-unit, teacher", "plain-wide, teacher")),
    ),
    "mfr": Part(
        data="hard-few-watched",
        arms=(),
        variants=mfr_cases(),
        seeds=range(20, 23),
        stages=CHAIN,
        pairs=[
            (f"{case}, student", f"{case.partition('-mfr-')[0]}-mfr-0, student")
            for case in mfr_cases()
            if not case.endswith("-mfr-0")
        ],
    ),
    "sgd": Part(data="hard-few", arms=("plain", "w3-near-open", "w3-unit"), seeds=range(20, 23), extra=SGD),
    "confirm-easy-few": Part(data="easy-few", arms=("plain", "w3-unit"), seeds=range(20, 30)),
    "reversed-twins": Part(data="reversed-twins", arms=("plain", "w3-unit"), seeds=range(10, 15)),
    "confirm-easy": Part(data="easy", arms=("plain", "w3-unit"), seeds=range(10, 15)),
    # The one hidden ReLU of Eq. 6 is dead in some gates (`still_gates.py`). Does that matter?
    "still-gates": Part(
        data="hard-few",
        arms=("w3-unit-hidden4", "w3-unit-batch-norm"),
        seeds=range(20, 25),
        beside=("confirm-hard-few",),
        pairs=(
            ("w3-unit-hidden4, teacher", "w3-unit, teacher"),
            ("w3-unit-batch-norm, teacher", "w3-unit, teacher"),
        ),
    ),
    "other-clips": Part(data="hard-few", arms=("plain", "w3-unit"), seeds=range(40, 41), draws=range(1, 11)),
    # From ImageNet weights, as the paper trains (rule 5). The trials choose epochs and rate.
    **{
        f"trial-{name}": Part(
            data="ut-interaction-weights-split"
            if name == "ut-interaction"
            else f"{name.removesuffix('-more')}-weights",
            arms=(),
            variants={
                f"lr-{lr:g}-epochs-{num_epochs}": {**PLAIN, "train.lr": lr, "train.epochs": num_epochs}
                for lr in rates
                for num_epochs in epochs
            },
            seeds=range(100, 101),
        )
        for name, (rates, epochs) in TRIALS.items()
    },
    **{
        f"weights-{data}": Part(
            data=f"{data}-weights",
            arms=WEIGHTS_ROWS,
            seeds=range(50, 55),
            stages=CHAIN,
            pairs=WEIGHTS_PAIRS,
            seed_by_seed=True,
        )
        for data in ("egogestar", "tank-state", "ut-interaction")
    },
    # Table 8 in small: TSM, TAM and a 3D network, each with W3 and without.
    "table-8-egogestar": Part(
        data="egogestar-weights",
        arms=("tam", "tam-w3"),
        seeds=range(50, 55),
        beside=("weights-egogestar",),
        pairs=(("w3-unit, teacher", "plain, teacher"), ("tam-w3, teacher", "tam, teacher")),
        seed_by_seed=True,
    ),
    "table-8-3d": Part(
        data="hard-few-3d",
        arms=("plain", "w3-unit"),
        seeds=range(50, 55),
        pairs=(("w3-unit, teacher", "plain, teacher"),),
    ),
}
"""In the order of the runs."""

FAST, FEW = ("easy", "medium", "hard"), ("easy-few", "medium-few", "hard-few")
REAL = ("ut-interaction", "tank-state", "egogestar")
CONFIRMED = (*FAST, *FEW, *REAL)
LEVELS = (0.5, 0.8, 0.9)
"""Validation accuracies for which the steps are counted."""
STILL = 0.005
"""A gate with a smaller deviation stands still."""
ADOPT_FROM = 0.02
"""Rule 1: the minimum mean difference for a new default."""


def cases_of(part: Part) -> dict[str, tuple[str, int | None, dict[str, Any]]]:
    """Case of the sweep -> arm, seed of its clips if the part draws new ones, settings."""
    arms = {arm: ARMS[arm] for arm in part.arms} | {arm: dict(values) for arm, values in part.variants.items()}
    if part.draws is None:
        return {arm: (arm, None, values) for arm, values in arms.items()}
    return {
        f"{arm}-clips-{draw}": (arm, draw, {**values, "data.synthetic.seed": draw})
        for draw in part.draws
        for arm, values in arms.items()
    }
