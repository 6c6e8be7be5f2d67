"""The linter of recipes: for each rule a case where it reports a finding and a case where it does not."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from w3ray.data.manifest import Manifest, build_manifest, write_manifest
from w3ray.lint import (
    ATTENTION_RULES,
    DATA_RULES,
    NO_FIGURE,
    PUBLISHED_RULES,
    REGULARISATION_RULES,
    ROWS,
    Finding,
    lint,
)
from w3ray.lint.sources import sources
from w3ray.recipe import load_recipe
from w3ray.recipe.load import known_recipes

W3 = "ssv1-w3-8f"
ONE_STAGE = "stages=[{name: teacher}]"


class Case(NamedTuple):
    """Overrides of a shipped recipe for which a rule reports a field, and overrides for which it does not."""

    speaks: list[str]
    field: str
    severity: str
    silent: list[str]
    recipe: str = W3


PUBLISHED = {
    "frames": Case(["data.num_frames=4"], "data.num_frames", "warning", ["data.num_frames=16"]),
    "sampling": Case(["data.sampling=dense"], "data.sampling", "warning", ["data.stride_frames=4"]),
    "size": Case(["data.size=112", "data.short_side=128"], "data.size", "warning", ["data.short_side=240"]),
    "short_side": Case(["data.short_side=224"], "data.short_side", "note", ["data.size=112", "data.short_side=128"]),
    "scales": Case(["data.scales=[1.0]"], "data.scales", "note", ["data.scales=[1, 0.875, 0.75, 0.66]"]),
    "flip": Case(["data.flip=true"], "data.flip", "note", []),
    "rows_together": Case(["train.rows_together=2"], "train.rows_together", "note", []),
    "model": Case(["model.name=tsn"], "model.name", "warning", ["model.options.shift_div=4"]),
    "backbone": Case(["model.backbone=resnet101"], "model.backbone", "warning", ["model.weights=resnet50.pth"]),
    "attention": Case(["model.attention={kind: cbam}"], "model.attention.kind", "warning", ["model.attention=null"]),
    "reduction": Case(["model.attention.reduction=8"], "model.attention.reduction", "note", ["model.attention=null"]),
    "channel_kernel": Case(
        ["model.attention.channel_kernel=5"], "model.attention.channel_kernel", "note", ["model.attention={}"]
    ),
    "spatial_kernel": Case(
        ["model.attention.spatial_kernel=5"],
        "model.attention.spatial_kernel",
        "note",
        ["model.attention={kind: cbam, spatial_kernel: 5}"],
    ),
    "temporal_kernel": Case(
        ["model.attention.temporal_kernel=5"], "model.attention.temporal_kernel", "note", ["model.attention={}"]
    ),
    "depthwise": Case(
        ["model.attention.depthwise=false"], "model.attention.depthwise", "note", ["model.attention={kind: w3}"]
    ),
    "hidden": Case(["model.attention.hidden=4"], "model.attention.hidden", "note", ["model.attention={kind: w3}"]),
    "placement": Case(
        ["model.attention.placement=after"], "model.attention.placement", "note", ["model.attention={kind: w3}"]
    ),
    "start": Case(["model.attention.start=plain"], "model.attention.start", "note", ["model.attention={kind: w3}"]),
    "channel_part": Case(
        ["model.attention.channel=false"], "model.attention.channel", "warning", ["model.attention.spatial=false"]
    ),
    "spatial_part": Case(
        ["model.attention.spatial=false"], "model.attention.spatial", "warning", ["model.attention.channel=false"]
    ),
    "temporal_part": Case(
        ["model.attention.temporal=false"], "model.attention.temporal", "warning", ["model.attention.spatial=false"]
    ),
    # Without masks there can be no refinement. This is the finding of the spatial part itself.
    "refinement": Case(
        ["model.refinement=false"],
        "model.refinement",
        "warning",
        ["model.refinement=false", "model.attention.spatial=false"],
    ),
    "dropout": Case(["model.dropout=0.8"], "model.dropout", "note", ["model.dropout=0.5"]),
    "shift_div": Case(["model.options.shift_div=4"], "model.options.shift_div", "note", ["model.options.shift_div=8"]),
    "shift_mode": Case(
        ["model.options.shift_mode=online"], "model.options.shift_mode", "warning", ["model.options.shift_div=4"]
    ),
    "initial_weights": Case(["model.weights=null"], "model.weights", "warning", ["model.weights=resnet50.pth"]),
    "teacher_alike": Case(
        ["stages.student.train.epochs=25"], "stages.student.train.epochs", "note", ["train.epochs=25"]
    ),
    "epochs": Case(["train.epochs=25"], "train.epochs", "warning", ["train.schedule.milestones=[10, 20]"]),
    "optimizer": Case(["train.optimizer=adamw"], "train.optimizer", "warning", ["train.momentum=0.8"]),
    "learning_rate": Case(
        ["train.batch_size=20", "train.lr_batch_size=20"],
        "train.lr_batch_size",
        "warning",
        ["train.batch_size=128", "train.lr=0.02", "train.lr_batch_size=128"],
    ),
    "warm_up": Case(
        ["train.batch_size=512"],
        "train.schedule.warmup_epochs",
        "warning",
        ["train.batch_size=256"],
    ),
    "schedule": Case(["train.schedule.kind=cosine"], "train.schedule.kind", "note", ["train.schedule.gamma=0.5"]),
    "milestones": Case(
        ["train.schedule.milestones=[30, 45]"],
        "train.schedule.milestones",
        "note",
        ["train.epochs=25", "train.schedule.milestones=[10, 20]"],
    ),
    "gamma": Case(["train.schedule.gamma=0.5"], "train.schedule.gamma", "note", ["train.schedule.kind=cosine"]),
    "momentum": Case(["train.momentum=0.8"], "train.momentum", "note", ["train.momentum=0.9"]),
    "weight_decay": Case(["train.weight_decay=0.01"], "train.weight_decay", "note", ["train.weight_decay=1e-4"]),
    "clip_grad_norm": Case(["train.clip_grad_norm=null"], "train.clip_grad_norm", "note", ["train.clip_grad_norm=20"]),
    "precision": Case(["train.precision=bf16"], "train.precision", "note", ["train.precision=fp32"]),
    "tf32": Case(["train.tf32=true"], "train.tf32", "note", ["train.tf32=false"]),
    "label_smoothing": Case(["train.label_smoothing=0.1"], "train.label_smoothing", "note", []),
    "batch_norm": Case(["train.batch_norm=partial"], "train.batch_norm", "warning", ["train.microbatch_size=4"]),
    "batch_norm_clips": Case(
        ["train.microbatch_size=4"],
        "train.microbatch_size",
        "note",
        ["train.microbatch_size=4", "train.batch_norm=sync"],
    ),
    "classifier_weight_rate": Case(
        ["train.classifier_weight_multiplier=1"], "train.classifier_weight_multiplier", "note", []
    ),
    "classifier_bias_rate": Case(
        ["train.classifier_bias_multiplier=1"], "train.classifier_bias_multiplier", "note", ["train.bias_multiplier=1"]
    ),
    "bias_rate": Case(
        ["train.bias_multiplier=1"], "train.bias_multiplier", "note", ["train.classifier_bias_multiplier=1"]
    ),
    "phases": Case(["train.phases=[{from_epoch: 5, lr: 0.001}]"], "train.phases", "note", ["train.phases=[]"]),
    "mature_features": Case([ONE_STAGE], "stages", "warning", [], W3),
    "cross_entropy": Case(
        ["stages.student.loss_weights.cross_entropy=0.5"],
        "stages.student.loss_weights.cross_entropy",
        "note",
        ["stages.student.loss_weights={mfr: 1.0}"],
    ),
}

CLASSES = ("Pushing left to right", "Pushing right to left", "Opening", "Closing", "Something upright", "Rotating")


def manifest(
    path: Path,
    splits: Mapping[str, list[int]],
    *,
    classes: tuple[str, ...] = CLASSES,
    flip_map: dict[int, int] | None = None,
    groups: Mapping[str, list[str]] | None = None,
    head_sizes: tuple[tuple[str, int], ...] = (),
    label_sets: tuple[tuple[int, ...], ...] | None = None,
) -> Manifest:
    """Write a manifest to `path`, with these labels of each split's clips and their groups."""
    rows = [(split, label) for split, labels in splits.items() for label in labels]
    columns: dict[str, list[Any]] = {
        "clip_id": [str(i) for i in range(len(rows))],
        "uri": [f"{i}.mp4" for i in range(len(rows))],
        "label": [label for _, label in rows],
        "split": [split for split, _ in rows],
    }
    if groups is not None:
        columns["group"] = [group for split in splits for group in groups[split]]
    return write_manifest(build_manifest(columns, classes, flip_map, str(path), head_sizes, label_sets), path)


