"""No file that w3ray reads can run code or reach other places. Payloads would leave a mark if they ran."""

import ast
import hashlib
import json
import os
import pickle
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from w3ray.cli import main
from w3ray.data.manifest import read_manifest
from w3ray.errors import InputError
from w3ray.models import build_model
from w3ray.models.bundle import ModelDescription, load_model, write_model
from w3ray.models.weights import load_weights
from w3ray.pipeline.stage_store import StageStore
from w3ray.recipe import load_recipe
from w3ray.tracking.journal import Journal
from w3ray.training.checkpoint import load_checkpoint, save_checkpoint
from w3ray.training.checkpoint_files import CheckpointError, newest_valid_checkpoint, verify_checkpoint

PACKAGE = Path(__file__).resolve().parent.parent / "w3ray"
SMALL = {"name": "tsm", "backbone": "resnet_small", "num_classes": 4, "attention": None}


class Payload:
    """It makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The mark that must not appear. The payload is tried once, to prove that it works."""
    path = tmp_path / "mark"
    pickle.loads(pickle.dumps(Payload(path)))
    path.rmdir()
    return path


def one_line(error: BaseException) -> None:
    assert len(str(error).splitlines()) == 1


@cache
def trees() -> list[tuple[str, ast.AST]]:
    return [(str(path.relative_to(PACKAGE)), ast.parse(path.read_text())) for path in sorted(PACKAGE.rglob("*.py"))]


@cache
def calls() -> list[tuple[str, str, ast.Call]]:
    """File, dotted name and node of each call by name in the package."""
    found = []
    for file, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                parts, place = [], node.func
                while isinstance(place, ast.Attribute):
                    parts, place = [place.attr, *parts], place.value
                if isinstance(place, ast.Name):
                    found.append((file, ".".join([place.id, *parts]), node))
    return found


class TestRules:
    FORBIDDEN = frozenset(
        {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load", "yaml.unsafe_load",
         "yaml.full_load", "torch.load", "np.load", "numpy.load", "dist.all_gather_object"}
    )  # fmt: skip
    # File -> the calls that it may make. The reason is beside each call there.
    ALLOWED: ClassVar = {
        "data/bank.py": {"np.load"},  # allow_pickle=False, see below
        "data/find_boxes.py": {"torch.load"},  # weights_only=True, see below
        "models/weights.py": {"torch.load"},  # weights_only=True, see below
        "recipe/load.py": {"yaml.load"},  # a SafeLoader, see below
        "runtime/ranks.py": {"dist.all_gather_object"},  # among the workers of one run, not from storage
    }
    MODULES = frozenset({"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"})

    def test_no_call_that_runs_what_it_reads(self) -> None:
        found = {(file, name) for file, name, _ in calls() if name in self.FORBIDDEN}
        assert found == {(file, name) for file, names in self.ALLOWED.items() for name in names}

    def test_no_module_that_unpickles(self) -> None:
        for file, tree in trees():
            for node in ast.walk(tree):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                parts = {part for name in names for part in name.split(".")}
                assert not parts & self.MODULES, f"{file}: {names}"

    def test_what_is_allowed_is_restricted(self) -> None:
        for file, name, node in calls():
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if name == "torch.load":
                assert options["weights_only"] == "True", file
            if name == "yaml.load":
                assert options["Loader"] == "_Loader", file
            if name == "np.load":
                assert options["allow_pickle"] == "False", file
            assert options.get("shell", "False") == "False", file
            assert options.get("allow_pickle", "False") == "False", file
        from w3ray.recipe.load import _Loader

        assert issubclass(_Loader, yaml.SafeLoader)


class TestWeights:
    @pytest.mark.parametrize("name", ["w.pth", "w.pth.tar", "w.safetensors"])
    def test_pickles(self, tmp_path: Path, mark: Path, name: str) -> None:
        path = tmp_path / name
        for write in (torch.save, lambda value, to: to.write_bytes(pickle.dumps(value))):
            write({"state_dict": {"layer1.0.conv1.weight": Payload(mark)}}, path)
            with pytest.raises(InputError, match=r"not (a )?read") as caught:
                load_weights(build_model(**SMALL), str(path))
            one_line(caught.value)
        assert not mark.exists()


class TestModelFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        description = ModelDescription(
            model=SMALL, clip={"num_frames": 2, "size": 32}, classes=("a", "b", "c", "d"), mean=(0, 0, 0), std=(1, 1, 1)
        )
        write_model(tmp_path / "model", build_model(**SMALL), description)
        return tmp_path / "model"

    def test_pickled_weights(self, folder: Path, mark: Path) -> None:
        (folder / "model.safetensors").write_bytes(pickle.dumps(Payload(mark)))
        with pytest.raises(InputError, match="cannot be read") as caught:
            load_model(folder)
        one_line(caught.value)
        assert not mark.exists()

    def test_pickled_description(self, folder: Path, mark: Path) -> None:
        for content in (pickle.dumps(Payload(mark)), b"[" * 100_000, b"[]", b'{"format": 1}'):
            (folder / "model.json").write_bytes(content)
            with pytest.raises(InputError, match="not a description of a model") as caught:
                load_model(folder)
            one_line(caught.value)
        assert not mark.exists()

    def test_a_description_that_names_other_weights_is_not_followed(self, folder: Path, tmp_path: Path) -> None:
        document = json.loads((folder / "model.json").read_text())
        document["model"]["weights"] = str(tmp_path / "absent.pth")
        (folder / "model.json").write_text(json.dumps(document))
        load_model(folder)

    @pytest.mark.parametrize("change", [{"name": "os.system"}, {"backbone": "../x"}, {"attention": {"kind": "exec"}}])
    def test_names_are_looked_up_only(self, folder: Path, change: dict[str, Any]) -> None:
        document = json.loads((folder / "model.json").read_text())
        document["model"] |= change
        (folder / "model.json").write_text(json.dumps(document))
        with pytest.raises(InputError) as caught:
            load_model(folder)
        one_line(caught.value)

    def test_a_logged_model_needs_no_unpickling(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import mlflow

        from w3ray.tracking import logged_models

        monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        data = {"example": "clip.mp4", "classes": ["a"], "name": "teacher"}
        logged_models._save(tmp_path / "logged", folder, "r", "m", data)
        names = {path.name for path in (tmp_path / "logged").rglob("*")}
        assert "video_model.py" in names
        assert not {name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".bin"))}
        mlflow.pyfunc.load_model(str(tmp_path / "logged"))


class TestCheckpoint:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return save_checkpoint(
            tmp_path / "checkpoints" / "step_00000003", model=torch.nn.Linear(2, 2), meta={"step": 3, "metrics": None}
        )

    @staticmethod
    def seal(folder: Path, change: Any) -> None:
        """Rewrite the index with a correct checksum, as an attacker would."""
        text = (folder / "checkpoint.json").read_text().rstrip("\n").rsplit("\n", 1)[0]
        index = json.loads(text)
        text = json.dumps(change(index))
        (folder / "checkpoint.json").write_text(f"{text}\n{hashlib.sha256(text.encode()).hexdigest()}\n")

    @pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
    def test_pickled_tensors(self, folder: Path, mark: Path, name: str) -> None:
        content = pickle.dumps(Payload(mark))
        (folder / name).write_bytes(content)
        entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        self.seal(folder, lambda index: {**index, "files": {**index["files"], name: entry}})
        model = torch.nn.Linear(2, 2)
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(folder, model=model, optimizer=torch.optim.SGD(model.parameters(), lr=1.0))
        one_line(caught.value)
        assert not mark.exists()

    def test_pickled_index(self, folder: Path, mark: Path) -> None:
        (folder / "checkpoint.json").write_bytes(pickle.dumps(Payload(mark)))
        with pytest.raises(CheckpointError) as caught:
            verify_checkpoint(folder)
        one_line(caught.value)
        assert not mark.exists()

    @pytest.mark.parametrize(
        "change",
        [
            lambda index: {**index, "files": {**index["files"], "../../secret": {"bytes": 6, "sha256": "x"}}},
            lambda index: {**index, "files": {"/etc/passwd": {"bytes": 6, "sha256": "x"}}},
            lambda index: {**index, "files": dict.fromkeys(index["files"])},
            lambda index: {**index, "meta": None},
            lambda index: [],
            lambda index: {"format_version": 1},
        ],
    )
    def test_an_index_that_names_other_files(self, folder: Path, change: Any) -> None:
        self.seal(folder, change)
        with pytest.raises(CheckpointError, match="not the index of a checkpoint") as caught:
            verify_checkpoint(folder)
        one_line(caught.value)
        assert newest_valid_checkpoint(folder.parent) is None

    def test_a_folder_of_unpickled_things_in_the_step_before_is_passed_over(self, folder: Path, mark: Path) -> None:
        bad = folder.with_name("step_00000009")
        bad.mkdir()
        for name in ("model.safetensors", "checkpoint.json", ".metadata.json", "dict_checkpoint.pkl"):
            (bad / name).write_bytes(pickle.dumps(Payload(mark)))
        assert newest_valid_checkpoint(folder.parent) == folder
        assert not mark.exists()

    @pytest.mark.parametrize(
        "content",
        [
            json.dumps({"checkpoint_results": [{"checkpoint_dir_name": "../precious", "metrics": {}}]}),
            json.dumps({"checkpoint_results": [{"checkpoint_dir_name": "step_00000004", "metrics": {}}]}),
            json.dumps({"checkpoint_results": "x"}),
            "[" * 100_000,
            "",
        ],
    )
    def test_ray_trains_own_list_can_not_name_other_folders(self, folder: Path, content: str) -> None:
        """Ray Train deletes the folders on this list when newer checkpoints come."""
        from w3ray.runtime.cluster_stage import _forget_missing_checkpoints

        precious = folder.parent.parent / "precious"
        precious.mkdir()
        (folder.parent / "step_00000004").symlink_to(precious)
        snapshot = folder.parent / "checkpoint_manager_snapshot.json"
        snapshot.write_text(content)
        _forget_missing_checkpoints(folder.parent)
        assert not snapshot.exists()
        good = json.dumps({"checkpoint_results": [{"checkpoint_dir_name": folder.name, "metrics": {}}]})
        snapshot.write_text(good)
        _forget_missing_checkpoints(folder.parent)
        assert snapshot.read_text() == good


