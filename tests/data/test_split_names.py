"""A split has one name, whatever the spelling in data sets, lists and options."""

import json

import pytest
from videos import write_frames, write_video

from w3ray.cli import main
from w3ray.data.importers import import_csv, import_folder
from w3ray.data.manifest import build_manifest, read_manifest, write_manifest
from w3ray.data.split_names import split_among, split_name, split_names
from w3ray.errors import InputError

SPELLINGS = {
    "train": ["train", "Train", "TRAIN", "training", "Training"],
    "val": ["val", "Val", "valid", "Valid", "VALIDATION", "validate", "dev", "Dev"],
    "test": ["test", "TEST", "testing", "Testing", " Test "],
}


def manifest_of(*splits: str):
    count = len(splits)
    columns = {
        "clip_id": [str(row) for row in range(count)],
        "uri": [f"/{row}.mp4" for row in range(count)],
        "label": [0] * count,
        "split": list(splits),
        "group": [f"g{row}" for row in range(count)],
    }
    return build_manifest(columns, ["a"])


@pytest.mark.parametrize(("split", "name"), [(split, name) for split, names in SPELLINGS.items() for name in names])
def test_any_spelling(split, name):
    assert split_name(name) == split


def test_other_names_stay():
    assert [split_name(name) for name in ("test-s1", "Fold1", "trainval")] == ["test-s1", "Fold1", "trainval"]
    with pytest.raises(InputError, match="'Fold1' and 'fold1' both name the split"):
        split_names(["Fold1", "fold1"], "set")
    assert split_among("FOLD1", ["Fold1", "train"], "set") == "Fold1"
    assert split_among("fold2", ["Fold1"], "set") is None
    assert split_among("dev", ["val"], "set") is None  # a user names the split that exists


def tree(tmp_path, *folders):
    for number, folder in enumerate(folders):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / f"{number}.mp4").write_bytes(b"x")
    return tmp_path


def test_split_folders(tmp_path):
    root = tree(tmp_path, "Train/a", "Train/b", "Valid/a", "TEST/b")
    manifest = import_folder(root, split="folder")
    assert manifest.splits() == {"train": 2, "val": 1, "test": 1}
    assert manifest.classes == ("a", "b")
    noted = []
    assert import_folder(root, note=noted.append).fingerprint() == manifest.fingerprint()
    assert noted == ["splits: the folders TEST, Train, Valid; if they are classes, name all of them with --classes"]
    with pytest.raises(InputError, match=r"its folders are splits \(TEST, Train, Valid\); use the split 'folder'"):
        import_folder(root, split="random")
    noted.clear()
    assert import_folder(root, classes=["TEST", "Train", "Valid"], note=noted.append).classes == (
        "TEST",
        "Train",
        "Valid",
    )
    assert noted == []
    (root / "training" / "a").mkdir(parents=True)
    with pytest.raises(InputError, match="'Train' and 'training' both name the split 'train'") as caught:
        import_folder(root, split="folder")
    assert "\n" not in str(caught.value)


def test_a_class_may_be_called_like_a_split(tmp_path):
    assert import_folder(tree(tmp_path / "one", "Test", "run")).classes == ("Test", "run")
    root = tree(tmp_path / "two", "Train", "Test")
    with pytest.raises(InputError, match=r"its folders are splits .* name all classes"):
        import_folder(root)
    assert import_folder(root, classes=["Train", "Test"]).classes == ("Train", "Test")
    (root / "Train" / "folder").mkdir()  # videos beside a folder: not the form of splits
    with pytest.raises(InputError, match=r"its folders are splits .* name all classes"):
        import_folder(root)
    # Other folders may be next to the splits. They do not make the splits classes.
    with pytest.raises(InputError, match=r"its folders are splits \(Train, dev\)"):
        import_folder(tree(tmp_path / "three", "Train", "dev", "raw"))


def test_csv(tmp_path):
    source = tmp_path / "list.csv"
    source.write_text("path,label,split\n1.mp4,a,TRAIN\n2.mp4,a,TRAIN\n3.mp4,a,Dev\n4.mp4,a,Testing\n")
    assert import_csv(source, missing_ok=True).splits() == {"test": 1, "train": 2, "val": 1}
    source.write_text("path,label,split\n1.mp4,a,train\n2.mp4,a,Train\n")
    with pytest.raises(InputError, match=r"list\.csv: 'train' and 'Train' both name the split 'train'"):
        import_csv(source, missing_ok=True)
    told = []
    source.write_text("path,label,split\n1.mp4,a,train\n2.mp4,a,training\n")
    assert import_csv(source, missing_ok=True, note=told.append).splits() == {"train": 2}
    assert told[-1].endswith("splits: 'train' is train, 'training' is train")


def test_lists(tmp_path):
    root = tree(tmp_path / "set", "a", "b")
    (tmp_path / "1.txt").write_text("a/0.mp4 0\n")
    (tmp_path / "2.txt").write_text("b/1 77 1\n")  # with a number of frames, as in TSM's lists
    lists = {"TRAIN": tmp_path / "1.txt", "Valid": tmp_path / "2.txt"}
    assert import_folder(root, split="list", lists=lists).splits() == {"train": 1, "val": 1}
    with pytest.raises(InputError, match="'Train' and 'train' both name the split 'train'"):
        import_folder(root, split="list", lists={"Train": tmp_path / "1.txt", "train": tmp_path / "2.txt"})


def test_in_a_manifest(tmp_path):
    twice = manifest_of("train", "Train", "val")
    with pytest.raises(InputError, match="the split 'train' may be 'Train' or 'train'; give it one name"):
        twice.split_named("train")
    with pytest.raises(InputError, match="the split 'TRAIN' may be"):
        twice.split("TRAIN")
    both = manifest_of("dev", "Val")
    assert both.split_named("VAL") == "Val"
    assert both.split("val")["clip_id"].to_pylist() == ["1"]
    with pytest.raises(InputError, match=r"split 'test' is empty; it has Train \(1\), dev \(1\)"):
        manifest_of("Train", "dev").split("test")
    dealt = manifest_of("Train", "Train", "VAL", "Test").with_fold(0, 3)
    assert dealt.splits() == {"Test": 1, "train": 2, "val": 1}


def test_commands(tmp_path, capfd):
    for number, split in enumerate(["Train", "Train", "VAL"]):
        write_video(tmp_path / "set" / split / "wave" / f"{number}.mp4", 8)
        write_frames(tmp_path / "set" / split / "point" / str(number), 8)
    out = str(tmp_path / "m.parquet")
    assert main(["data", "import", "folder", str(tmp_path / "set"), "--split", "folder", "-o", out]) == 0
    assert read_manifest(out).splits() == {"train": 4, "val": 2}
    picture = str(tmp_path / "sheet.png")
    assert main(["data", "show", out, "-o", picture, "--split", "VAL", "--set", "data.size=32"]) == 0
    assert "2 clips of val" in capfd.readouterr().out
    foreign = manifest_of("Train", "Val")
    write_manifest(foreign, tmp_path / "foreign.parquet")
    words = ["--set", "data.synthetic=null", "--set", f"data.manifest={tmp_path}/foreign.parquet", "--json"]
    main(["lint", "quickstart", *words])
    found = json.loads(capfd.readouterr().out)["findings"]
    assert "data.test_split" in {one["field"] for one in found}  # there is no test split
    assert not {"data.train_split", "data.val_split"} & {one["field"] for one in found}