ALL = [0, 1, 2, 3, 4, 5]
SPLITS = {"train": ALL * 20, "val": ALL * 2, "test": ALL * 2}
REPORT_TEST = ["data.test_split=test", "evaluation.split=test"]


class DataCase(NamedTuple):
    """Like `Case`, with the content of the manifest."""

    speaks: list[str]
    speaks_of: dict[str, Any]
    field: str
    severity: str
    silent: list[str]
    silent_of: dict[str, Any]


FLIP = ["data.flip=true"]

DATA = {
    "flip_labels": DataCase(FLIP, {"flip_map": {2: 2}}, "data.flip", "warning", FLIP, {"flip_map": {0: 1, 1: 0}}),
    "turned_directions": DataCase(
        ["data.augmentations=[trivial_augment]"],
        {},
        "data.augmentations",
        "warning",
        ["data.augmentations=[rand_augment]"],
        {},
    ),
    "absent_split": DataCase(["data.val_split=vali"], {}, "data.val_split", "warning", REPORT_TEST, {}),
    "chosen_on_reported": DataCase(
        ["train.best_metric=top1"],
        {},
        "stages.teacher.train.best_metric",
        "warning",
        ["train.best_metric=top1", *REPORT_TEST],
        {},
    ),
    "reported_is_trained": DataCase(["data.val_split=train"], {}, "evaluation.split", "warning", [], {}),
    "shared_groups": DataCase(
        [],
        {"splits": {"train": ALL, "val": ALL}, "groups": {"train": list("aabbcc"), "val": list("ccdddd")}},
        "data.train_split",
        "note",
        [],
        {"splits": {"train": ALL, "val": ALL}, "groups": {"train": list("aabbcc"), "val": list("dddddd")}},
    ),
    "batch_beyond_split": DataCase(
        ["train.batch_size=121"], {}, "stages.teacher.train.batch_size", "warning", ["train.batch_size=120"], {}
    ),
    "one_class": DataCase(
        REPORT_TEST,
        {"splits": {**SPLITS, "test": [0] * 9}},
        "data.test_split",
        "warning",
        ["data.test_split=test"],
        {"splits": {**SPLITS, "test": [0] * 9}},
    ),
    "untrained_classes": DataCase(
        [], {"splits": {"train": [0, 1, 2, 3], "val": ALL}}, "data.train_split", "warning", [], {}
    ),
    "top5_of_few": DataCase(
        ["train.best_metric=top5", *REPORT_TEST],
        {"classes": CLASSES[:5], "splits": {name: [0, 1, 2, 3, 4] for name in SPLITS}},
        "stages.student.train.best_metric",
        "warning",
        ["train.best_metric=top5", *REPORT_TEST],
        {},
    ),
    "one_large_class": DataCase(
        [], {"splits": {**SPLITS, "val": [2, 2, 2, 1]}}, "data.val_split", "note", [], {"splits": SPLITS}
    ),
    "late_milestones": DataCase(
        ["train.epochs=30"],
        {},
        "stages.student.train.schedule.milestones",
        "warning",
        ["train.epochs=30", "train.schedule.kind=cosine"],
        {},
    ),
}


