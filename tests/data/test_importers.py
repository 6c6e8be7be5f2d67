"""Importers find every clip, assign it to the right split, and refuse what they do not understand."""

import csv
from pathlib import Path

import pytest
from videos import write_video

from w3ray.data.decoders import open_video
from w3ray.data.importers import IMPORTERS, Columns, Dealing, import_csv, import_folder, reversed_twin
from w3ray.data.manifest import read_manifest, write_manifest
from w3ray.errors import InputError


def touch(root: Path, *paths: str) -> Path:
    """Empty files: importers read only names, and leave the content to the audit."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"x")
    return root


def splits_of(manifest) -> dict[str, str]:
    return {row["clip_id"]: row["split"] for row in manifest.table.to_pylist()}


@pytest.fixture
def classes_tree(tmp_path):
    names = [f"{label}/s{subject}_{take}.avi" for label in ("run", "jump") for subject in range(5) for take in range(4)]
    return touch(tmp_path / "set", *names)


def test_class_folders(tmp_path):
    root = touch(
        tmp_path / "set",
        "wave left/a.MP4",
        "wave left/day 2/b.webm",
        "zoom/ü.mkv",
        "zoom/-dash.avi",
        "zoom/notes.txt",
        "zoom/.hidden.mp4",
        ".cache/x/y.mp4",
        "list.csv",
    )
    manifest = import_folder(root, flip_map="identity")
    rows = {row["clip_id"]: row for row in manifest.table.to_pylist()}
    assert manifest.classes == ("wave left", "zoom")
    assert {clip: row["label"] for clip, row in rows.items()} == {
        "wave left/a.MP4": 0,
        "wave left/day 2/b.webm": 0,
        "zoom/ü.mkv": 1,
        "zoom/-dash.avi": 1,
    }
    assert all(Path(row["uri"]) == root / clip for clip, row in rows.items())
    assert manifest.flip_map == {0: 0, 1: 1}


def test_split_folders(tmp_path):
    root = touch(tmp_path, "training/a/1.mp4", "training/b/1.mp4", "validation/a/2.mp4", "test/b/2.mp4")
    manifest = import_folder(root, split="folder")
    assert splits_of(manifest) == {
        "training/a/1.mp4": "train",
        "training/b/1.mp4": "train",
        "validation/a/2.mp4": "val",
        "test/b/2.mp4": "test",
    }
    assert manifest.classes == ("a", "b")
    assert splits_of(import_folder(root)) == splits_of(manifest)
    # As class folders they would make a data set with the classes "training" and "validation".
    with pytest.raises(InputError, match=r"its folders are splits .* use the split 'folder'"):
        import_folder(root, split="random")


def test_list_files(classes_tree, tmp_path):
    train, val = tmp_path / "train.txt", tmp_path / "val.txt"
    # The common forms: path; path and label; path without extension; commas.
    train.write_text("run/s0_0.avi\nrun/s0_1.avi 1\n\njump/s1_0\n")
    val.write_text("jump/s4_0.avi,2\n")
    manifest = import_folder(classes_tree, split="list", lists={"train": train, "validation": val})
    assert splits_of(manifest) == {
        "run/s0_0.avi": "train",
        "run/s0_1.avi": "train",
        "jump/s1_0.avi": "train",
        "jump/s4_0.avi": "val",
    }
    val.write_text("run/s0_0.avi\n")
    with pytest.raises(InputError, match=r"val\.txt:1: 'run/s0_0\.avi' is already in split 'train'"):
        import_folder(classes_tree, split="list", lists={"train": train, "val": val})
    val.write_text("\nrun/s9_9.avi 1\n")
    with pytest.raises(InputError, match=r"val\.txt:2: 'run/s9_9\.avi 1' names no clip"):
        import_folder(classes_tree, split="list", lists={"train": train, "val": val})
    val.write_text("jump/s4_0\n\njump/s4_0.avi 1\n")
    with pytest.raises(InputError, match=r"val\.txt:3: 'jump/s4_0\.avi' is listed twice, first in .*val\.txt:1"):
        import_folder(classes_tree, split="list", lists={"train": train, "val": val})
    val.write_bytes(b"jump/s4_0\n\xff\n")
    with pytest.raises(InputError, match=r"val\.txt:2: the list of split 'val' cannot be read: not UTF-8 text"):
        import_folder(classes_tree, split="list", lists={"train": train, "val": val})
    with pytest.raises(InputError, match="needs list files"):
        import_folder(classes_tree, split="list")
    with pytest.raises(InputError, match="cannot be read"):
        import_folder(classes_tree, split="list", lists={"train": tmp_path / "none.txt"})
    touch(classes_tree, "run/s0_0.mp4")
    train.write_text("run/s0_0\n")
    with pytest.raises(InputError, match="'run/s0_0' fits two clips"):
        import_folder(classes_tree, split="list", lists={"train": train})


def test_named_groups_are_held_out(classes_tree):
    dealing = Dealing(val_groups=["s1"], test_groups=["s3", "s4"])
    manifest = import_folder(classes_tree, split="group", group=r"/(s\d)_", dealing=dealing)
    expected = {"s0": "train", "s1": "val", "s2": "train", "s3": "test", "s4": "test"}
    rows = manifest.table.to_pylist()
    assert len(rows) == 40
    assert all(row["split"] == expected[row["group"]] for row in rows)


@pytest.mark.parametrize("seed", range(4))
def test_drawn_groups_stay_whole_and_reach_the_share(classes_tree, seed):
    dealing = Dealing(val_share=0.2, test_share=0.2, seed=seed)
    manifest = import_folder(classes_tree, split="group", group=r"/(s\d)_", dealing=dealing)
    by_split: dict[str, set[str]] = {}
    for row in manifest.table.to_pylist():
        by_split.setdefault(row["split"], set()).add(row["group"])
    assert {split: len(groups) for split, groups in by_split.items()} == {"train": 3, "val": 1, "test": 1}
    again = import_folder(classes_tree, split="group", group=r"/(s\d)_", dealing=dealing)
    assert again == manifest


def test_random_share_is_the_same_for_each_class(classes_tree):
    manifest = import_folder(classes_tree, dealing=Dealing(val_share=0.25, test_share=0.1, seed=1))
    counts: dict[tuple[int, str], int] = {}
    for row in manifest.table.to_pylist():
        counts[row["label"], row["split"]] = counts.get((row["label"], row["split"]), 0) + 1
    assert counts == {(label, split): n for label in (0, 1) for split, n in (("train", 13), ("val", 5), ("test", 2))}
    assert import_folder(classes_tree, dealing=Dealing(val_share=0.25, test_share=0.1, seed=1)) == manifest
    assert import_folder(classes_tree, dealing=Dealing(val_share=0.25, test_share=0.1, seed=2)) != manifest


def test_a_class_of_one_clip_is_trained_on(tmp_path):
    manifest = import_folder(touch(tmp_path, "a/1.mp4", "b/1.mp4"), dealing=Dealing(val_share=0.9))
    assert set(splits_of(manifest).values()) == {"train"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group": "("}, "no regular expression"),
        ({"group": r"/(s)(\d)_"}, "must have one capture"),
        ({"group": r"/(x\d)_"}, r"does not match 'jump/s0_0\.avi'"),
        ({"split": "group"}, "has no group"),
        ({"split": "group", "group": r"/(s\d)", "dealing": Dealing(val_groups=["s9"])}, "no group 's9'; known: s0, s1"),
        (
            {"split": "group", "group": r"/(s\d)", "dealing": Dealing(val_groups=["s1"], test_groups=["s1"])},
            "'s1' is named for two splits",
        ),
        (
            {"split": "group", "group": r"/(s\d)", "dealing": Dealing(val_groups=["s0", "s1", "s2", "s3", "s4"])},
            "nothing is left to train on",
        ),
        ({"classes": ["run", "walk"]}, "'jump' is none of the classes run, walk"),
        ({"flip_map": {"run": "walk"}}, "no class 'walk'; known: jump, run"),
        ({"flip_map": {"run": "jump", "jump": "jump"}}, "has two mirror images"),
    ],
)
def test_folder_options_that_can_not_be(classes_tree, options, message):
    with pytest.raises(InputError, match=message):
        import_folder(classes_tree, **options)


@pytest.mark.parametrize(("val_share", "test_share"), [(-0.1, 0), (0.5, 0.5), (0, 1.2)])
def test_shares_that_leave_nothing(val_share, test_share):
    with pytest.raises(InputError, match="share"):
        Dealing(val_share=val_share, test_share=test_share)


def test_folders_without_videos(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        import_folder(tmp_path / "none")
    with pytest.raises(InputError, match="holds no class folders"):
        import_folder(touch(tmp_path / "flat", "a.mp4"))
    with pytest.raises(InputError, match=r"empty/b: no video in this class folder \(known: .*\.mp4"):
        import_folder(touch(tmp_path / "empty", "a/1.mp4", "b/readme.txt"))


def test_classes_give_the_label_order(classes_tree):
    manifest = import_folder(classes_tree, classes=["run", "walk", "jump"], flip_map={"run": "jump"})
    assert manifest.classes == ("run", "walk", "jump")
    assert {row["clip_id"].split("/")[0]: row["label"] for row in manifest.table.to_pylist()} == {"run": 0, "jump": 2}
    assert manifest.flip_map == {0: 2, 2: 0}


def write_csv(root: Path, text: str) -> Path:
    touch(root, "a/1.mp4", "a/2.mp4", "b/3.mp4")
    (root / "list.csv").write_text(text, encoding="utf-8")
    return root / "list.csv"


def test_csv_with_names(tmp_path):
    source = write_csv(
        tmp_path,
        "\ufeffpath,label,split,group,start,end,note\n"
        'a/1.mp4,open,train,p1,0,1.5,"said, twice"\na/1.mp4,close,training,p1,1.5,,\nb/3.mp4,open,valid,p2,,,\n',
    )
    manifest = import_csv(source)
    assert manifest.classes == ("close", "open")
    assert [tuple(row.values()) for row in manifest.table.to_pylist()] == [
        ("a/1.mp4@0-1.5", f"{tmp_path}/a/1.mp4", 0.0, 1.5, False, 1, "train", "p1"),
        ("a/1.mp4@1.5-", f"{tmp_path}/a/1.mp4", 1.5, None, False, 0, "train", "p1"),
        ("b/3.mp4", f"{tmp_path}/b/3.mp4", None, None, False, 1, "val", "p2"),
    ]


def test_csv_with_numbers(tmp_path):
    source = write_csv(tmp_path, "path,label,split\na/1.mp4,0,train\na/2.mp4,2,train\nb/3.mp4,0,val\n")
    assert import_csv(source).classes == ("0", "1", "2")
    named = import_csv(source, classes=["stop", "go", "turn"])
    assert named.classes == ("stop", "go", "turn")
    assert named.table["label"].to_pylist() == [0, 2, 0]
    with pytest.raises(InputError, match="label 2 is out of range for 2 classes"):
        import_csv(source, classes=["stop", "go"])
    source.write_text("path,label\na/1.mp4,70000\na/2.mp4,1\n")
    with pytest.raises(InputError, match="label 70000 with 2 clips: are these labels"):
        import_csv(source)


def test_csv_with_several_labels(tmp_path):
    text = "path,verb,noun,split\na.mp4,take,cup,train\nb.mp4,put,cup,train\nc.mp4,take,pan,val\nd.mp4,take,cup,val\n"
    table = write_csv(tmp_path, text)
    manifest = import_csv(table, columns=Columns(label="verb+noun"), flip_map="identity", missing_ok=True)
    assert manifest.classes == ("put", "take", "cup", "pan")
    assert manifest.head_sizes == (("verb", 2), ("noun", 2))
    labels = manifest.table["label"].to_pylist()
    assert [manifest.heads.class_name(label) for label in labels] == ["take cup", "put cup", "take pan", "take cup"]
    assert manifest.flip_map == {label: label for label in range(4)}
    dealt = import_csv(table, columns=Columns(label="verb+noun"), split="random", missing_ok=True)
    assert dealt.table["label"].to_pylist() == labels


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("path,verb,noun\na.mp4,take,cup\nb.mp4,take,\n", {}, r"list\.csv:3: 'noun' is empty"),
        ("path,verb\na.mp4,take\n", {}, "no column 'noun'"),
        ("path,verb,noun\na.mp4,take,cup\n", {"classes": ["take", "cup"]}, "class names are taken from the columns"),
        ("path,verb,noun\na.mp4,take,cup\n", {"flip_map": {"take": "cup"}}, "must be 'identity'"),
    ],
)
def test_csv_whose_several_labels_do_not_fit(tmp_path, text, options, message):
    table = write_csv(tmp_path, text)
    with pytest.raises(InputError, match=message):
        import_csv(table, columns=Columns(label="verb+noun"), missing_ok=True, **options)


def test_csv_without_splits_is_dealt(tmp_path):
    source = write_csv(tmp_path, "path,label,group\na/1.mp4,x,g1\na/2.mp4,x,g2\nb/3.mp4,x,g2\n")
    assert splits_of(import_csv(source, split="group", dealing=Dealing(val_groups=["g2"]))) == {
        "a/1.mp4": "train",
        "a/2.mp4": "val",
        "b/3.mp4": "val",
    }
    assert sorted(splits_of(import_csv(source, dealing=Dealing(val_share=0.34))).values()) == ["train", "train", "val"]


def test_csv_with_other_columns_root_and_delimiter(tmp_path):
    touch(tmp_path / "videos", "one.mp4")
    (tmp_path / "lists").mkdir()
    source = tmp_path / "lists" / "set.csv"
    source.write_text(f"video;class;fold\none.mp4;x;train\n{tmp_path}/videos/one.mp4;y;val\n")
    manifest = import_csv(
        source,
        root=str(tmp_path / "videos"),
        columns=Columns(path="video", label="class", split="fold"),
        delimiter=";",
    )
    assert manifest.resolved_uris() == [f"{tmp_path}/videos/one.mp4"] * 2
    assert set(splits_of(manifest).values()) == {"train", "val"}


def test_csv_at_an_address(tmp_path):
    source = write_csv(tmp_path, "path,label\nfar/1.mp4,x\ns3://other/2.mp4,x\n")
    manifest = import_csv(source, root="s3://bucket/clips", missing_ok=True)
    assert manifest.resolved_uris() == ["s3://bucket/clips/far/1.mp4", "s3://other/2.mp4"]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("file,label\na/1.mp4,x\n", {}, r"list\.csv: no column 'path'; it has file, label"),
        ("path,label\n", {}, "no rows below its header"),
        ("", {}, "no rows below its header"),
        ("path,label\na/1.mp4\n", {}, r"list\.csv:2: not 2 values"),
        ("path,label\na/1.mp4,x,y\n", {}, r"list\.csv:2: not 2 values"),
        ("path,label\na/1.mp4,\n", {}, r"list\.csv:2: 'label' is empty"),
        ("path,label,split\na/1.mp4,x,\n", {}, r"list\.csv:2: 'split' is empty"),
        ("path,label\na/1.mp4,x\nc/4.mp4,x\n", {}, r"list\.csv:3: no file .*/c/4\.mp4 \(1 of 2 are missing\)"),
        ("path,label,start\na/1.mp4,x,0:12\n", {}, r"list\.csv:2: 'start' must be seconds, not '0:12'"),
        ("path,label,start,end\na/1.mp4,x,2,1\n", {}, r"runs from 2\.0 to 1\.0 s"),
        ("path,label\na/1.mp4,x\na/1.mp4,y\n", {}, r"clip_id 'a/1\.mp4' occurs 2 times"),
        ("path,label\na/1.mp4,x\n", {"split": "column"}, "no column 'split'"),
        ("path,label\na/1.mp4,x\n", {"delimiter": "::"}, "must be one character"),
        ("path,label\na/1.mp4,x\n", {"classes": ["y"]}, "label 'x' is not one of the classes y"),
    ],
)
def test_csv_that_can_not_be_read(tmp_path, text, options, message):
    with pytest.raises(InputError, match=message) as caught:
        import_csv(write_csv(tmp_path, text), **options)
    assert "\n" not in str(caught.value)


# Results of the importer that made one object per row (commit 7e7f7ad). These assignments must never change.
OLD_FINGERPRINTS = {
    "random": "6ba61263907f80b48dc4516a123e05ecdfac0c6b411188301b0fd12eed876737",
    "default": "95e0729c86b7ca9cc8ab071e39415f629f611f0eaf6363b03f8bf0d7425ae998",
    "group": "65f4f64bc7b78769ede568588c15d0c2f5b0a3603350838b0dab56e15e920977",
    "pattern": "b7b432753767051fce0ff81938a87e83091e45748b03a2470af9d1ded89aa63e",
    "numbers": "e59381046e3028fff4f01717c1ce512508709127cd8c7c60ba8e90f92e104c26",
    "remote": "1efdb856b05379461f9299b6fd55aa35334a87b635fc40536f8cdb2e93660c15",
}


@pytest.mark.parametrize("rows_at_once", [7, 50_000])
@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("random", {"dealing": Dealing(val_share=0.25, test_share=0.1, seed=3)}),
        ("default", {}),
        ("group", {"split": "group", "dealing": Dealing(test_share=0.15, seed=7)}),
        (
            "pattern",
            {
                "split": "group",
                "group": r"(\d)\.mp4",
                "dealing": Dealing(val_groups=["3"], test_groups=["0", "7"]),
            },
        ),
        ("numbers", {"columns": Columns(label="number", split="group"), "flip_map": {"0": "1"}}),
        ("remote", {"root": "s3://bucket/deep"}),
    ],
)
def test_csv_is_dealt_as_ever(tmp_path, monkeypatch, case, options, rows_at_once):
    monkeypatch.setattr("w3ray.data.importers.csv.rows._ROWS_AT_ONCE", rows_at_once)
    paths = ["clips/{}.mp4", " odd dir/ü {}.mp4 ", "./up/../{}.mp4", "a//b/{}.mp4", "back\\slash\\{}.mp4"]
    paths += ["/far/{}.mp4", "s3://bucket/{}.mp4"]
    spans = [",", "0,1.5", " 2.25,", ",1e1", "1_0.5,12.3456789"]
    names = ["open", "close", "wave ü", "10", "2"]
    lines = ["path,label,group,start,end,number"]
    for i in range(240):
        path = paths[i % 7].format(i * 37 % 240)
        lines.append(f"{path},{names[i * i % 5]},g{i % 13},{spans[i % 5]},{i % 4}")
    source = tmp_path / "list.csv"
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    manifest = import_csv(source, **{"root": "/videos", "missing_ok": True} | options)
    assert manifest.fingerprint() == OLD_FINGERPRINTS[case]


def test_csv_errors_name_the_line_in_later_chunks_too(tmp_path, monkeypatch):
    monkeypatch.setattr("w3ray.data.importers.csv.rows._ROWS_AT_ONCE", 2)
    head = 'path,label\na/1.mp4,x\n\n"a/2.mp4","x\ny"\n'
    for text, message in (
        ("b/3.mp4,\n", r"list\.csv:6: 'label' is empty"),
        ("b/3.mp4\n", r"list\.csv:6: not 2 values"),
        ("c/4.mp4,x\n", r"list\.csv:6: no file .*/c/4\.mp4 \(1 of 3 are missing\)"),
        ('b/3.mp4,"x"y\n', r"list\.csv:6: cannot be read as CSV: ',' expected after"),
    ):
        with pytest.raises(InputError, match=message):
            import_csv(write_csv(tmp_path, head + text))
    with pytest.raises(InputError, match=r"list\.csv:6: label 'z' is not one of the classes x, y"):
        import_csv(write_csv(tmp_path, "path,label\n" + "a/1.mp4,x\n" * 4 + "a/2.mp4,z\n"), classes=["x", "y"])


def test_csv_the_first_fault_is_told(tmp_path):
    source = write_csv(tmp_path, "path,label,start\na/1.mp4,x,0\na/2.mp4,x,soon\nb/3.mp4,,1\n")
    with pytest.raises(InputError, match=r"list\.csv:3: 'start' must be seconds, not 'soon'"):
        import_csv(source)


def test_csv_clips_of_one_video_are_dealt_in_order_of_their_starts(tmp_path):
    """The same clips are chosen for any order of the rows."""
    rows = [f"a/1.mp4,x,{start}" for start in range(30)]
    dealt = []
    for ordered in (rows, rows[::-1]):
        source = write_csv(tmp_path, "\n".join(["path,label,start", *ordered]) + "\n")
        dealt.append(splits_of(import_csv(source)))
    assert dealt[0] == dealt[1]


def test_csv_without_text(tmp_path):
    source = write_csv(tmp_path, "")
    source.write_bytes(b"path,label\na/1.mp4,x\n\xff.mp4,x\n")
    with pytest.raises(InputError, match=r"list\.csv:3: cannot be read as CSV: not UTF-8 text"):
        import_csv(source)


def test_csv_in_a_folder_whose_name_is_no_text(tmp_path):
    source = write_csv(tmp_path / "\udcff", "path,label\na/1.mp4,x\n")
    with pytest.raises(InputError, match=r"\\udcff' is not UTF-8 text; rename it"):
        import_csv(source)


ODD_NAMES = ["a b", "ü 日本", "a#b", "100%d %20", "what?x=1", "-dash", "a;b&c", "it's", "two  spaces", "né\u2028"]


class TestOddNames:
    """File names with a meaning for shells, addresses or FFmpeg: each importer's manifest opens these files."""

    def readable(self, manifest, tmp_path) -> list[str]:
        written = write_manifest(manifest, tmp_path / "out #1" / "m.parquet")
        found = read_manifest(written.location)
        for uri in found.resolved_uris():
            with open_video(uri) as video:
                assert video.info.num_frames == 8
        return found.table["clip_id"].to_pylist()

    def test_folder(self, tmp_path):
        for name in ODD_NAMES:
            write_video(tmp_path / "out #1" / "set" / f"class {name}" / f"{name}.mp4", 8)
        (tmp_path / "l.txt").write_text("".join(f"class {name}/{name}.mp4\n" for name in ODD_NAMES), encoding="utf-8")
        lists = {"train": tmp_path / "l.txt"}
        manifest = import_folder(tmp_path / "out #1" / "set", split="list", lists=lists)
        assert sorted(self.readable(manifest, tmp_path)) == sorted(f"class {name}/{name}.mp4" for name in ODD_NAMES)

    def test_csv(self, tmp_path):
        for name in ODD_NAMES:
            write_video(tmp_path / "s e?t" / f"{name}.mp4", 8)
        with open(tmp_path / "s e?t" / "list.csv", "w", encoding="utf-8") as file:
            csv.writer(file).writerows([["path", "label"], *([f"{name}.mp4", name] for name in ODD_NAMES)])
        manifest = import_csv(tmp_path / "s e?t" / "list.csv")
        assert self.readable(manifest, tmp_path) == [f"{name}.mp4" for name in ODD_NAMES]

    def test_published(self, tmp_path):
        names = ["-3B32lodo2M", "_4YTwq0-73Y"]
        rows = "".join(f'"{ODD_NAMES[2]}",{name},0,10,train\n' for name in names)
        (tmp_path / "l #%").mkdir()
        (tmp_path / "l #%" / "all.csv").write_text(f"label,youtube_id,time_start,time_end,split\n{rows}")
        for name in names:
            write_video(tmp_path / "v #%d?" / ODD_NAMES[3] / f"{name}_000000_000010.mp4", 8)
        manifest = IMPORTERS["kinetics"](tmp_path / "l #%", videos=str(tmp_path / "v #%d?"), note=print)
        assert self.readable(manifest, tmp_path) == [f"{ODD_NAMES[3]}/{name}_000000_000010.mp4" for name in names]


