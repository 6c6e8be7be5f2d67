"""Recipes: what is read, what is refused, and the messages."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from w3ray.attention import NonLocalConfig, W3Config
from w3ray.errors import InputError
from w3ray.models.options import TSMOptions
from w3ray.recipe import Model, Recipe, load_recipe
from w3ray.recipe.load import PIPELINES, known_recipes

GOOD: dict[str, Any] = {
    "name": "good",
    "data": {"synthetic": {"clips": 16}, "num_frames": 4},
    "model": {"backbone": "resnet_small", "attention": {"kind": "w3", "reduction": 8}},
    "train": {"epochs": 2, "batch_size": 8, "schedule": {"kind": "cosine", "warmup_epochs": 1}},
    "stages": [
        {"name": "teacher"},
        {"name": "student", "teacher": "teacher", "loss_weights": {"mfr": 0.5}, "train": {"schedule": {"gamma": 0.5}}},
    ],
}


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    return path


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    return path


def faults(path: Path | str, *overrides: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        load_recipe(path, overrides)
    return str(caught.value).splitlines()


class TestLoad:
    def test_values(self, good: Path) -> None:
        recipe = load_recipe(good)
        assert recipe.name == "good"
        assert recipe.train.epochs == 2
        assert recipe.train.lr == 0.01
        assert recipe.data.clip_spec().num_frames == 4

    def test_path_as_text(self, good: Path) -> None:
        assert load_recipe(str(good)) == load_recipe(good)

    def test_scientific_numbers_are_numbers(self, good: Path) -> None:
        assert load_recipe(good, ["train.weight_decay=1e-4"]).train.weight_decay == 1e-4

    def test_round_trip(self, good: Path) -> None:
        recipe = load_recipe(good)
        assert Recipe.model_validate(recipe.to_dict()) == recipe
        assert pickle.loads(pickle.dumps(recipe)) == recipe

    def test_frozen(self, good: Path) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            load_recipe(good).seed = 3

    def test_fingerprint_holds_what_decides_results(self, good: Path) -> None:
        plain = load_recipe(good).fingerprint()
        assert load_recipe(good, ["storage=elsewhere", "resources.workers=2"]).fingerprint() == plain
        assert load_recipe(good, ["data.cache_gib=5", "data.cache_dir=/tmp/videos"]).fingerprint() == plain
        assert load_recipe(good, ["train.lr=0.02"]).fingerprint() != plain

    def test_stages_are_merged_with_the_recipe(self, good: Path) -> None:
        teacher, student = load_recipe(good).resolved_stages()
        assert (teacher.train.schedule.gamma, student.train.schedule.gamma) == (0.1, 0.5)
        assert student.train.schedule.kind == "cosine"
        assert student.loss_weights == {"cross_entropy": 1.0, "mfr": 0.5}
        assert student.teacher == "teacher"


class TestShipped:
    def test_names(self) -> None:
        assert {"quickstart", "reversed-twin", "tank-state", "ut-interaction"} <= set(known_recipes())

    def test_link_reaches_the_one_place(self) -> None:
        assert PIPELINES.resolve() == Path(__file__).resolve().parent.parent / "pipelines"

    @pytest.mark.parametrize("name", sorted(known_recipes()))
    def test_each_is_valid_with_and_without_attention(self, name: str) -> None:
        assert load_recipe(name).name == name
        # Some shipped recipes have no attention: a proof of order needs only TSM, and so do the paper's baselines.
        with_w3 = ["model.attention={kind: w3}", "model.refinement=true"]
        recipe = load_recipe(name, [] if load_recipe(name).model.refines else with_w3)
        assert all(stage.model.refines for stage in recipe.resolved_stages())
        plain = load_recipe(name, ["model.attention=null"])
        assert not any(stage.model.refines for stage in plain.resolved_stages())
        assert [stage.train for stage in plain.resolved_stages()] == [s.train for s in recipe.resolved_stages()]


class TestWithPlain:
    def test_it_is_the_first_stage_without_attention(self) -> None:
        overrides = ["stages.teacher.train={epochs: 3}", "stages.teacher.model={dropout: 0.1}"]
        recipe = load_recipe("quickstart", overrides)
        plain, *kept = recipe.with_plain().resolved_stages()
        teacher = recipe.resolved_stages()[0]
        assert (plain.name, plain.model.attention) == ("plain", None)
        assert plain.model == teacher.model.model_copy(update={"attention": None})
        assert (plain.train, plain.seed, plain.teacher) == (teacher.train, teacher.seed, None)
        assert [stage.model_copy(update={"index": stage.index - 1}) for stage in kept] == list(recipe.resolved_stages())

    @pytest.mark.parametrize(
        ("override", "text"),
        [
            ("model.attention=null", "stage teacher has no attention"),
            ("stages=[{name: plain}]", "already has a stage 'plain'"),
            ("tracking.explain_clips=[a]", "tracking.explain_clips"),
        ],
    )
    def test_what_can_not_be_compared(self, override: str, text: str) -> None:
        with pytest.raises(InputError, match=text):
            load_recipe("quickstart", [override]).with_plain()

    def test_seeds_are_the_places_unless_said(self) -> None:
        recipe = load_recipe("quickstart", ["seed=5", "stages.student.seed_offset=3"])
        assert [stage.seed for stage in recipe.resolved_stages()] == [5, 8]
        assert [stage.seed for stage in recipe.with_plain().resolved_stages()] == [5, 5, 8]


class TestOverrides:
    def test_values(self, good: Path) -> None:
        recipe = load_recipe(
            good,
            ["train.epochs=3", "stages.student.loss_weights.mfr=0.25", "stages.0.train.lr=0.5", "tracking.uri=a=b"],
        )
        teacher, student = recipe.resolved_stages()
        assert (teacher.train.epochs, teacher.train.lr, student.train.lr) == (3, 0.5, 0.01)
        assert student.loss_weights["mfr"] == 0.25
        assert recipe.tracking.uri == "a=b"

    def test_null_attention_turns_refinement_off(self, good: Path) -> None:
        model = load_recipe(good, ["model.attention=null"]).model
        assert model.attention is None
        assert model.refinement
        assert model.build_arguments()["refinement"] is False

    def test_attention_without_masks_turns_refinement_off(self, good: Path) -> None:
        assert not load_recipe(good, ["model.attention.spatial=false"]).model.refines

    def test_attention_options_are_merged(self, good: Path) -> None:
        attention = load_recipe(good, ["model.attention.hidden=2"]).model.attention
        assert attention == W3Config(reduction=8, hidden=2)

    def test_a_models_options_are_typed_and_written_whole(self, good: Path) -> None:
        model = load_recipe(good, ["model.options.shift_div=4"]).model
        assert model.options == TSMOptions(shift_div=4)
        assert model.model_dump(mode="json")["options"] == {"shift_div": 4, "shift_mode": "bidirectional"}
        assert Model.model_validate(model.model_dump()) == model
        assert load_recipe(good, ["model.shift_div=4"]).model == model  # as in older recipes

    def test_the_options_of_another_model_are_not_inherited(self, good: Path) -> None:
        overrides = ["model.options.shift_div=4", "stages.0.model={name: tsn}", "stages.1.model={shift_mode: online}"]
        first, second = load_recipe(
            good, [*overrides, "stages.1.loss_weights={}", "stages.1.teacher=null"]
        ).resolved_stages()
        assert first.model.options.values() == {}
        assert second.model.options == TSMOptions(shift_div=4, shift_mode="online")
        assert load_recipe(good, ["model.options.shift_div=4", "model.name=tsn"]).model.options.values() == {}

    def test_an_attention_is_a_typed_section_and_is_written_whole(self, good: Path) -> None:
        model = load_recipe(good, ["model.attention={kind: nonlocal}"]).model
        assert model.attention == NonLocalConfig()
        assert model.model_dump(mode="json")["attention"] == {
            "kind": "nonlocal", "reduction": 2, "pool": "input", "scale": False, "weight_start": "torch",
            "stages": [2, 3], "every": 2, "first": 1,
        }  # fmt: skip
        assert Model.model_validate(model.model_dump()) == model

    def test_a_stage_may_say_the_start_by_either_name(self, good: Path) -> None:
        for of_all, of_stage in (("start: unit", "identity_start: true"), ("identity_start: true", "start: unit")):
            stages = f"stages=[{{name: teacher}}, {{name: other, model: {{attention: {{{of_stage}}}}}}}]"
            recipe = load_recipe(good, [f"model.attention={{kind: w3, {of_all}}}", stages])
            of_all, of_stage = (stage.model.attention.start for stage in recipe.resolved_stages())
            assert (of_all, of_stage) in (("unit", "near_open"), ("near_open", "unit"))
        stages = "stages=[{name: teacher, model: {attention: {start: unit, identity_start: true}}}]"
        with pytest.raises(InputError, match="start and identity_start are both given"):
            load_recipe(good, [stages])

    def test_build_arguments_build(self, good: Path) -> None:
        from w3ray.models import build_model

        model = build_model(**load_recipe(good).model.build_arguments(), num_classes=3)
        assert model.classifier.out_features == 3

    @pytest.mark.parametrize(
        ("override", "text"),
        [
            ("train", "--set train: must look like key=value"),
            ("=3", "must look like key=value"),
            ("a..b=3", "must look like key=value"),
            ("train.lr=[", "is not valid YAML"),
            ("name.x=3", "name is 'good' (text), which has no keys"),
            ("stages.studnt.train.lr=1", "nothing is named 'studnt'; did you mean 'student'? known: teacher, student"),
            ("stages.2.train.lr=1", "nothing is named '2'"),
            ("train.epoch=3", "--set: train.epoch: unknown key; did you mean 'train.epochs'?"),
            ("train=null", "--set: train: must be a section of keys, got nothing (null)"),
        ],
    )
    def test_errors(self, good: Path, override: str, text: str) -> None:
        (line,) = faults(good, override)
        assert text in line


class TestFiles:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a: 1\nb: [", "line 2: not valid YAML"),
            ("name: a\nseed: 1\nseed: 2\n", "line 3: key 'seed' appears twice"),
            ("", "must hold the keys of a recipe"),
            ("- a\n", "must hold the keys of a recipe"),
            ("name: !!python/object/apply:os.system [true]\n", "not valid YAML"),
        ],
    )
    def test_errors(self, tmp_path: Path, text: str, message: str) -> None:
        (line,) = faults(write(tmp_path, text))
        assert line.startswith("bad.yaml: ")
        assert message in line

    def test_absent_file(self, tmp_path: Path) -> None:
        assert "no such file" in faults(tmp_path / "none.yaml")[0]
        assert "is a folder" in faults(f"{tmp_path}/")[0]

    def test_not_text(self, tmp_path: Path) -> None:
        path = tmp_path / "binary.yaml"
        path.write_bytes(b"\xff\xfe\x00")
        assert "cannot be read" in faults(path)[0]

    def test_unknown_name(self) -> None:
        (line,) = faults("quickstrat")
        assert "did you mean 'quickstart'?" in line
        assert "tank-state" in line


# Each row: overrides of the good recipe, and the expected text of the error.
WRONG = [
    (["seed=-1"], "seed: must be greater than or equal to 0, got -1"),
    (["name=a b"], "name: must start with a letter or digit"),
    (["data.num_frames=0"], "data.num_frames: must be greater than or equal to 1"),
    (["data.num_frames=eight"], "data.num_frames: must be a whole number, got 'eight' (text)"),
    (["data.num_frames=true"], "data.num_frames: must be a whole number, got true"),
    (["data.num_frames=2.5"], "data.num_frames: must be a whole number, got 2.5"),
    (["data.flip=3"], "data.flip: must be true or false, got 3"),
    (["data.decoder=decor"], "data.decoder: unknown decoder 'decor'; did you mean 'decord'?"),
    (["data.sampling=segments"], "did you mean 'segment'?"),
    (["data.scales=[1, 2]"], "data.scales.1: must be less than or equal to 1"),
    (["data.scales=[]"], "data.scales: list should have at least 1 item"),
    (["data.short_side=20", "data.size=48"], "short_side 20 is smaller than size 48"),
    (["data.manifest=x.parquet"], "give either 'manifest' or 'synthetic'"),
    (["data.synthetic=null"], "give either 'manifest' or 'synthetic'"),
    (["data.fold=1"], "'fold' and 'folds' go together"),
    (["data.fold=5", "data.folds=5"], "fold 5 does not exist: 5 folds are 0 to 4"),
    (["model.name=tsmm"], "model.name: unknown model 'tsmm'; did you mean 'tsm'?"),
    (["model.backbone=resnet_smal"], "did you mean 'resnet_small'?"),
    (["model.attention={kind: [w3]}"], "model.attention: unknown kind ['w3']; known: w3"),
    (["model.attention.kind=w33"], "model.attention: unknown kind 'w33'; did you mean 'w3'? known: w3"),
    (["model.attention.spatial_kernel=4"], "model.attention: W3: spatial_kernel=4: must be odd"),
    (["model.attention.reducton=4"], "model.attention: W3: unknown option reducton"),
    (["model.attention=7"], "model.attention: must be a section of keys, got 7"),
    (["model.shift_mode=onlin"], "did you mean 'online'?"),
    (["model.options.shift_dev=4"], "model.options: TSM: unknown option shift_dev; did you mean 'shift_div'?"),
    (["model.options.shift_div=1"], "model.options: TSM: shift_div=1: must be a whole number >= 2"),
    (["model.options=7"], "model.options: must be a section of keys, got 7"),
    (["model.name=r3d_18", "model.shift_div=4"], "model.options: model: unknown option shift_div; known: none"),
    (["model.shift_div=4", "model.options.shift_div=8"], "model: shift_div is the old name of options.shift_div"),
    (["model.attention.stages=2"], "model.attention: W3: stages=2: must list stages, such as [2, 3], or be null"),
    (["model.attention.stages=[0]"], "model.attention: W3: stages=0: must be a whole number >= 1"),
    (["model.attention.every=0"], "model.attention: W3: every=0: must be a whole number >= 1"),
    (["train.optimizer=sdg"], "train.optimizer: must be 'sgd' or 'adamw', got 'sdg' (text); did you mean 'sgd'?"),
    (["train.lr=.nan"], "train.lr: must be a finite number"),
    (["train.microbatch_size=16"], "microbatch_size 16 is larger than batch_size 8"),
    (["train.compile=true", "train.batch_norm=sync"], "compile does not work with batch_norm=sync"),
    (["train.sampling=balanced", "train.rows_together=2"], "sampling=balanced cannot keep rows together"),
    (["train.sampling=sqrt", "train.class_weights=effective"], "sampling=sqrt balances the classes already"),
    (["train.sampling=sqrt", "train.logit_adjustment=1.0"], "use one of them"),
    (["train.compile=true", "train.triton=true"], "compile and triton both replace the passes of attention"),
    (["train.schedule.milestones=[4, 2]"], "milestones must increase"),
    (["train.schedule.warm_epochs=1"], "did you mean 'train.schedule.warmup_epochs'?"),
    (["epochs=3"], "epochs: unknown key; did you mean 'train.epochs'?"),
    (["zebra=3"], "zebra: unknown key; known: name, seed"),
    (["stages=[]"], "stages: list should have at least 1 item"),
    (["stages.student.name=teacher"], "two stages have this name"),
    (["stages.student.teacher=techer"], "'techer' is not an earlier stage; did you mean 'teacher'?"),
    (["stages.student.teacher=null"], "stages.student.loss_weights.mfr: 0.5 needs a teacher"),
    (["stages.student.loss_weights={}"], "has no effect without stages.student.loss_weights.mfr"),
    (["stages.student.loss_weights.mf=1"], "unknown loss 'mf'; did you mean 'mfr'?"),
    (["stages.student.loss_weights.mfr=-1"], "must be greater than or equal to 0"),
    (["stages.teacher.loss_weights.cross_entropy=0"], "stages.teacher.loss_weights: all weights are 0"),
    (
        ["stages.student.model.attention=null"],
        "stages.student.model: differs from the teacher's model in attention, refinement",
    ),
    (["stages.student.train.epoch=3"], "stages.student.train.epoch: unknown key; did you mean 'stages.student.train."),
    (["stages.student.train.schedule.gama=3"], "did you mean 'stages.student.train.schedule.gamma'?"),
    (["stages.student.train.microbatch_size=99"], "stages.student.train: microbatch_size 99 is larger"),
    (["stages.student.model.dropout=2"], "stages.student.model.dropout: must be less than 1, got 2"),
    (["stages.student.data={}"], "stages.student.data: unknown key"),
    (["evaluation.split=test"], "evaluation.split: 'test' needs data.test_split"),
    (["evaluation.split=tests"], "did you mean 'test'?"),
    (["resources.workers=0"], "resources.workers: must be greater than or equal to 1"),
    (["resources.use_gpu=maybe"], "resources.use_gpu: must be true or false or 'auto', got 'maybe'"),
    (["resources.decoders=many"], "resources.decoders: must be a whole number or 'auto', got 'many'"),
]


class TestFaults:
    @pytest.mark.parametrize(("overrides", "text"), WRONG, ids=[" ".join(row[0]) for row in WRONG])
    def test_one_line_says_where_and_what(self, good: Path, overrides: list[str], text: str) -> None:
        (line,) = faults(good, *overrides)
        assert text in line
        assert line.startswith(("good.yaml: ", "--set: "))

    @pytest.mark.parametrize("key", ["name", "data", "stages"])
    def test_missing(self, tmp_path: Path, key: str) -> None:
        path = write(tmp_path, yaml.safe_dump({name: value for name, value in GOOD.items() if name != key}))
        (line,) = faults(path)
        assert line.startswith(f"bad.yaml: {key}: is missing")

    def test_all_at_once(self, tmp_path: Path) -> None:
        values = {
            **GOOD,
            "sed": 3,
            "data": {**GOOD["data"], "num_frame": 8, "decoder": "x"},
            "train": {"epoch": 3, "lr": "fast"},
            "stages": [{"name": "a b"}, {**GOOD["stages"][1], "train": {"epoch": 3}, "model": {"dropout": 2}}],
        }
        lines = faults(write(tmp_path, yaml.safe_dump(values)))
        places = {line.split(": ")[1] for line in lines}
        assert places == {
            "sed",
            "data.num_frame",
            "data.decoder",
            "train.epoch",
            "train.lr",
            "stages.a b.name",
            "stages.student.train.epoch",
            "stages.student.model.dropout",
        }
        assert len(lines) == len(places)

    def test_from_python(self) -> None:
        with pytest.raises(ValidationError, match="needs a teacher"):
            Recipe.model_validate({**GOOD, "stages": [{"name": "a", "loss_weights": {"mfr": 1.0}}]})