REGULARISATION = {
    "augmentations": Case(
        ["data.augmentations=[{name: rand_augment, magnitude: 20}]"],
        "data.augmentations: rand_augment",
        "note",
        ["data.augmentations=[rand_augment, color_jitter, random_erasing, trivial_augment]"],
    ),
    "mix": Case(
        ["train.mix={mixup_alpha: 5, cutmix_alpha: 0}"],
        "train.mix",
        "note",
        ["train.mix={mixup_alpha: 0.2, cutmix_alpha: 0, cutmix_share: 0.9}"],
    ),
    "stochastic_depth": Case(
        ["stages.student.train.stochastic_depth=0.8"],
        "stages.student.train.stochastic_depth",
        "note",
        ["train.stochastic_depth=0.75"],
    ),
    "repeated_augmentation": Case(
        ["train.repeated_augmentation=4"], "train.repeated_augmentation", "note", ["train.repeated_augmentation=2"]
    ),
}


def findings(recipe: str, overrides: list[str], rule: str) -> list[Finding]:
    return [finding for finding in lint(load_recipe(recipe, overrides)).findings if finding.rule == rule]


def test_every_rule_has_its_cases() -> None:
    assert set(PUBLISHED) == set(PUBLISHED_RULES)
    assert set(DATA) == set(DATA_RULES)
    assert set(REGULARISATION) == set(REGULARISATION_RULES)
    assert not set(PUBLISHED) & set(DATA)
    # The other rule needs finished stages: see tests/pipeline/test_attention_health.py.
    assert set(ATTENTION_RULES) == {"near_open_start", "gates_of_finished_stages"}