def test_csv_missing_videos_can_be_allowed(tmp_path):
    source = write_csv(tmp_path, "path,label\nlater/4.mp4,x\n")
    assert import_csv(source, missing_ok=True).table.num_rows == 1


def test_reversed_twin(tmp_path):
    source = write_csv(tmp_path, "path,label,split,group\na/1.mp4,x,train,g1\nb/3.mp4,y,val,g2\n")
    twin = reversed_twin(write_manifest(import_csv(source), tmp_path / "m.parquet"))
    assert twin.classes == ("forward", "backward")
    assert twin.flip_map == {0: 0, 1: 1}
    assert [(r["clip_id"], r["label"], r["reversed"], r["split"], r["group"]) for r in twin.table.to_pylist()] == [
        ("a/1.mp4#forward", 0, False, "train", "g1"),
        ("a/1.mp4#backward", 1, True, "train", "g1"),
        ("b/3.mp4#forward", 0, False, "val", "g2"),
        ("b/3.mp4#backward", 1, True, "val", "g2"),
    ]
    assert twin.resolved_uris() == [f"{tmp_path}/a/1.mp4"] * 2 + [f"{tmp_path}/b/3.mp4"] * 2
    # Reversed twice is forwards: the twin of a twin has the right direction.
    assert reversed_twin(twin).table["reversed"].to_pylist()[:4] == [False, True, True, False]


def test_table_of_importers():
    assert (IMPORTERS["folder"], IMPORTERS["csv"]) == (import_folder, import_csv)


@pytest.mark.real_data
def test_the_real_sets(real_data, tmp_path):
    ut = import_csv(real_data / "ut-interaction" / "list.csv")
    assert ut.splits() == {"train": 83, "val": 37}
    assert ut.num_classes == 6
    assert [ut.table["label"].to_pylist().count(label) for label in range(6)] == [20] * 6
    folds = [ut.with_fold(fold, 5).split("val") for fold in range(5)]
    assert sum(rows.num_rows for rows in folds) == 120
    assert all(len(set(rows["group"].to_pylist())) == 4 for rows in folds)
    tank = import_csv(real_data / "tank-state" / "list.csv")
    assert tank.splits() == {"train": 320, "val": 176}
    assert tank.classes == ("bridge_down", "bridge_up", "no_action", "train_in_out")
    by_folder = import_folder(real_data / "tank-state")
    assert by_folder.classes == tank.classes
    assert sorted(by_folder.resolved_uris()) == sorted(tank.resolved_uris())
    written = write_manifest(tank, tmp_path / "tank.parquet")
    assert read_manifest(tmp_path / "tank.parquet") == written