class TestStageFolder:
    def stage(self, tmp_path: Path) -> tuple[StageStore, dict[str, Any]]:
        determinants = {"train": {"epochs": 1}}
        stage = StageStore(tmp_path, "teacher", "0" * 64)
        stage.create(determinants)
        stage.model.mkdir()
        return stage, determinants

    @pytest.mark.parametrize(
        "change",
        [
            {"checkpoint": "/etc/passwd"},
            {"checkpoint": "{stage}/checkpoints/../../../x"},
            {"checkpoint": "/elsewhere/checkpoints/step_00000003"},
            {"metrics": "x"},
            None,
            "pickle",
        ],
    )
    def test_a_result_that_points_elsewhere(self, tmp_path: Path, mark: Path, change: Any) -> None:
        stage, determinants = self.stage(tmp_path)
        good = {
            "metrics": {}, "validation": {}, "checkpoint": f"{stage.directory}/checkpoints/step_00000003",
            "tracking_run": None, "logged_model": None,
        }  # fmt: skip
        stage.finish(good)
        assert stage.status(determinants).state == "reuse"
        path = stage.directory / "result.json"
        if change == "pickle":
            path.write_bytes(pickle.dumps(Payload(mark), protocol=0))
        elif change is None:
            path.write_text("[" * 100_000)
        else:
            changed = {name: value.replace("{stage}", str(stage.directory)) for name, value in change.items()}
            path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
        with pytest.raises(InputError, match="damaged") as caught:
            stage.status(determinants)
        one_line(caught.value)
        assert not mark.exists()

    def test_a_neighbours_description(self, tmp_path: Path, mark: Path) -> None:
        stage, _ = self.stage(tmp_path)
        other = StageStore(tmp_path, "teacher", "1" * 64)
        for content in (pickle.dumps(Payload(mark), protocol=0), b"[]", b"[" * 100_000, b'{"determinants": 3}'):
            (stage.directory / "stage.json").write_bytes(content)
            assert other.status({}).why == "new"
        assert not mark.exists()

    @pytest.mark.parametrize("name", ["../../x", "..", "/etc", "step_1/../..", "model"])
    def test_a_checkpoints_name(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(CheckpointError, match="gone"):
            self.stage(tmp_path)[0].checkpoint(name)


class TestManifest:
    COLUMNS: ClassVar = {"clip_id": ["a"], "uri": ["a.mp4"], "label": pa.array([0], pa.int32()), "split": ["train"]}
    METADATA: ClassVar = {"w3ray.version": "1", "w3ray.classes": '["x"]', "w3ray.flip_map": "{}"}

    def write(self, path: Path, table: pa.Table, metadata: dict[str, Any]) -> None:
        pq.write_table(table.replace_schema_metadata(metadata), path)

    def test_pickled_extension_type(self, tmp_path: Path, mark: Path) -> None:
        """Older versions of Arrow unpickled the metadata of a column to rebuild its type."""
        for name in ("arrow.py_extension_type", "pandas"):
            field = pa.field(
                "clip_id", pa.string(),
                metadata={"ARROW:extension:name": name, "ARROW:extension:metadata": pickle.dumps(Payload(mark))},
            )  # fmt: skip
            schema = pa.schema([field, *pa.table(self.COLUMNS).schema.remove(0)])
            table = pa.table(list(pa.table(self.COLUMNS).columns), schema=schema)
            self.write(tmp_path / "m.parquet", table, self.METADATA)
            assert read_manifest(tmp_path / "m.parquet").table.num_rows == 1
        assert not mark.exists()

    @pytest.mark.parametrize(
        "content", [b"[" * 100_000, b"\x80\x04.", b'"x"', b"[1]", b"[null]", b'{"a": 1}', b'["' + b"x" * 10_000_000]
    )
    @pytest.mark.parametrize("name", ["w3ray.version", "w3ray.classes", "w3ray.flip_map"])
    def test_odd_metadata(self, tmp_path: Path, content: bytes, name: str) -> None:
        self.write(tmp_path / "m.parquet", pa.table(self.COLUMNS), {**self.METADATA, name: content})
        with pytest.raises(InputError) as caught:
            read_manifest(tmp_path / "m.parquet")
        one_line(caught.value)
        assert len(str(caught.value)) < 1000

    def test_a_pickle(self, tmp_path: Path, mark: Path) -> None:
        (tmp_path / "m.parquet").write_bytes(pickle.dumps(Payload(mark)))
        with pytest.raises(InputError, match="not a readable Parquet file"):
            read_manifest(tmp_path / "m.parquet")
        assert not mark.exists()


class TestRecipe:
    def refused(self, path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> str:
        path.write_text(text)
        assert main(["run", str(path), "--dry-run"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    def test_tags(self, tmp_path: Path, mark: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for text in (
            f"name: !!python/object/apply:os.mkdir [{mark}]",
            f"name: !!python/object/new:os.mkdir [{mark}]",
            "name: !!python/name:os.system",
            "name: !!python/module:os",
        ):
            assert "not valid YAML" in self.refused(tmp_path / "r.yaml", text, capsys)
            assert main(["run", "quickstart", "--dry-run", "--set", text.replace(": ", "=", 1)]) == 2
            assert "not valid YAML" in capsys.readouterr().err
        assert not mark.exists()

    def test_a_bomb(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
        assert "line 2: the alias *a0 is not supported" in self.refused(tmp_path / "r.yaml", "\n".join(lines), capsys)

    def test_depth(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "nested too deeply" in self.refused(tmp_path / "r.yaml", "a: " + "[" * 20_000 + "]" * 20_000, capsys)

    @pytest.mark.parametrize("name", ["../x", "..", "a/b", "a\\b", "/etc", "a\n", "", "~", ".hidden"])
    def test_names_are_no_paths(self, name: str) -> None:
        for change in ({"name": name}, {"stages": [{"name": name}]}):
            values = load_recipe("quickstart").to_dict() | change
            with pytest.raises(ValueError, match="name"):
                type(load_recipe("quickstart")).model_validate(values)

    @pytest.mark.parametrize("experiment", ["..", ".", "../../x", "a/../b"])
    def test_an_experiments_files_stay_below_their_folder(self, experiment: str) -> None:
        from w3ray.tracking.store import _file_name

        name = _file_name(experiment)
        assert "/" not in name
        assert name.strip(".")


class TestJournal:
    URI = "sqlite:////x.db"

    def adopted(self, storage: Path, *operations: tuple[str, dict[str, Any]]) -> list[str]:
        dead = Journal(storage / "tracking", self.URI)
        for kind, data in operations:
            dead.append(kind, "r", data)
        dead.close(keep=True)
        return [found.kind for found in Journal(storage / "tracking", self.URI).adopt(self.URI)[0]]

    def test_files_of_others_are_neither_sent_nor_removed(self, tmp_path: Path) -> None:
        storage = tmp_path / "runs"
        mine = storage / "tracking" / "files" / "0" / "a.txt"
        mine.parent.mkdir(parents=True)
        mine.touch()
        (storage / "stages" / "s" / "model").mkdir(parents=True)
        link = mine.with_name("link")
        link.symlink_to("/etc/passwd")
        bad = [
            ("artifact", {"path": path, "folder": ""})
            for path in ("/etc/passwd", str(mine.parent / ".." / ".." / "journal"), str(link), None)
        ]
        bad += [("model", {"folder": folder}) for folder in ("/etc", str(storage / ".." / "x"), None)]
        good = [("artifact", {"path": str(mine), "folder": ""}), ("model", {"folder": f"{storage}/stages/s/model"})]
        assert self.adopted(storage, *bad) == []
        assert self.adopted(storage, *good) == ["artifact", "model"]

    @pytest.mark.parametrize("line", ["[]", "3", "{}", '{"number": 1}', "[" * 100_000, "junk"])
    def test_a_journal_that_no_driver_wrote_is_left_where_it_is(self, tmp_path: Path, line: str) -> None:
        journal = Journal(tmp_path, self.URI)
        odd = tmp_path / "journal-odd.jsonl"
        odd.write_text(json.dumps({"format": 1, "uri": self.URI}) + f"\n{line}\n")
        assert journal.adopt(self.URI)[0] == []
        assert odd.exists()
