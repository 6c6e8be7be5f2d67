"""What `docs/python.md` shows works: its blocks run, one after the other, on a small trained model.

The model is trained once, with the page's own recipe and callback. Its functions are tested on it, too.
"""

import inspect
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from in_process import in_process
from test_documentation import REPO, blocks

import w3ray
from w3ray import InputError, _registry, events
from w3ray.cli import build_app
from w3ray.data.manifest import read_manifest
from w3ray.explaining import ExplainedVideos
from w3ray.plugins import loading
from w3ray.scoring.evaluate import Evaluated
from w3ray.scoring.predict import Prediction

PAGE = REPO / "docs" / "python.md"
pytestmark = pytest.mark.ray

CODE = [text for language, text in blocks(PAGE) if language == "python"]
(CALLBACK,) = [text for text in CODE if "CALLBACKS.add" in text]
(SEARCH,) = [text for text in CODE if "w3ray.tune" in text]
SHOWN = [text for text in CODE if text not in (CALLBACK, SEARCH)]
(RECIPE,) = [text for language, text in blocks(PAGE) if language == "yaml"]


@dataclass(frozen=True)
class Finished:
    """A folder with the page's files, in which its recipe was run."""

    folder: Path
    model: str
    videos: list[str]
    seen: Path
    """What the callback wrote."""


@pytest.fixture(scope="module")
def finished(ray_session, motion_manifest, empty_database, tmp_path_factory) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("page")
    seen = folder / "curve.txt"
    (folder / "clips").symlink_to(motion_manifest.parent)
    (folder / "my-recipe.yaml").write_text(RECIPE)
    (folder / "my_callback.py").write_text(CALLBACK.replace("/tmp/curve.txt", str(seen)))
    (folder / "runs").mkdir()
    shutil.copy(empty_database, folder / "runs" / "mlflow.db")
    added = {id(table): dict(table._added) for table in _registry._tables}
    files = dict(loading._files)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = in_process(w3ray.load_recipe("my-recipe.yaml", ["train.lr=0.02"]))
        manifest = read_manifest(motion_manifest)
        videos = manifest.resolved_uris(manifest.split("test"))
        yield Finished(folder, result.stages[-1].model, videos, seen)
    for table in _registry._tables:
        table._added = added.get(id(table), {})
    loading._files.clear()
    loading._files.update(files)


@pytest.fixture(autouse=True)
def _there(finished, monkeypatch) -> None:
    monkeypatch.chdir(finished.folder)


def test_the_blocks_of_the_page_run_in_order(finished, capsys):
    names: dict[str, Any] = {}
    for text in SHOWN:
        exec(compile(text, str(PAGE), "exec"), names)
    assert names["teacher"].state == "reuse"
    assert names["result"].model["uri"] == "models:/motion/1", "the next block asks for it by name"
    out = capsys.readouterr().out
    assert f"teacher is done: {names['teacher'].metrics['top1']}" in out
    assert "cannot be read" not in out
    assert names["logits"].requires_grad
    assert names["x"].shape == (2, 4, 3, 32, 32)
    assert names["output"].logits_BK.shape == (1, 10)
    assert Path(names["video"].film).is_file()
    lines = [line.split() for line in finished.seen.read_text().splitlines()]
    assert [line[0] for line in lines if len(line) == 3 and line[1] not in ("val", "test")] == list("123456")
    assert [line[:2] for line in lines if line[1] in ("val", "test")] == [["3", "val"], ["6", "val"], ["6", "test"]]


@pytest.mark.slow
def test_the_search_of_the_page_runs(finished):
    names: dict[str, Any] = {"w3ray": w3ray, "recipe": w3ray.load_recipe("my-recipe.yaml", ["train.lr=0.02"])}
    exec(compile(SEARCH, str(PAGE), "exec"), names)
    assert sorted(names["found"].frame["train.lr"]) == [0.01, 0.02]
    assert names["best"].train.lr in (0.01, 0.02)


