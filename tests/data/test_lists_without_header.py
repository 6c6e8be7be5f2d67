"""Lists in the formats of MMAction2, PySlowFast and TSM, and the importer's message on the columns that it read."""

import pytest

from w3ray.cli import main
from w3ray.data.importers import Columns, import_csv
from w3ray.data.manifest import read_manifest
from w3ray.errors import InputError


def write(tmp_path, text):
    for name in ("a.mp4", "b.mp4", "my clip.mp4"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "list.txt").write_text(text, encoding="utf-8")
    return tmp_path / "list.txt"


def rows(manifest):
    return [
        (row["clip_id"], manifest.classes[row["label"]], row["start_s"], row["end_s"])
        for row in manifest.table.to_pylist()
    ]


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [
        ("a.mp4 0\nb.mp4 1\n", "path,label", [("a.mp4", "0", None, None), ("b.mp4", "1", None, None)]),
        ("a.mp4\t0\r\nb.mp4\t1\r\n", "path,label", [("a.mp4", "0", None, None), ("b.mp4", "1", None, None)]),
        ("\ufeffa.mp4;wave\nb.mp4;run", "path,label", [("a.mp4", "wave", None, None), ("b.mp4", "run", None, None)]),
        ("\n a.mp4   0 \n\nmy clip.mp4 0\n", "path,label", [(x, "0", None, None) for x in ("a.mp4", "my clip.mp4")]),
        ("a.mp4 77 0\nb.mp4 78 1\n", "path,num_frames,label", [("a.mp4", "0", None, None), ("b.mp4", "1", None, None)]),
        ("0 a.mp4\n1 b.mp4\n", "label,path", [("a.mp4", "0", None, None), ("b.mp4", "1", None, None)]),
        (
            "a.mp4,wave,0,1.5\na.mp4,run,1.5,\n",
            "path,label,start,end",
            [("a.mp4@0-1.5", "wave", 0.0, 1.5), ("a.mp4@1.5-", "run", 1.5, None)],
        ),
        ('"my clip.mp4",x,"wave, twice",y\n', "path,_,label,_", [("my clip.mp4", "wave, twice", None, None)]),
        ("path,label\na.mp4,wave\n", "path,label", [("a.mp4", "wave", None, None)]),  # has a header
    ],
)  # fmt: skip
def test_they_are_read(tmp_path, text, columns, expected):
    out = str(tmp_path / "m.parquet")
    words = ["data", "import", "csv", str(write(tmp_path, text)), "--columns", columns, "-o", out, "--val-share", "0"]
    assert main(words) == 0
    assert rows(read_manifest(out)) == expected


def test_splits_and_several_labels(tmp_path, capfd):
    source = write(tmp_path, "a.mp4 take cup TRAIN\nb.mp4 put pan Valid\n")
    out = str(tmp_path / "m.parquet")
    columns = "path,verb,noun,split,label=verb+noun"
    assert main(["data", "import", "csv", str(source), "--columns", columns, "-o", out]) == 0
    manifest = read_manifest(out)
    assert manifest.head_sizes == (("verb", 2), ("noun", 2))
    assert manifest.splits() == {"train": 1, "val": 1}
    told = " ".join(capfd.readouterr().err.split())
    assert "no header, values separated by blanks; path from column 1 ('a.mp4'), label 'verb' from column 2" in told


def test_it_says_what_it_took(tmp_path):
    told = []
    import_csv(write(tmp_path, "a.mp4 77 0\n"), header=["path", "num_frames", "label"], note=told.append)
    assert told == [
        f"{tmp_path}/list.txt: no header, values separated by blanks; path from column 1 ('a.mp4'), "
        "label from column 3 ('0'); not read: column 2"
    ]
    source = write(tmp_path, "video,fps,class,split\na.mp4,25,wave,train\n")
    import_csv(source, columns=Columns(path="video", label="class"), note=told.append)
    assert told[1:] == [
        f"{tmp_path}/list.txt: path from 'video', label from 'class', split from 'split'; not read: 'fps'"
    ]
    import_csv(source, columns=Columns(path="video", label="class"), split="random", note=told.append)
    assert told[2].endswith("path from 'video', label from 'class'; not read: 'fps', 'split'")


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("a.mp4 0\nb.mp4 1\n", "--columns path,label "),
        ("a.mp4,wave\n", "--columns path,label "),
        ("clips/a 77 0\n", "--columns path,num_frames,label "),
        ("a.mp4,wave,train\n", "--columns path,label,split "),
        ("a.mp4,wave,0.0,1.5\n", "--columns path,label,start,end "),
        ("a.mp4\twave\tx\ty\tz\n", "--columns path,label,... "),
    ],
)
def test_the_error_names_the_option(tmp_path, text, option):
    with pytest.raises(InputError, match="no column 'path'; its first line is ") as caught:
        import_csv(write(tmp_path, text))
    assert option in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_header_of_other_names_shows_it_too(tmp_path):
    with pytest.raises(InputError, match="it has file, class; map the columns with --columns path=") as caught:
        import_csv(write(tmp_path, "file,class\na.mp4,wave\n"))
    assert str(caught.value).endswith("name all columns in order: --columns path,label")


@pytest.mark.parametrize(
    ("text", "header", "message"),
    [
        ("a.mp4 0\nb.mp4\n", ["path", "label"], r"list\.txt:2: not 2 values, as --columns names \(path,label\)"),
        ("a.mp4,0,1\n", ["path", "label"], r"list\.txt:1: not 2 values, as --columns names"),
        ("a.mp4 0\n", ["path", "lable"], "'lable' is unknown; did you mean 'label'"),
        ("a.mp4 0 0\n", ["path", "label", "label"], "'label' occurs twice; name a column that is not read '_'"),
        ("a.mp4 0\n", ["label", "num_frames"], "no column 'path'; it has label, num_frames"),
        ("a.mp4 0\nc.mp4 1\n", ["path", "label"], r"list\.txt:2: no file or folder .*/c\.mp4"),
        ("a.mp4 0 x\n", ["path", "label", "start"], r"list\.txt:1: 'start' must be seconds, not 'x'"),
        ("", ["path", "label"], "no rows below its header"),
    ],
)
def test_what_does_not_fit(tmp_path, text, header, message):
    with pytest.raises(InputError, match=message):
        import_csv(write(tmp_path, text), header=header)


def test_clip_ids_of_long_videos(tmp_path):
    """Times above 1000 s keep all digits. Times below keep their old form."""
    starts = ["0", "0.25", "12.5", "999.5", "1234.5", "12345.61", "12345.62", "36000.04", "36000.041", "1000000.5"]
    text = "".join(f"a.mp4,x,{start},{float(start) + 1!r}\n" for start in starts)
    manifest = import_csv(write(tmp_path, f"path,label,start,end\n{text}"))
    ids = manifest.table["clip_id"].to_pylist()
    assert len(set(ids)) == len(starts)
    assert [clip.removeprefix("a.mp4@").partition("-")[0] for clip in ids] == starts
    assert ids[:5] == ["a.mp4@0-1", "a.mp4@0.25-1.25", "a.mp4@12.5-13.5", "a.mp4@999.5-1000.5", "a.mp4@1234.5-1235.5"]
    manifest = import_csv(write(tmp_path, f"path,label,start,end\na.mp4,x,{1 / 3!r},{4 / 3!r}\n"))
    assert manifest.table["clip_id"].to_pylist() == ["a.mp4@0.333333-1.33333"]