@pytest.mark.parametrize("rule", PUBLISHED)
class TestPublished:
    def test_speaks(self, rule: str) -> None:
        case = PUBLISHED[rule]
        (found,) = findings(case.recipe, case.speaks, rule)
        assert (found.field, found.severity) == (case.field, case.severity)
        assert found.source
        assert found.value != found.published
        # A figure has its source, or says that there is none.
        assert (found.cost_source is None) == (found.cost == NO_FIGURE)

    def test_is_silent(self, rule: str) -> None:
        case = PUBLISHED[rule]
        assert findings(case.recipe, case.silent, rule) == []


@pytest.mark.parametrize("rule", REGULARISATION)
class TestRegularisation:
    def test_speaks(self, rule: str) -> None:
        case = REGULARISATION[rule]
        (found,) = findings(case.recipe, case.speaks, rule)
        assert (found.field, found.severity) == (case.field, case.severity)
        assert found.source
        assert found.value != found.published

    def test_is_silent(self, rule: str) -> None:
        case = REGULARISATION[rule]
        assert findings(case.recipe, case.silent, rule) == []


@pytest.mark.parametrize("rule", DATA)
class TestData:
    def test_speaks(self, rule: str, tmp_path: Path) -> None:
        case = DATA[rule]
        path = tmp_path / "my.parquet"
        manifest(path, **{"splits": SPLITS, **case.speaks_of})
        found = {item.field: item for item in findings(W3, [f"data.manifest={path}", *case.speaks], rule)}
        assert found[case.field].severity == case.severity
        assert found[case.field].published is None
        assert found[case.field].source

    def test_is_silent(self, rule: str, tmp_path: Path) -> None:
        case = DATA[rule]
        path = tmp_path / "my.parquet"
        manifest(path, **{"splits": SPLITS, **case.silent_of})
        assert findings(W3, [f"data.manifest={path}", *case.silent], rule) == []


class TestMultiLabel:
    """Rules that count classes see those of sets; rules about the one class of a clip are silent."""

    SETS = ((), (0,), (0, 1), (1, 2), (2, 3))

    def test_a_new_set_of_trained_classes_is_nothing_new(self, tmp_path: Path) -> None:
        path = tmp_path / "my.parquet"
        splits = {"train": [1, 2, 3] * 30, "val": [0] * 9 + [3]}
        manifest(path, splits, label_sets=self.SETS)
        for rule in DATA_RULES:
            if rule != "chosen_on_reported":
                assert findings(W3, [f"data.manifest={path}"], rule) == [], rule

    def test_a_new_class_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "my.parquet"
        manifest(path, {"train": [1, 2, 3] * 20, "val": [1, 4]}, label_sets=self.SETS)
        (found,) = findings(W3, [f"data.manifest={path}"], "untrained_classes")
        assert "1 classes of 'val' have no training clip: Closing" in found.source