def test_every_event_is_described_with_what_it_has():
    """All that `on_event` gets. Pictures go to MLflow only, and signs of life to the watchdog."""
    found = {
        name: [field.name for field in fields(kind)]
        for name, kind in vars(events).items()
        if inspect.isclass(kind) and is_dataclass(kind) and kind.__module__ == events.__name__
    }
    parts = {"StageSummary", "Overhead", "RunSummary"}
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| (.+) \|$", PAGE.read_text(), flags=re.MULTILINE))
    assert set(rows) == set(found) - parts - {"Explained", "WorkerAlive"}
    for name, text in rows.items():
        assert set(re.findall(r"`(\w+)`", text)) - {"Warned"} == set(found[name]), name


def test_public_names_are_there_and_described():
    table = re.findall(r"^\| `w3ray\.(\w+)` \|", PAGE.read_text(), flags=re.MULTILINE)
    assert sorted(table) == sorted(name for name in w3ray.__all__ if name[0].islower())
    for name in table:
        modules = [REPO / "w3ray" / name, REPO / "w3ray" / f"{name}.py"]
        assert not any(map(Path.exists, modules)), "importing a module of this name would replace the function"
        hints = inspect.signature(getattr(w3ray, name))
        assert hints.return_annotation is not inspect.Signature.empty, name
        assert all(one.annotation is not inspect.Parameter.empty for one in hints.parameters.values()), name


@pytest.mark.parametrize("name", ["run", "tune", "evaluate", "predict", "explain"])
def test_a_function_takes_what_its_command_takes(name):
    """Options that only say how to print, write or continue have no argument."""
    command = typer.main.get_command(build_app(name)).commands[name]
    options = {parameter.name for parameter in command.params if parameter.name != "help"}
    only_commands = {
        "run": {"storage", "compare", "profile_start", "dry_run"},
        "tune": {"sweep", "storage", "trials", "concurrency", "write_best", "dry_run"},
        "predict": {"window", "stride", "smooth", "min_segment", "out"},  # `w3ray.scoring.timeline.predict_windows`
    }
    other_names = {"model": "models", "root": "roots", "weight": "weights", "bank": "banks", "pipeline": "recipe"}
    known = inspect.signature(getattr(w3ray, name)).parameters
    missing = options - only_commands.get(name, set()) - {"as_json"}
    assert {one for one in missing if one not in known and other_names.get(one) not in known} == set()


def test_the_reference_says_what_each_argument_is():
    for name in w3ray.__all__:
        assert not re.search(r"as there|as in `w3ray\.", inspect.getdoc(getattr(w3ray, name)) or ""), name


def test_the_package_says_that_it_is_typed():
    import tomllib

    data = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "py.typed" in data["w3ray"]
    assert (REPO / "w3ray" / "py.typed").is_file()


class TestLoadModel:
    def test_it_gives_the_scores_of_predict(self, finished):
        model = w3ray.load_model(finished.model)
        assert not any(module.training for module in model.modules())
        (told,) = w3ray.predict(finished.model, finished.videos[0], top=8)
        frames = model.read(finished.videos[0])
        assert frames.shape == (4, 32, 32, 3)
        scores = model.scores(frames)
        assert scores.shape == (1, 8)
        assert dict(model.best(scores[0], top=8)) == pytest.approx(dict(told.top), abs=1e-5)
        assert [name for name, _ in model.best(scores[0], top=8)] == [name for name, _ in told.top]
        assert model.classes == model.description.classes
        softmax = model(model.prepare(torch.as_tensor(frames))).softmax(dim=1)
        torch.testing.assert_close(softmax, scores, rtol=1e-5, atol=1e-6)

    def test_several_clips_and_gradients(self, finished):
        model = w3ray.load_model(Path(finished.model).parent)  # the stage's folder
        frames = np.stack([model.read(video) for video in finished.videos[:3]])
        logits = model(model.prepare(frames))
        assert logits.shape == (3, 8)
        logits.sum().backward()
        assert next(model.parameters()).grad is not None
        assert not model.scores(frames).requires_grad

    @pytest.mark.parametrize(
        "frames",
        [
            np.zeros((4, 32, 32, 3), np.float32),
            np.zeros((5, 32, 32, 3), np.uint8),
            np.zeros((4, 3, 32, 32), np.uint8),
            np.zeros((32, 32, 3), np.uint8),
        ],
        ids=["floats", "five frames", "channels first", "one frame"],
    )
    def test_wrong_frames_are_refused(self, finished, frames):
        model = w3ray.load_model(finished.model)
        kind = f"{frames.dtype} {list(frames.shape)}"
        said = f"frames must be uint8 [B, 4, H, W, 3] or [4, H, W, 3], 0 to 255, not {kind}"
        with pytest.raises(InputError, match=f"^{re.escape(said)}$"):
            model.scores(frames)

    def test_a_video_that_cannot_be_read(self, finished, tmp_path):
        (tmp_path / "a.mp4").write_text("no video")
        with pytest.raises(InputError, match=r"a\.mp4: "):
            w3ray.load_model(finished.model).read(tmp_path / "a.mp4")


