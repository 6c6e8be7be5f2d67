"""A user's own parts in files and modules: how recipes find them, what is refused, and the source of a stage."""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from plugin_parts import ATTENTION, LOSS, RECIPE

from w3ray import plugins
from w3ray._registry import PluginError
from w3ray.attention import ATTENTION as ATTENTIONS
from w3ray.data.clip_sampling import SAMPLERS
from w3ray.errors import InputError
from w3ray.models import build_model
from w3ray.models.bundle import ModelDescription, load_model, write_model
from w3ray.pipeline.identity import stage_determinants, stage_identity
from w3ray.pipeline.prepare import data_determinants
from w3ray.plugins import loading
from w3ray.recipe import Recipe, load_recipe, stored_recipe
from w3ray.training.losses import LOSSES, LossKind, build_losses

FOCUS = [{"name": "one", "loss_weights": {"spread": 0.5}}]


def write(folder: Path, recipe: dict[str, Any], **files: str) -> Path:
    """Write a recipe's file, with files next to it."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, **recipe}))
    return folder / "recipe.yaml"


def sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def refused(path: Path, *overrides: str) -> str:
    """The single line of the error for a recipe."""
    with pytest.raises(InputError) as caught:
        load_recipe(path, overrides)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def identities(recipe: Recipe) -> dict[str, str]:
    data = data_determinants(recipe.data, manifest="m", splits={"train": "train", "val": "val", "test": "val"})
    return {
        stage.name: stage_identity(stage_determinants(stage, seed=0, data=data, weights=None, teacher_identity=None))
        for stage in recipe.resolved_stages()
    }


class TestFiles:
    def test_paths_count_from_the_recipes_folder(self, tmp_path, monkeypatch):
        path = write(tmp_path / "recipes", {"plugins": ["./my_loss.py"], "stages": FOCUS}, my_loss=LOSS)
        monkeypatch.chdir(tmp_path)
        recipe = load_recipe("recipes/recipe.yaml")
        assert recipe.plugins == (str(path.parent / "my_loss.py"),)
        assert list(build_losses(recipe.resolved_stages()[0].loss_weights)) == ["cross_entropy", "spread"]
        monkeypatch.chdir(path.parent)
        assert load_recipe("recipe.yaml") == recipe

    def test_in_python_and_in_overrides_they_count_from_the_current_folder(self, tmp_path, monkeypatch):
        path = write(tmp_path / "recipes", {"stages": FOCUS})
        (tmp_path / "here.py").write_text(LOSS)
        monkeypatch.chdir(tmp_path)
        recipe = load_recipe(path, ["plugins=[./here.py]"])
        assert recipe.plugins == (str(tmp_path / "here.py"),)
        assert Recipe.model_validate({**RECIPE, "plugins": ["here.py"], "stages": FOCUS}).plugins == recipe.plugins

    def test_a_recipe_survives_travels(self, tmp_path):
        recipe = load_recipe(write(tmp_path, {"plugins": ["./a.py"], "stages": FOCUS}, a=LOSS))
        assert Recipe.model_validate(recipe.to_dict()) == recipe
        assert pickle.loads(pickle.dumps(recipe)) == recipe
        assert stored_recipe(json.loads(json.dumps(recipe.deciding()))).fingerprint() == recipe.fingerprint()

    def test_the_module_has_its_file_and_its_lines(self, tmp_path):
        text = LOSS + "\nimport traceback, sys\nHERE = __file__\ndef fail():\n    raise ValueError('here it is')\n"
        load_recipe(write(tmp_path, {"plugins": ["./a.py"]}, a=text))
        module = __import__(LOSSES.origin("spread").module)
        assert str(tmp_path / "a.py") == module.HERE
        (tmp_path / "a.py").unlink()  # as on a node without this file
        with pytest.raises(ValueError, match="here it is") as caught:
            module.fail()
        assert "raise ValueError('here it is')" in "".join(map(str, caught.traceback))

    def test_a_changed_file_is_loaded_anew_and_the_old_parts_are_gone(self, tmp_path):
        path = write(tmp_path, {"plugins": ["./a.py"], "stages": FOCUS}, a=LOSS)
        first = load_recipe(path)
        one = LOSSES["spread"]
        assert load_recipe(path) == first
        assert LOSSES["spread"] is one  # unchanged, so not loaded again
        (tmp_path / "a.py").write_text(LOSS.replace('"spread"', '"width"'))
        assert Recipe.model_validate(first.to_dict()) == first  # a run keeps the plugins that it started with
        assert "unknown loss 'spread'" in refused(path)
        assert "width" in LOSSES

    def test_one_that_breaks_leaves_what_was_there(self, tmp_path):
        path = write(tmp_path, {"plugins": ["./a.py"], "stages": FOCUS}, a=LOSS)
        load_recipe(path)
        (tmp_path / "a.py").write_text(LOSS + "1 / 0\n")
        assert "ZeroDivisionError" in refused(path)
        assert type(LOSSES["spread"]()).__name__ == "Spread"


class TestFaults:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("1 / 0\n", "a.py: raised in line 1 when it was imported: ZeroDivisionError: division by zero"),
            ("\n\ndef f(:\n", "a.py: line 3: invalid syntax"),
            ("import sys\nsys.exit(3)\n", "a.py: raised in line 2 when it was imported: SystemExit: 3"),
            ("import no_such_package\n", "a.py: raised in line 1 when it was imported: ModuleNotFoundError: No module"),
            (
                LOSS.replace('"spread"', '"mfr"'),
                "a.py: losses: 'mfr' from {a} already exists, from w3ray itself; rename one",
            ),
            (
                LOSS.replace('"spread"', '"my loss"'),
                "'my loss' from {a} is not valid: its name must be one word",
            ),
            (
                LOSS.replace('"spread"', '"a.b"'),
                "is not valid: a dot in a name stands before the name of a head",
            ),
            (
                LOSS.replace("LossKind(Spread)", "Spread"),
                "losses: 'spread' from {a} is not valid: it must be a LossKind(loss, needs_teacher=...), not",
            ),
            (
                ATTENTION.replace('ClassVar[str] = "scale"\n    label', 'ClassVar[str] = "other"\n    label'),
                "attentions: 'scale' from {a} is not valid: the kind of ScaleConfig is 'other', not 'scale'",
            ),
            (
                ATTENTION.replace("AttentionKind(ScaleConfig, Scale)", "AttentionKind(dict, Scale)"),
                "its config must be a subclass of AttentionConfig, not <class 'dict'>",
            ),
            (
                "from w3ray.data.clip_sampling import SAMPLERS\nSAMPLERS.add('x', 3)\n",
                "samplers: 'x' from {a} is not valid: it is 3, which cannot be called",
            ),
            (
                "from w3ray.models import MODELS\nMODELS.add('x', len)\n",
                "models: 'x' from {a} is not valid: it must be a ModelFamily(network, options), not <built-in",
            ),
        ],
    )
    def test_of_a_file(self, tmp_path, text, said):
        line = refused(write(tmp_path, {"plugins": ["./a.py"]}, a=text))
        assert line.startswith(f"recipe.yaml: plugins: {tmp_path / 'a.py'}: ")
        assert said.format(a=tmp_path / "a.py") in line

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("./absent.py", "absent.py: cannot be read (No such file or directory)"),
            (
                "no_such_package.parts",
                "plugins: no_such_package.parts: there is no module no_such_package; ",
            ),
            ("json.no_such", "plugins: json.no_such: there is no module json.no_such; install its package here"),
            ("a module", "plugins: 'a module': is neither a module (my_package.module) nor a file (./my_part.py)"),
        ],
    )
    def test_of_a_name(self, tmp_path, name, said):
        assert said in refused(write(tmp_path, {"plugins": [name]}))

    @pytest.mark.parametrize("value", ["./a.py", [3], [""]])
    def test_of_the_list(self, tmp_path, value):
        assert "recipe.yaml: plugins" in refused(write(tmp_path, {"plugins": value}))

    def test_an_override_is_named(self, tmp_path):
        line = refused(write(tmp_path, {}), "plugins=[./absent.py]")
        assert line.startswith(f"--set: plugins: {Path.cwd() / 'absent.py'}: cannot be read")

    def test_two_files_with_one_name(self, tmp_path):
        line = refused(write(tmp_path, {"plugins": ["./a.py", "./b.py"]}, a=LOSS, b=LOSS))
        a, b = tmp_path / "a.py", tmp_path / "b.py"
        assert line == f"recipe.yaml: plugins: {b}: losses: 'spread' from {b} already exists, from {a}; rename one"

    def test_a_loss_that_needs_a_teacher(self, tmp_path):
        text = LOSS.replace("LossKind(Spread)", "LossKind(Spread, needs_teacher=True)")
        line = refused(write(tmp_path, {"plugins": ["./a.py"], "stages": FOCUS}, a=text))
        assert line == "recipe.yaml: stages.one.loss_weights.spread: 0.5 needs a teacher; set stages.one.teacher"

    def test_options_of_an_attention_are_typed(self, tmp_path):
        path = write(tmp_path, {"plugins": ["./a.py"]}, a=ATTENTION)
        kind = "model.attention={kind: scale, strat_at: 2}"
        assert "scale: unknown option strat_at; did you mean 'start_at'?" in refused(path, kind)
        assert load_recipe(path, ["model.attention={kind: scale}"]).model.attention.start_at == 1.0

    def test_a_part_of_the_program_itself(self, tmp_path, monkeypatch):
        monkeypatch.setitem(globals(), "__name__", "__main__")
        LOSSES.add("spread", LossKind(print))
        with pytest.raises(PluginError, match="registered by the program itself, which other processes cannot import"):
            plugins.source_of("losses", "spread")


class TestEnvironment:
    def test_names_are_found_with_it(self, tmp_path, monkeypatch):
        (tmp_path / "a.py").write_text(LOSS)
        (tmp_path / "b.py").write_text(ATTENTION)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("W3RAY_PLUGINS", "a.py:./b.py")
        assert "spread" in LOSSES
        assert list(ATTENTIONS)[-1] == "scale"

    def test_one_that_is_not_there(self, monkeypatch):
        monkeypatch.setenv("W3RAY_PLUGINS", "/no/such.py")
        assert "mfr" in LOSSES  # built-in names need no plugins
        for _ in range(2):  # each attempt gives the error
            with pytest.raises(InputError, match=r"^W3RAY_PLUGINS: /no/such.py: cannot be read"):
                list(LOSSES)


class TestIdentity:
    def test_a_changed_loss_is_another_stage_and_an_equal_one_the_same(self, tmp_path):
        path = write(tmp_path / "one", {"plugins": ["./a.py"], "stages": [*FOCUS, {"name": "two"}]}, a=LOSS)
        other = write(tmp_path / "other", {"plugins": ["./b.py"], "stages": [*FOCUS, {"name": "two"}]}, b=LOSS)
        found = identities(load_recipe(path))
        (tmp_path / "one" / "a.py").unlink()
        loading._files.clear()
        LOSSES.forget(LOSSES.origin("spread").module)
        moved = load_recipe(other)
        assert identities(moved) == found  # the file's place and name are not part of it
        fingerprint = moved.fingerprint()
        (tmp_path / "other" / "b.py").write_text(LOSS.replace("FACTOR = 1", "FACTOR = 2"))
        changed = load_recipe(other)
        assert identities(changed)["one"] != found["one"]
        assert identities(changed)["two"] == found["two"]  # this stage does not use the loss
        assert changed.fingerprint() != fingerprint

    def test_what_it_is_made_of_is_told(self, tmp_path):
        recipe = load_recipe(write(tmp_path, {"plugins": ["./a.py"], "stages": FOCUS}, a=LOSS))
        stage = recipe.resolved_stages()[0]
        found = stage_determinants(stage, seed=0, data={}, weights=None, teacher_identity=None)["plugins"]
        assert list(found) == ["losses/spread"]
        assert found["losses/spread"] == {"package": None, "version": None, "sha256": sha256_of(LOSS)}

    def test_of_data(self, tmp_path):
        text = "import numpy as np\nfrom w3ray.data.clip_sampling import SAMPLERS\n"
        text += "SAMPLERS.add('last', lambda n, t, s, rng: np.full(t, n - 1))\n"
        path = write(tmp_path, {"plugins": ["./a.py"]}, a=text)
        with_sampler = identities(load_recipe(path, ["data.sampling=last"]))
        (tmp_path / "a.py").write_text(text + "# other\n")
        assert identities(load_recipe(path, ["data.sampling=last"])) != with_sampler
        assert identities(load_recipe(path)) == identities(Recipe.model_validate(RECIPE))

    def test_a_plugin_that_is_not_used_changes_nothing(self, tmp_path):
        recipe = load_recipe(write(tmp_path, {"plugins": ["./a.py"]}, a=LOSS))
        assert identities(recipe) == identities(Recipe.model_validate(RECIPE))
        assert recipe.fingerprint() == Recipe.model_validate(RECIPE).fingerprint()

    def test_augmentations_are_part_of_it_only_where_there_are_some(self, tmp_path):
        text = "from w3ray.data.augmentation import AUGMENTATIONS\n"
        text += "AUGMENTATIONS.add('dark', lambda clip, rng: clip // 2)\n"
        path = write(tmp_path, {"plugins": ["./a.py"]}, a=text)
        assert identities(load_recipe(path, ["data.augmentations=[dark]"])) != identities(load_recipe(path))
        line = refused(path, "data.augmentations=[drak]")
        assert "unknown augmentation 'drak'; did you mean 'dark'? known: " in line

    def test_options_of_an_augmentation_are_part_of_it(self, tmp_path):
        text = (
            "from dataclasses import dataclass\n"
            "from typing import ClassVar\n"
            "from w3ray.data.augmentation import AUGMENTATIONS, AugmentationOptions\n"
            "@dataclass(frozen=True, slots=True, kw_only=True)\n"
            "class Dark(AugmentationOptions):\n"
            "    label: ClassVar[str] = 'dark'\n"
            "    divisor: int = 2\n"
            "    def __call__(self, clip, rng):\n"
            "        return clip // self.divisor\n"
            "AUGMENTATIONS.add('dark', Dark)\n"
        )
        path = write(tmp_path, {"plugins": ["./a.py"]}, a=text)
        names = ("[dark]", "[{name: dark, divisor: 2}]", "[{name: dark, divisor: 3}]")
        two, same, three = (load_recipe(path, [f"data.augmentations={one}"]) for one in names)
        assert identities(two) == identities(same) != identities(three)
        clip = np.full((1, 2, 2, 3), 90, np.uint8)
        assert three.data.clip_spec().augmentations[0](clip, None).max() == 30
        assert "dark: unknown option divsor; did you mean 'divisor'?" in refused(
            path, "data.augmentations=[{name: dark, divsor: 3}]"
        )


class TestModelsOnDisk:
    @pytest.fixture
    def folder(self, tmp_path):
        recipe = load_recipe(write(tmp_path, {"plugins": ["./a.py"]}, a=ATTENTION), ["model.attention={kind: scale}"])
        arguments = {**recipe.model.build_arguments(), "num_classes": 2}
        description = ModelDescription(
            model=arguments, clip={"num_frames": 2, "size": 32}, classes=("a", "b"), mean=(0, 0, 0), std=(1, 1, 1),
            plugins=plugins.sources_of([("attentions", "scale")]),
        )  # fmt: skip
        write_model(tmp_path / "model", build_model(**arguments), description)
        return tmp_path / "model"

    def test_it_is_read_where_the_plugin_is(self, folder):
        _, description = load_model(folder)
        assert description.sources == description.plugins

    def test_without_the_plugin_one_line_says_what_is_needed(self, folder, monkeypatch):
        ATTENTIONS.forget(ATTENTIONS.origin("scale").module)
        with pytest.raises(InputError) as caught:
            load_model(folder)
        sha256 = sha256_of(ATTENTION)[:12]
        assert str(caught.value) == (
            f"{folder}/model.json: needs attentions 'scale', which is not there; it was from a file (sha256 {sha256}): "
            "name this file in W3RAY_PLUGINS"
        )
        loading._files.clear()
        monkeypatch.setenv("W3RAY_PLUGINS", str(folder.parent / "a.py"))
        monkeypatch.setattr(loading, "_environment_is_loaded", False)
        load_model(folder)

    def test_no_file_that_a_model_names_is_run(self, folder, tmp_path):
        (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
        document = json.loads((folder / "model.json").read_text())
        source = document["plugins"].pop("attentions/scale")
        for part in (f"losses/{tmp_path / 'evil.py'}", "losses/antigravity", f"{tmp_path / 'evil.py'}/x", "losses/a:b"):
            (folder / "model.json").write_text(json.dumps({**document, "plugins": {part: source}}))
            with pytest.raises(InputError) as caught:
                load_model(folder)
            assert len(str(caught.value).splitlines()) == 1
        assert not (tmp_path / "mark").exists()


class TestShipment:
    def test_a_process_without_the_file_has_the_same_parts(self, tmp_path):
        recipe = load_recipe(write(tmp_path, {"plugins": ["./a.py"], "stages": FOCUS}, a=LOSS))
        sources = plugins.sources_of(recipe.parts())
        sent = pickle.dumps(plugins.shipment(recipe.plugins, sources))
        LOSSES.forget(LOSSES.origin("spread").module)
        loading._files.clear()
        (tmp_path / "a.py").unlink()
        shipment = pickle.loads(sent)
        assert shipment
        shipment.load()
        shipment.load()
        assert plugins.sources_of(recipe.parts()) == sources

    def test_it_replaces_what_an_earlier_run_left(self, tmp_path):
        path = write(tmp_path, {"plugins": ["./a.py"], "stages": FOCUS}, a=LOSS)
        first = load_recipe(path)
        old = plugins.shipment(first.plugins, plugins.sources_of(first.parts()))
        (tmp_path / "a.py").write_text(LOSS.replace("FACTOR = 1", "FACTOR = 2"))
        load_recipe(path)
        old.load()
        assert plugins.sources_of(first.parts()) == dict(old.parts)

    def test_another_source_on_a_node(self, tmp_path):
        recipe = load_recipe(write(tmp_path, {"plugins": ["./a.py"], "stages": FOCUS}, a=LOSS))
        sources = plugins.sources_of(recipe.parts())
        theirs = {part: {**source, "package": "my-package", "version": "2.0"} for part, source in sources.items()}
        shipment = plugins.Shipment(files={}, modules=(), parts=theirs)
        said = shipment.fault()
        assert "losses: 'spread' is from a file (sha256 " in said
        assert "the driver's is from my-package 2.0 (sha256 " in said
        assert said.startswith("node ")
        LOSSES.forget(LOSSES.origin("spread").module)
        assert shipment.fault().endswith("losses: there is no 'spread'; install my-package==2.0")

    def test_without_plugins_nothing_travels(self):
        recipe = Recipe.model_validate(RECIPE)
        assert not plugins.shipment(recipe.plugins, plugins.sources_of(recipe.parts()))


def test_samplers_of_a_plugin_are_used(tmp_path):
    text = "from w3ray.data.clip_sampling import SAMPLERS\nSAMPLERS.add('last', lambda n, t, s, rng: [n - 1] * t)\n"
    spec = load_recipe(write(tmp_path, {"plugins": ["./a.py"]}, a=text), ["data.sampling=last"]).data.clip_spec()
    assert SAMPLERS[spec.sampling](9, 2, 1, None) == [8, 8]
    with pytest.raises(PluginError, match=r"'last' from .*/a\.py breaks the contract of its family: 1 of 1"):
        plugins.check_contracts([("samplers", "segment"), ("samplers", "last")])