class TestPaperRecipes:
    @pytest.mark.parametrize("row", ROWS, ids=[row.recipe for row in ROWS])
    def test_each_is_clean_and_its_own_row(self, row: Any) -> None:
        report = lint(load_recipe(row.recipe))
        assert report.findings == ()
        assert (report.row, report.same_data) == (row, True)
        assert f"top-1 {row.top1}" in known_recipes()[row.recipe].read_text()

    @pytest.mark.parametrize("row", ROWS, ids=[row.recipe for row in ROWS])
    def test_each_is_clean_on_a_manifest_of_its_shape(self, row: Any, tmp_path: Path) -> None:
        num_classes = 83 if "Ego" in row.data else 477 if "EPIC" in row.data else 174
        labels = list(range(num_classes))
        if "EPIC" in row.data:  # each verb and each noun about equally often
            labels = [label % 125 * 352 + label % 352 for label in labels]
        names = tuple(f"class {number}" for number in range(num_classes))
        path = tmp_path / f"{row.recipe}.parquet"
        kitchen: dict[str, Any] = {"flip_map": {0: 0}, "head_sizes": (("verb", 125), ("noun", 352))}
        options = kitchen if "EPIC" in row.data else {}
        manifest(path, {"train": labels * 3, "val": labels, "test": labels}, classes=names, **options)
        report = lint(load_recipe(row.recipe, [f"data.manifest={path}"]))
        assert report.data_unread is None
        assert report.findings == ()

    @pytest.mark.parametrize(
        ("recipe", "change"),
        [
            ("ssv1-eco-8f", "model.options.lite=true"),
            ("ssv1-eco-lite-20f", "model.options.lite=false"),
            ("ssv1-trn-multiscale-bninception-8f", "data.flow_fields=5"),
            ("ssv2-trn-multiscale-bninception-flow-8f", "data.flow_fields=null"),
            ("ssv1-i3d-r50-nl-32f", "model.attention=null"),
        ],
    )
    def test_options_and_input_tell_rows_apart(self, recipe: str, change: str) -> None:
        row = lint(load_recipe(recipe)).row
        assert row.recipe == recipe
        assert lint(load_recipe(recipe, [change])).row != row

    def test_a_rows_title(self) -> None:
        titles = {row.recipe: row.title for row in ROWS}
        assert titles["ssv1-w3-8f"] == "TSM+W3"
        assert titles["ssv1-tsm-8f"] == "TSM"
        assert titles["ssv1-nonlocal-16f"] == "TSM+nonlocal"
        assert titles["ssv1-i3d-r50-nl-32f"] == "i3d_r50 with nonlocal"
        assert titles["ssv1-trn-multiscale-bninception-flow-8f"] == "trn_multiscale bninception for flow"


class TestSources:
    def test_a_comment_stands_behind_its_value_or_above_it(self) -> None:
        found = sources(W3)
        assert found["data.num_frames"] == "W3 Table 1"
        assert found["train.schedule.milestones"] == "TSM command (--lr_steps 20 40)"
        assert found["model.weights"].startswith("W3 4.1: ")
        assert "stages" not in found

    @pytest.mark.parametrize("row", ROWS, ids=[row.recipe for row in ROWS])
    def test_each_row_says_of_each_field_that_is_compared(self, row: Any) -> None:
        attended = {field for field in sources(W3) if field.startswith("model.attention.")}
        shift = {field for field in sources(W3) if field.startswith("model.options.")}
        wanted = set(sources(W3)) - (set() if row.network[2] == "w3" else attended)
        wanted -= set() if row.model == "tsm" else shift
        wanted -= set() if row.backbone else {"model.backbone"}
        assert wanted <= set(sources(row.recipe))

    def test_a_finding_has_the_recipes_own_words(self) -> None:
        (found,) = findings(W3, ["model.dropout=0.8"], "dropout")
        assert found.source == sources(W3)["model.dropout"]


