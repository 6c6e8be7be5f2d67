"""Initial weights from all places: found, checked, fetched once, and identified by their content."""

import hashlib
import http.server
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from w3ray.data.clip import ClipSpec
from w3ray.errors import InputError
from w3ray.evaluation.normalize import IMAGENET_MEAN, IMAGENET_STD
from w3ray.heads import Heads
from w3ray.models import build_model
from w3ray.models.bundle import ModelDescription, write_model
from w3ray.pipeline.initial_weights import InitialWeights, find_weights
from w3ray.pipeline.prepare import plan_stages, prepare_data
from w3ray.recipe import Recipe
from w3ray.tracking import Tracker

HEADS = Heads(("left", "right", "up"))
ARGUMENTS: dict[str, Any] = {
    "name": "tsm", "backbone": "resnet_small", "num_classes": 3, "attention": {"kind": "w3"}, "dropout": 0.5,
}  # fmt: skip


def recipe_in(storage: str | Path, **changes: Any) -> Recipe:
    values = {"name": "tiny", "storage": str(storage), "data": {"manifest": "clips.parquet"}, **changes}
    return Recipe.model_validate({**values, "stages": [{"name": "teacher"}]})


def find(weights: str | None, storage: str | Path, heads: Heads = HEADS, **changes: Any) -> InitialWeights:
    return find_weights(weights, recipe_in(storage, **changes), heads)