class TestResults:
    def test_are_what_the_page_says(self, finished):
        found = w3ray.predict(Path(finished.model), [Path(video) for video in finished.videos[:2]])
        assert all(isinstance(one, Prediction) for one in found)
        scored = w3ray.evaluate(finished.model, "clips/manifest.parquet", split="test")
        assert isinstance(scored, Evaluated)
        assert scored.metrics["rows"] == 8
        seen = w3ray.explain(finished.model, finished.videos[0], out=finished.folder / "seen", top=3)
        assert isinstance(seen, ExplainedVideos)
        assert len(seen.videos[0].models[0].top(3)) == 3
        for one in (*found, scored, seen):
            json.dumps(one.document(), allow_nan=True)

    def test_progress_and_what_cannot_be_read(self, finished, tmp_path):
        (tmp_path / "a.mp4").write_text("no video")
        done: list[tuple[int, int]] = []
        found = w3ray.predict(
            finished.model, [finished.videos[0], str(tmp_path / "a.mp4")], on_progress=lambda *now: done.append(now)
        )
        assert done == [(1, 2), (2, 2)]
        assert sorted(one.reason is None for one in found) == [False, True]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda model: w3ray.load_model("nowhere"), "nowhere: no model here; name the folder of a stage"),
        (lambda model: w3ray.load_model("clips"), "clips: no model here"),
        (lambda model: w3ray.load_model("models:/zebra@current"), "models:/zebra@current: no registered model 'zebra'"),
        (
            lambda model: w3ray.load_model("models:/a@b", tracking="sqlite:////no/such.db"),
            "no MLflow database at /no/such.db; name the MLflow that knows the model with tracking",
        ),
        (lambda model: w3ray.predict(model), "name videos, or a manifest with manifest"),
        (lambda model: w3ray.predict(model, []), "name videos, or a manifest"),
        (lambda model: w3ray.predict(model, "nowhere/*.mp4"), "nowhere/*.mp4: "),
        (lambda model: w3ray.predict(model, "clips/test", top=0), "top must be a whole number of at least 1"),
        (lambda model: w3ray.predict(model, "a.mp4", split="val"), "split names a split of a manifest; add manifest"),
        (lambda model: w3ray.predict(model, "clips/test", bank="b"), "bank b: "),
        (lambda model: w3ray.evaluate([], "clips/manifest.parquet"), "name at least one model"),
        (
            lambda model: w3ray.evaluate(model, "clips/manifest.parquet", weights=[1.0]),
            "weights: there is one model, and its scores need no weight; leave it out",
        ),
        (lambda model: w3ray.evaluate(model, "clips/manifest.parquet", average="all"), "average must be scores or"),
        (lambda model: w3ray.explain(model, []), "explain: name at least one video"),
        (lambda model: w3ray.explain(model, "a.mp4", banks=["b"]), "banks b: "),
        (lambda model: w3ray.run("quickstart", on_event=3), "on_event must be a function that takes an event, not 3"),
        (lambda model: w3ray.tune("smoke", "quickstart", on_status=3), "on_status must be a function that takes a"),
    ],
)
def test_bad_input_is_one_line_in_words_of_python(finished, call, said):
    with pytest.raises(InputError) as caught:
        call(finished.model)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