class TestNearOpenStart:
    """It concerns the recipe itself, whatever it is compared with."""

    @pytest.mark.parametrize(("option", "value"), [("identity_start", True), ("start", "near_open")])
    def test_speaks(self, option: str, value: Any) -> None:
        options = {"kind": "w3", option: value}
        (found,) = findings("quickstart", [f"model.attention={json.dumps(options)}"], "near_open_start")
        assert (found.severity, found.field) == ("note", "model.attention.start")
        assert found.cost_source is not None

    def test_a_stage_alone(self) -> None:
        stage = "stages=[{name: teacher}, {name: student, model: {attention: {identity_start: true}}}]"
        (found,) = findings("quickstart", [stage], "near_open_start")
        assert found.field == "stages.student.model.attention.start"

    @pytest.mark.parametrize("attention", ["null", "{kind: cbam}", "{kind: w3}", "{identity_start: false}"])
    def test_is_silent(self, attention: str) -> None:
        assert findings("quickstart", [f"model.attention={attention}"], "near_open_start") == []


class TestRow:
    @pytest.mark.parametrize(
        ("recipe", "overrides", "row", "same_data"),
        [
            (W3, ["data.num_frames=16"], "ssv1-w3-16f", True),
            (W3, ["data.num_frames=10"], "ssv1-w3-8f", True),
            (W3, ["model.attention=null"], "ssv1-tsm-8f", True),
            (W3, ["data.manifest=sets/something-something-v2.parquet"], "ssv2-w3-16f", True),
            (W3, ["data.manifest=EgoGesture/m.parquet", "model.attention=null"], "egogesture-tsm-8f", True),
            (W3, ["data.manifest=epic_kitchens_55/m.parquet"], "epic-w3-8f", True),
            (W3, ["data.manifest=epic-kitchens-100/m.parquet"], "ssv1-w3-8f", True),
            ("quickstart", [], "ssv1-w3-8f", False),
            ("quickstart", ["data.num_frames=32"], "ssv1-w3-16f", False),
            ("reversed-twin", [], "ssv1-tsm-8f", False),
            ("ssv1-tsm-8f", ["model.name=tsn"], "ssv1-tsn-8f", True),
            ("ssv1-tsm-8f", ["model.name=tsn", "data.num_frames=16"], "ssv1-tsm-16f", True),
            ("ssv1-tsn-8f", ["model.backbone=bninception"], "ssv1-tsn-bninception-8f", True),
            ("ssv1-w3-16f", ["model.attention={kind: cbam}", "model.refinement=false"], "ssv1-cbam-mfr-16f", True),
            ("ssv1-cbam-16f", ["data.num_frames=8"], "ssv1-w3-8f", True),
        ],
    )
    def test_closest(self, recipe: str, overrides: list[str], row: str, same_data: bool) -> None:
        report = lint(load_recipe(recipe, overrides))
        assert (report.row.recipe, report.same_data) == (row, same_data)

    @pytest.mark.parametrize(
        ("clips", "classes", "row"),
        [
            (98_000, 174, "ssv1-w3-8f"),
            (190_000, 174, "ssv2-w3-16f"),
            (24_000, 83, "egogesture-w3-8f"),
            (28_000, 477, "epic-w3-8f"),
        ],
    )
    def test_data_is_known_by_its_shape(self, clips: int, classes: int, row: str, tmp_path: Path) -> None:
        path = tmp_path / "set.parquet"
        labels = [i % classes for i in range(clips)]
        manifest(path, {"train": labels}, classes=tuple(f"class {label}" for label in range(classes)))
        overrides = [f"data.manifest={path}", "name=mine"]
        report = lint(load_recipe(W3, overrides))
        assert (report.row.recipe, report.same_data) == (row, True)

    def test_other_data_has_notes_alone_and_other_class_counts_no_row(self, tmp_path: Path) -> None:
        path = tmp_path / "set.parquet"
        manifest(path, SPLITS)
        report = lint(load_recipe(W3, [f"data.manifest={path}", "name=mine", "model.name=tsn", "train.epochs=10"]))
        assert not report.same_data
        compared = [finding for finding in report.findings if finding.rule in PUBLISHED_RULES]
        assert {finding.severity for finding in compared} == {"note"}
        assert {"model", "epochs"} <= {finding.rule for finding in compared}
        assert report.findings[0].severity == "warning", "from the data: late milestones"