def key_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Web:
    """Files at addresses, and the requests for them."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(body=True)

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def _answer(self, body: bool) -> None:
                content = web.files.get(self.path.partition("?")[0])
                web.asked.append(f"{self.command} {self.path}")
                self.send_response(404 if content is None else 200)
                content = content or b""
                self.send_header("Content-Length", str(len(content)))
                # What the hub's client looks for.
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", hashlib.sha256(content).hexdigest()[:40])
                self.end_headers()
                if body:
                    self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()
    yield web
    web.server.shutdown()
    web.server.server_close()


@pytest.fixture(scope="module")
def own_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of ours, with three classes."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("own") / "model"
    description = ModelDescription(
        model=ARGUMENTS, clip=asdict(ClipSpec(num_frames=4, size=32)), classes=HEADS.classes, mean=IMAGENET_MEAN,
        std=IMAGENET_STD, stage="teacher",
    )  # fmt: skip
    write_model(folder, build_model(**ARGUMENTS), description)
    return folder


def test_names_are_names(tmp_path: Path) -> None:
    assert find(None, tmp_path).key is None
    found = find("efficientnet_lite0", tmp_path)
    assert (found.key, found.place) == ("efficientnet_lite0", "efficientnet_lite0")
    newest = find("ResNet50_Weights.DEFAULT", tmp_path)
    assert newest.key == find("ResNet50_Weights.IMAGENET1K_V2", tmp_path).key
    assert find("ResNet50_Weights.IMAGENET1K_V1", tmp_path).key == "ResNet50_Weights.IMAGENET1K_V1"
    with pytest.raises(InputError, match="torchvision has no such enum"):
        find("ResNet5000_Weights.DEFAULT", tmp_path)
    assert not (tmp_path / "weights").exists()


def test_a_file_here_is_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.pth").write_bytes(b"content")
    Path("b.pth").write_bytes(b"content")
    found = [find(name, tmp_path / "runs") for name in ("a.pth", "b.pth")]
    assert [one.key for one in found] == [key_of(b"content")] * 2
    assert found[0].place == str(tmp_path / "a.pth"), "workers start elsewhere"
    assert not (tmp_path / "runs").exists(), "a file here is not copied"


class TestWeb:
    def test_it_is_fetched_once_for_all_runs(self, web: Web, tmp_path: Path) -> None:
        web.files["/r50.pth"] = b"weights"
        address = f"{web.address}/r50.pth?token=abcdefgh"
        found = [find(address, tmp_path) for _ in range(2)]
        assert found[0] == found[1]
        assert found[0].key == key_of(b"weights")
        assert found[0].place is not None
        assert Path(found[0].place).parent == tmp_path / "weights"
        assert Path(found[0].place).suffix == ".pth"
        assert Path(found[0].place).read_bytes() == b"weights"
        assert web.asked == ["GET /r50.pth?token=abcdefgh"]
        notes = [path.read_text() for path in (tmp_path / "weights").glob("*.json")]
        assert len(notes) == 1
        assert "abcdefgh" not in notes[0], "a secret is not written down"
        Path(found[0].place).unlink()
        assert find(address, tmp_path) == found[0]
        assert len(web.asked) == 2

    @pytest.mark.parametrize("damage", ["", "[]", '{"file": "../../secret"}', '{"file": 3}', "[" * 100_000])
    def test_a_damaged_note_is_made_again(self, web: Web, tmp_path: Path, damage: str) -> None:
        web.files["/w.pth"] = b"weights"
        first = find(f"{web.address}/w.pth", tmp_path)
        (note,) = (tmp_path / "weights").glob("*.json")
        note.write_text(damage)
        assert find(f"{web.address}/w.pth", tmp_path) == first
        assert len(web.asked) == 2
        assert find(f"{web.address}/w.pth", tmp_path) == first
        assert len(web.asked) == 2

    def test_the_checksum_holds(self, web: Web, tmp_path: Path) -> None:
        web.files["/w.pth"] = b"old"
        find(f"{web.address}/w.pth", tmp_path)
        web.files["/w.pth"] = b"new"
        assert find(f"{web.address}/w.pth", tmp_path).key == key_of(b"old"), "an address is fetched once"
        right = hashlib.sha256(b"new").hexdigest()
        assert find(f"{web.address}/w.pth#sha256={right}", tmp_path).key == key_of(b"new")
        asked = len(web.asked)
        assert find(f"{web.address}/w.pth#sha256={right}", tmp_path).key == key_of(b"new")
        assert len(web.asked) == asked
        wrong = "0" * 64
        with pytest.raises(InputError, match=rf"w.pth#sha256={wrong}: the file's sha256 is {right}; it is not the"):
            find(f"{web.address}/w.pth#sha256={wrong}", tmp_path)
        for fragment in ("sha256=12", "md5=12", "x"):
            with pytest.raises(InputError, match="after the # stands no 'sha256=' with 64 hexadecimal digits"):
                find(f"{web.address}/w.pth#{fragment}", tmp_path)

    def test_absent_file_and_absent_network(self, web: Web, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"/no.pth: cannot be downloaded \(HTTP Error 404: .*; give the path of a"):
            find(f"{web.address}/no.pth", tmp_path)
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            closed = f"http://127.0.0.1:{unused.getsockname()[1]}/w.pth"
            with pytest.raises(InputError, match=r"cannot be downloaded \(.*refused.*give the path of a local copy"):
                find(closed, tmp_path)
        with pytest.raises(InputError, match=r"https://host.invalid/w.pth: cannot be downloaded"):
            find("https://host.invalid/w.pth", tmp_path)
        with pytest.raises(InputError, match=r"ftp://host.invalid/w.pth: cannot be read \("):
            find("ftp://host.invalid/w.pth", tmp_path)
        assert [*tmp_path.rglob("*.pth")] == []


class TestHub:
    @pytest.fixture(autouse=True)
    def _hub(self, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import constants

        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, web.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", web.address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def test_a_file_of_a_revision(self, web: Web, tmp_path: Path) -> None:
        web.files["/me/tsm/resolve/main/sub/r50.pth"] = b"main"
        web.files["/me/tsm/resolve/v1/sub/r50.pth"] = b"first"
        found = find("hf://me/tsm/sub/r50.pth", tmp_path / "runs")
        assert (found.key, Path(str(found.place)).read_bytes()) == (key_of(b"main"), b"main")
        assert Path(str(found.place)).suffix == ".pth"
        assert find("hf://me/tsm@v1/sub/r50.pth", tmp_path / "runs").key == key_of(b"first")

    def test_without_a_network_one_line_comes_at_once_or_what_was_fetched_before(
        self, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from huggingface_hub import constants

        web.files["/me/tsm/resolve/main/r50.pth"] = b"main"
        assert find("hf://me/tsm/r50.pth", tmp_path / "runs").key == key_of(b"main")
        with socket.socket() as unused:  # it is bound, and does not listen
            unused.bind(("127.0.0.1", 0))
            closed = f"http://127.0.0.1:{unused.getsockname()[1]}"
            template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(web.address, closed)
            monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
            monkeypatch.setattr(constants, "ENDPOINT", closed)
            monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits to try again"))
            assert find("hf://me/tsm/r50.pth", tmp_path / "other").key == key_of(b"main")
            with pytest.raises(
                InputError, match=r"hf://me/tsm/r34.pth: cannot be downloaded \(the hub cannot be reached: .*refused"
            ):
                find("hf://me/tsm/r34.pth", tmp_path / "runs")

    def test_faults(self, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(InputError, match=r"hf://me/tsm/no.pth: cannot be downloaded \(.*give the path of a local"):
            find("hf://me/tsm/no.pth", tmp_path / "runs")
        for wrong in ("hf://me/tsm", "hf://tsm", "hf://me"):
            with pytest.raises(InputError, match="must be hf://owner/repository/file"):
                find(wrong, tmp_path / "runs")
        monkeypatch.setattr("w3ray.pipeline.initial_weights.find_spec", lambda name: None)
        with pytest.raises(InputError, match=r"huggingface_hub is not installed; pip install 'w3ray\[hf\]'"):
            find("hf://me/tsm/no.pth", tmp_path / "runs")


class TestStore:
    def test_it_is_fetched_again_when_it_changed(self, s3: Any, tmp_path: Path) -> None:
        from w3ray.storage import storage_path

        file = storage_path("s3://bucket/start/r50.pth")
        file.write_bytes(b"old")
        address = "s3://bucket/start/r50.pth"
        first = find(address, tmp_path)
        assert (first.key, Path(str(first.place)).read_bytes()) == (key_of(b"old"), b"old")
        s3.fail("r50.pth", "403", method="GET")  # the content; a question about the file is HEAD
        try:
            assert find(address, tmp_path) == first
        finally:
            s3.heal()
        file.write_bytes(b"newer")
        assert find(address, tmp_path).key == key_of(b"newer")
        with pytest.raises(InputError, match=r"s3://bucket/start/no.pth: no such file"):
            find("s3://bucket/start/no.pth", tmp_path)

    def test_a_file_here_goes_to_a_storage_elsewhere(self, s3: Any, tmp_path: Path) -> None:
        model = build_model(**ARGUMENTS)
        save_file(model.state_dict(), tmp_path / "own.safetensors")
        found = find(str(tmp_path / "own.safetensors"), "s3://bucket/runs")
        assert found.place == f"s3://bucket/runs/weights/{str(found.key).removeprefix('sha256:')}.safetensors"
        (tmp_path / "own.safetensors").unlink()
        twin = build_model(**ARGUMENTS, weights=found.place)
        torch.testing.assert_close(twin.state_dict(), model.state_dict())
        with pytest.raises(InputError, match=r"s3://bucket/runs/no.pth: no such file"):
            build_model(**ARGUMENTS, weights="s3://bucket/runs/no.pth")


class TestOwnModels:
    def test_the_same_classes_keep_the_classifier(self, own_model: Path, tmp_path: Path) -> None:
        found = find(str(own_model), tmp_path)
        assert found.key == key_of((own_model / "model.safetensors").read_bytes())
        assert found.left_out == ()

    @pytest.mark.parametrize("classes", [("left", "right"), ("left", "right", "down"), ("right", "left", "up")])
    def test_other_classes_get_a_new_classifier(
        self, own_model: Path, tmp_path: Path, classes: tuple[str, ...]
    ) -> None:
        found = find(str(own_model), tmp_path, Heads(classes))
        assert sorted(found.left_out) == ["classifier.bias", "classifier.weight"]
        theirs = load_file(own_model / "model.safetensors")
        model = build_model(**{**ARGUMENTS, "num_classes": len(classes)}, weights=found.place)
        loaded = model.loaded_weights
        assert loaded is not None
        assert sorted(loaded.fresh) == sorted(found.left_out)
        assert loaded.loaded == len(theirs) - 2
        for name, value in model.state_dict().items():
            assert name in found.left_out or torch.equal(value, theirs[name]), name
        assert float(model.classifier.weight.detach().std()) < 0.01, "as a new one starts"

    def test_a_model_in_mlflow(self, own_model: Path, empty_database: Path, tmp_path: Path) -> None:
        uri = f"sqlite:///{shutil.copy(empty_database, tmp_path)}"
        with Tracker.open(uri, "gestures", buffer_dir=tmp_path / "tracking") as tracker:
            tracker.start_run({})
            run = tracker.stage_run("teacher", "stage-1", {})
            logged = run.log_model(own_model, metrics={}, step=1)
            assert tracker.register(logged, "gestures", alias="current")
        tracking = {"tracking": {"uri": uri}}
        for name in ("models:/gestures@current", "models:/gestures/1", f"runs:/{run.run_id}/teacher"):
            found = find(name, tmp_path / "runs", **tracking)
            assert found.key == key_of((own_model / "model.safetensors").read_bytes())
            assert found.source == ("models:/gestures/1" if name.startswith("models:") else name)
            assert Path(str(found.place)).is_file()
        with pytest.raises(InputError, match="models:/gestures@other"):
            find("models:/gestures@other", tmp_path / "runs", **tracking)

    def test_a_damaged_one_is_named(self, own_model: Path, tmp_path: Path) -> None:
        broken = tmp_path / "broken"
        shutil.copytree(own_model, broken)
        (broken / "model.safetensors").write_bytes(b"123")
        with pytest.raises(InputError, match=r"broken/model.safetensors: cannot be read"):
            find(str(broken), tmp_path, Heads(("a", "b")))
        document = json.loads((broken / "model.json").read_text())
        (broken / "model.json").write_text(json.dumps({**document, "format": 99}))
        with pytest.raises(InputError, match=r"broken/model.json: .*99"):
            find(str(broken), tmp_path, Heads(("a", "b")))


PLAIN: dict[str, Any] = {"name": "tsn", "backbone": "resnet_small", "attention": None}


def planned(motion_manifest: Path, storage: Path, weights: object) -> Any:
    recipe = Recipe.model_validate(
        {
            "name": "x",
            "storage": str(storage),
            "data": {"manifest": str(motion_manifest), "num_frames": 4, "size": 32},
            "model": {**PLAIN, "weights": str(weights)},
            "stages": [{"name": "teacher"}],
        }
    )
    data = prepare_data(recipe)
    return plan_stages(recipe, data)[0], data


def save_weights(path: Path, seed: int, **changes: Any) -> Path:
    torch.manual_seed(seed)
    torch.save(build_model(**{**PLAIN, "num_classes": 8, **changes}).state_dict(), path)
    return path


class TestOfAStage:
    def test_identity_follows_the_content_not_the_path(
        self, motion_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first, data = planned(motion_manifest, tmp_path, save_weights(tmp_path / "a.pth", 0))
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "a.pth").rename(tmp_path / "elsewhere" / "b.pth")
        monkeypatch.chdir(tmp_path / "elsewhere")
        moved, _ = planned(motion_manifest, tmp_path, "b.pth")
        assert moved.identity == first.identity
        # A worker has a different current folder.
        assert moved.model_arguments(data)["weights"] == str(tmp_path / "elsewhere" / "b.pth")
        changed, _ = planned(motion_manifest, tmp_path, save_weights(tmp_path / "elsewhere" / "b.pth", 1))
        assert changed.identity != first.identity

    def test_a_file_on_the_web_is_the_same_stage(self, web: Web, motion_manifest: Path, tmp_path: Path) -> None:
        here, _ = planned(motion_manifest, tmp_path, save_weights(tmp_path / "a.pth", 0))
        web.files["/w.pth"] = (tmp_path / "a.pth").read_bytes()
        there, data = planned(motion_manifest, tmp_path, f"{web.address}/w.pth")
        assert there.identity == here.identity
        assert Path(there.model_arguments(data)["weights"]).parent == tmp_path / "weights"
        web.files["/other.pth"] = save_weights(tmp_path / "other.pth", 0, backbone="resnet18").read_bytes()
        with pytest.raises(InputError, match=rf"weights {web.address}/other.pth \(w3ray layout\) do not fit"):
            planned(motion_manifest, tmp_path, f"{web.address}/other.pth")

    def test_unusable_weights_are_refused_before_anything_starts(self, motion_manifest: Path, tmp_path: Path) -> None:
        storage = tmp_path / "runs"
        (tmp_path / "garbage.pth").write_bytes(b"garbage")
        other = save_weights(tmp_path / "other.pth", 0, backbone="resnet18")
        for weights, message in (
            (tmp_path / "absent.pth", "no such file"),
            (tmp_path / "garbage.pth", "not readable"),
            (other, "do not fit|shape"),
            ("ResNet999_Weights.DEFAULT", "no such enum"),
        ):
            with pytest.raises(InputError, match=message):
                planned(motion_manifest, storage, weights)
        assert not storage.exists()


class TestWhatAFileMayLack:
    """A file in our layout has all of a part, or nothing of it."""

    PARTS = ("attention", "refinement", "classifier")

    def state(self, tmp_path: Path, **changes: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        return build_model(**{**ARGUMENTS, **changes}).state_dict()

    def test_a_plain_network_is_a_start_for_one_with_attention(self, tmp_path: Path) -> None:
        state = self.state(tmp_path, attention=None)
        save_file(state, tmp_path / "plain.safetensors")
        model = build_model(**ARGUMENTS, weights=str(tmp_path / "plain.safetensors"))
        assert model.loaded_weights is not None
        fresh = set(model.loaded_weights.fresh)
        assert fresh == {name for name in model.state_dict() if ".attention." in name or name.startswith("refinement")}
        assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())

    @pytest.mark.parametrize("part", PARTS)
    def test_all_of_a_part(self, tmp_path: Path, part: str) -> None:
        state = {name: value for name, value in self.state(tmp_path).items() if part not in name.split(".")}
        save_file(state, tmp_path / "own.safetensors")
        loaded = build_model(**ARGUMENTS, weights=str(tmp_path / "own.safetensors")).loaded_weights
        assert loaded is not None
        assert loaded.fresh
        assert all(part in name.split(".") for name in loaded.fresh)

    @pytest.mark.parametrize("part", PARTS)
    def test_some_of_a_part(self, tmp_path: Path, part: str) -> None:
        state = self.state(tmp_path)
        lost = [name for name in state if part in name.split(".") and name.endswith("weight")][-1]
        del state[lost]
        save_file(state, tmp_path / "own.safetensors")
        with pytest.raises(InputError, match=rf"1 missing \({lost}\)"):
            build_model(**ARGUMENTS, weights=str(tmp_path / "own.safetensors"))