class TestDetails:
    def test_a_stage_that_alone_differs_is_named(self) -> None:
        (found,) = findings(W3, ["stages.student.train.momentum=0.5"], "momentum")
        assert found.field == "stages.student.train.momentum"
        (found,) = findings(W3, ["train.momentum=0.5"], "momentum")
        assert found.field == "train.momentum"

    def test_figures_are_those_of_the_value(self) -> None:
        (cbam,) = findings(W3, ["model.attention={kind: cbam}"], "attention")
        (nonlocal_,) = findings(W3, ["model.attention={kind: nonlocal}"], "attention")
        assert (cbam.cost[:4], nonlocal_.cost[:4]) == ("49.1", "49.8")
        (other,) = findings(W3, ["model.backbone=resnet18"], "backbone")
        assert (other.cost, other.cost_source) == (NO_FIGURE, None)
        (cbam,) = findings(W3, ["model.attention={kind: cbam}", ONE_STAGE], "mature_features")
        assert "50.5" in cbam.cost

    def test_learning_rates(self) -> None:
        (unscaled,) = findings(W3, ["train.batch_size=20", "train.lr_batch_size=20"], "learning_rate")
        assert "41.6" in unscaled.cost
        assert "not scaled with the batch size 20" in str(unscaled.value)
        (lower,) = findings(W3, ["train.lr=0.001"], "learning_rate")
        assert (lower.field, "44.8" in lower.cost) == ("train.lr", True)
        (higher,) = findings(W3, ["train.lr=0.1"], "learning_rate")
        assert higher.cost == NO_FIGURE
        assert findings(W3, ["train.lr=0.1", "train.optimizer=adamw"], "learning_rate") == []

    def test_a_warm_up_is_a_note_and_silences_the_warning(self) -> None:
        (found,) = findings(W3, ["train.batch_size=512", "train.schedule.warmup_epochs=5"], "warm_up")
        assert (found.severity, found.value, found.published) == ("note", 5, 0)

    def test_an_mfr_weight_is_compared_and_a_student_of_plain_tsm_is_none_of_the_papers(self) -> None:
        (found,) = findings(W3, ["stages.student.loss_weights.mfr=0.1"], "mature_features")
        assert (found.field, found.value, found.published) == ("stages.student.loss_weights.mfr", 0.1, 1.0)
        (found,) = findings(W3, ["model.attention=null"], "mature_features")
        assert (found.severity, found.published) == ("note", "no student")

    @pytest.mark.parametrize(
        ("name", "mirrored"),
        [
            ("Scroll_hand_towards_right", "Scroll_hand_towards_left"),
            ("Rotate_fists_counterclockwise", "Rotate_fists_clockwise"),
            ("Pulling something from LEFT to right", "Pulling something from right to left"),
        ],
    )
    def test_direction_classes(self, name: str, mirrored: str, tmp_path: Path) -> None:
        path = tmp_path / "set.parquet"
        classes = (name, mirrored, "Putting it upright", "Leftover")
        for flip_map, wrong in (({2: 2}, True), ({0: 1, 1: 0}, False)):
            manifest(path, {"train": [0, 1, 2, 3], "val": [0, 1, 2, 3]}, classes=classes, flip_map=flip_map)
            found = findings(W3, [f"data.manifest={path}", *FLIP], "flip_labels")
            assert bool(found) == wrong
            assert all("upright" not in str(item.value) and "Leftover" not in str(item.value) for item in found)

    def test_a_verb_and_a_noun_of_one_name(self, tmp_path: Path) -> None:
        path = tmp_path / "set.parquet"
        heads = {"classes": ("wrap", "Leave", "cup", "wrap"), "head_sizes": (("verb", 2), ("noun", 2))}
        manifest(path, {"train": [0, 1, 2, 3], "val": [0, 1, 2, 3]}, flip_map={0: 0}, **heads)  # type: ignore[arg-type]
        assert findings(W3, [f"data.manifest={path}", *FLIP], "flip_labels") == []

    def test_no_flip_map_at_all(self, tmp_path: Path) -> None:
        path = tmp_path / "set.parquet"
        manifest(path, SPLITS)
        (found,) = findings(W3, [f"data.manifest={path}", *FLIP], "flip_labels")
        assert "no flip map" in str(found.value)

    @pytest.mark.real_data
    @pytest.mark.parametrize(
        ("file", "recipe", "swaps"),
        [
            ("something-something-v1/label_map.txt", "ssv1-w3-8f", {2: 4, 30: 41, 52: 66}),
            ("something-something-v2/label_map.txt", "ssv2-w3-16f", {86: 87, 93: 94, 166: 167}),
            (
                "egogesture-derived/classIndAll.txt",
                "egogesture-w3-8f",
                {0: 1, 9: 10, 13: 14, 58: 59, 64: 65, 70: 71, 76: 77, 80: 81},
            ),
        ],
    )
    def test_real_class_names(
        self, file: str, recipe: str, swaps: dict[int, int], real_data: Path, tmp_path: Path
    ) -> None:
        lines = (real_data / "annotations" / file).read_text().splitlines()
        classes = tuple(line.lstrip("0123456789 ") for line in lines if line.strip())
        labels = list(range(len(classes)))
        both_ways = {**swaps, **{to: label for label, to in swaps.items()}}
        path = tmp_path / "set.parquet"
        for left_out in (None, *swaps):
            flip_map = {label: to for label, to in both_ways.items() if left_out not in (label, to)}
            manifest(path, {"train": labels, "val": labels}, classes=classes, flip_map=flip_map)
            found = findings(recipe, [f"data.manifest={path}", *FLIP], "flip_labels")
            if left_out is None:
                assert found == []
            else:
                assert [item.value for item in found] == [
                    f"true: {', '.join(sorted((classes[left_out], classes[swaps[left_out]]), key=classes.index))}"
                ]

    def test_folds_are_dealt_before_groups_are_compared(self, tmp_path: Path) -> None:
        path = tmp_path / "set.parquet"
        groups = {"train": list("abcabc"), "val": list("abcabc")}
        manifest(path, {"train": ALL, "val": ALL}, groups=groups)
        shared = [f"data.manifest={path}"]
        assert len(findings(W3, shared, "shared_groups")) == 1
        assert findings(W3, [*shared, "data.fold=0", "data.folds=3"], "shared_groups") == []

    def test_a_manifest_that_is_absent_is_said_and_the_rest_is_compared(self) -> None:
        report = lint(load_recipe(W3, ["data.manifest=nowhere/ssv1.parquet", "train.momentum=0.5"]))
        assert "no such file" in str(report.data_unread)
        assert [finding.rule for finding in report.findings] == ["momentum"]

    @pytest.mark.parametrize("name", sorted(known_recipes()))
    def test_every_shipped_recipe_can_be_linted(self, name: str) -> None:
        document = lint(load_recipe(name)).document()
        assert document["recipe"] == name
        # Our shipped recipes do this on purpose: they choose nothing by the reported split.
        assert not [finding for finding in document["findings"] if finding["rule"] == "chosen_on_reported"]

    def test_rules_see_no_video(self, tmp_path: Path) -> None:
        path = tmp_path / "my.parquet"
        written = manifest(path, SPLITS)
        assert not any(Path(uri).exists() for uri in written.resolved_uris())
        assert lint(load_recipe(W3, [f"data.manifest={path}"])).data_unread is None
