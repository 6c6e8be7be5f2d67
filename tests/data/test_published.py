"""Published data sets: exact labels and splits from the real annotation files, and one line for each fault."""

import json
from pathlib import Path

import pytest
from PIL import Image
from videos import numbered_image, write_frames, write_video

from w3ray.cli import main
from w3ray.data.decoders import open_video
from w3ray.data.importers import IMPORTERS, egogesture, jhmdb, ucf101
from w3ray.data.importers import something_something_v1 as ssv1
from w3ray.data.importers import something_something_v2 as ssv2
from w3ray.data.importers._looking import Looking, looking
from w3ray.data.importers._published import mirrored
from w3ray.data.manifest import read_manifest, write_manifest
from w3ray.errors import InputError


class Noted(list):
    """Collects the lines that an importer prints for its user."""

    def __call__(self, line: str) -> None:
        assert "\n" not in line
        self.append(line)


def run(name, annotations, videos, **options):
    """Videos at an address are not checked, because these addresses are empty (`test_looking.py` has a real store)."""
    notes = Noted()
    with looking(Looking(skip=str(videos).startswith("s3://"))):
        return IMPORTERS[name](annotations, videos=str(videos), note=notes, **options), notes


def refused(name, annotations, videos, **options) -> str:
    with pytest.raises(InputError) as caught:
        run(name, annotations, videos, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def touch(folder: Path, *paths: str) -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"x")
    return folder


def swapped(manifest) -> dict[str, str]:
    """The classes that change in a mirror."""
    return {manifest.classes[one]: manifest.classes[other] for one, other in manifest.flip_map.items() if one != other}


class TestMirror:
    def test_pairs(self):
        names = ["go left", "go right", "stop", "Swipe Left", "Swipe Right", "stand upright", "be right there"]
        assert mirrored(names, [("left", "right")], no_direction=["right there"]) == {
            "go left": "go right",
            "go right": "go left",
            "Swipe Left": "Swipe Right",
            "Swipe Right": "Swipe Left",
        }
        assert mirrored(["from left to right", "from right to left"], [("left", "right")]) == {
            "from left to right": "from right to left",
            "from right to left": "from left to right",
        }

    def test_a_direction_without_its_opposite_is_refused(self):
        with pytest.raises(InputError, match="'go left' has a direction, but there is no class 'go right'"):
            mirrored(["go left", "stop"], [("left", "right")])


SSV2_LABELS = [f"Doing thing {number} with something" for number in range(172)]
SSV2_LABELS += ["Pushing something from left to right", "Pushing something from right to left"]

THING_7 = "Doing thing 7 with [something]"


def write_ssv2(folder: Path, **lists) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "labels": {name: str(label) for label, name in enumerate(SSV2_LABELS)},
        "train": [
            {"id": "3", "label": "doing it", "template": "Doing thing 7 with [something]", "placeholders": ["x"]},
            {"id": "12", "label": "pushing", "template": "Pushing [something] from left to right"},
        ],
        "validation": [{"id": "5", "template": "Doing thing 0 with [something]"}],
        "test": [{"id": "8"}, {"id": "9"}],
    }
    for kind, content in (found | lists).items():
        if content is not None:
            (folder / f"something-something-v2-{kind}.json").write_text(json.dumps(content, ensure_ascii=False))
    return folder


@pytest.fixture
def small_ssv2(monkeypatch):
    monkeypatch.setattr(ssv2, "NUM_CLIPS", {"train": 2, "val": 1, "test": 2})


class TestSomethingSomethingV2:
    NAME = "something-something-v2"

    @pytest.mark.real_data
    def test_real_lists(self, real_data, tmp_path):
        """The real files do not include the training list, so the rest is imported with `partial`."""
        source = real_data / "annotations" / self.NAME
        entries = json.loads((source / "something-something-v2-validation.json").read_text())
        tests = json.loads((source / "something-something-v2-test.json").read_text())
        videos = touch(tmp_path / "v", *(f"{entry['id']}.webm" for entry in entries[:-1] + tests[:1]))
        assert "no something-something-v2-train.json or train.json" in refused(self.NAME, source, videos)
        manifest, notes = run(self.NAME, source, videos, partial=True)
        assert manifest.splits() == {"test": 1, "val": 24_776}
        assert manifest.classes == tuple((source / "label_map.txt").read_text().splitlines())
        # As in TSM's own list of pairs.
        assert {one: other for one, other in manifest.flip_map.items() if one < other} == {86: 87, 93: 94, 166: 167}
        missing = f"{entries[-1]['id']}.webm, {tests[1]['id']}.webm, "
        assert f"27157 of 51934 clips are missing or not whole: {missing}" in notes[1]
        rows = manifest.table.to_pylist()
        assert [row["clip_id"] for row in rows[:2]] == ["74225.webm", "116154.webm"]
        assert manifest.classes[rows[0]["label"]] == "Spinning something that quickly stops spinning"
        assert {row["label"] is None for row in rows if row["split"] == "test"} == {True}

    def test_command(self, tmp_path, capfd, small_ssv2):
        videos = tmp_path / "20bn something ü"
        for name in ("3", "12", "5", "8", "9"):
            write_video(videos / f"{name}.webm", 12, codec="libvpx-vp9")
        words = ["data", "import", self.NAME, str(write_ssv2(tmp_path / "lists")), "--videos", str(videos)]
        assert main([*words, "--out", str(tmp_path / "m.parquet"), "--json"]) == 0
        captured = capfd.readouterr()
        assert json.loads(captured.out)["splits"] == {"test": 2, "train": 2, "val": 1}
        assert captured.err == ""
        manifest = read_manifest(tmp_path / "m.parquet")
        assert [(row["clip_id"], row["label"], row["split"]) for row in manifest.table.to_pylist()] == [
            ("3.webm", 7, "train"),
            ("12.webm", 172, "train"),
            ("5.webm", 0, "val"),
            ("8.webm", None, "test"),
            ("9.webm", None, "test"),
        ]
        assert manifest.flip_map == {172: 173, 173: 172}
        with open_video(manifest.resolved_uris()[0]) as video:
            assert video.info.num_frames == 12

    def test_partial_downloads(self, tmp_path, small_ssv2):
        lists, videos = write_ssv2(tmp_path / "lists", test=None), touch(tmp_path / "v", "12.webm")
        (videos / "3.webm").touch()  # empty: the download has just begun
        text = (
            f"{videos}: 2 of 3 clips are missing or not whole: 3.webm, 5.webm; get them, or let --partial take what is"
        )
        assert text in refused(self.NAME, lists, videos)
        manifest, notes = run(self.NAME, lists, videos, partial=True)
        assert manifest.splits() == {"train": 1}
        assert "2 of 3 clips are missing or not whole: 3.webm, 5.webm; they are left out" in notes[-1]
        assert "nothing is there" in refused(self.NAME, lists, touch(tmp_path / "w", "x"), partial=True)
        assert "no such folder" in refused(self.NAME, lists, tmp_path / "none")

    def test_a_web_address_is_not_looked_at(self, tmp_path, small_ssv2):
        manifest, notes = run(self.NAME, write_ssv2(tmp_path / "lists"), "https://host/ssv2/")
        assert manifest.table["uri"].to_pylist()[0] == "https://host/ssv2/3.webm"
        assert "it was not checked whether the videos are there" in notes[-1]

    @pytest.mark.parametrize(
        ("lists", "message"),
        [
            ({"train": None}, "no something-something-v2-train.json or train.json; give the folder that holds"),
            ({"labels": ["a"]}, "labels.json: not the labels of Something-Something v2"),
            ({"labels": {"a": "0"}}, "labels.json: 1 classes; Something-Something v2 has 174: is it the list of"),
            ({"labels": dict.fromkeys(SSV2_LABELS, "5")}, "the labels are not 0 to 173, each once"),
            ({"train": {"a": 1}}, "train.json: not a list of Something-Something v2"),
            ({"train": [{"video": 1}]}, "train.json:1: an entry without an id of digits: is it of another version?"),
            ({"train": [{"id": "../x", "template": "y"}]}, "train.json:1: an entry without an id of digits"),
            ({"train": [{"id": "1"}]}, "train.json:1: an entry without a template"),
            ({"train": [{"id": "1", "template": "Doing thing 7 with [somthing]"}]}, "did you mean 'Doing thing 7 with"),
            ({"train": [{"id": "1", "template": THING_7}]}, "train.json: 1 clips; the published list has 2"),
            ({"test": [{"id": "8"}]}, "test.json: 1 clips; the published list has 2"),
            ({"test": [{"id": "8"}, {"id": "5"}]}, "test.json:2: '5.webm' is listed twice, first in something-someth"),
            ({"test": [{"id": "8"}, {"id": "77"}]}, "1 of 5 clips are missing or not whole: 77.webm; get them"),
            (
                {"train": [{"id": "5", "template": THING_7}] * 2},
                "train.json:2: '5.webm' is listed twice, first in something-something-v2-train.json:1",
            ),
            (
                {"train": [{"id": id, "template": THING_7} for id in ("4", "5")]},
                "validation.json:1: '5.webm' is listed twice, first in something-something-v2-train.json:2",
            ),
        ],
    )
    def test_bad_lists(self, tmp_path, small_ssv2, lists, message):
        videos = touch(tmp_path / "v", *(f"{number}.webm" for number in (1, 3, 4, 5, 8, 9, 12)))
        assert message in refused(self.NAME, write_ssv2(tmp_path / "lists", **lists), videos)

    def test_bad_bytes(self, tmp_path, small_ssv2):
        lists = write_ssv2(tmp_path / "lists")
        (lists / "something-something-v2-train.json").write_bytes(b'[{"id": "1", "template": "\xff"}]')
        assert "train.json: byte 26 is not UTF-8 text" in refused(self.NAME, lists, tmp_path)
        (lists / "something-something-v2-train.json").write_bytes(b"[{")
        assert "train.json: not a JSON file" in refused(self.NAME, lists, tmp_path)

    def test_the_published_counts(self, tmp_path):
        assert sum(ssv2.NUM_CLIPS.values()) == 220_847
        assert "2 clips; the published list has 168913" in refused(self.NAME, write_ssv2(tmp_path / "l"), tmp_path)

    def test_fold_has_no_effect(self, tmp_path, capfd):
        words = ["data", "import", self.NAME, str(tmp_path), "--videos", str(tmp_path), "--out", str(tmp_path / "m")]
        assert main([*words, "--fold", "2"]) == 2
        assert "--fold has no effect: something-something-v2 has one official split" in capfd.readouterr().err


def test_a_video_whose_name_is_no_text(tmp_path):
    touch(tmp_path / "a", "b.mp4", "\udcff.mp4")
    with pytest.raises(InputError, match=r"column 'clip_id': 'a/\\udcff.mp4' is not UTF-8 text; rename it"):
        IMPORTERS["folder"](tmp_path)


def test_videos_in_a_folder_whose_name_is_no_text(tmp_path, small_ssv2):
    videos = touch(tmp_path / "\udcff", "3.webm", "12.webm", "5.webm", "8.webm", "9.webm")
    message = refused("something-something-v2", write_ssv2(tmp_path / "lists"), videos)
    assert message.endswith("/\\udcff/3.webm' is not UTF-8 text; rename it")


def test_manifests_can_be_written(tmp_path, small_ssv2):
    videos = touch(tmp_path / "v", "3.webm", "12.webm", "5.webm", "8.webm", "9.webm")
    manifest, _ = run("something-something-v2", write_ssv2(tmp_path / "lists"), videos)
    assert write_manifest(manifest, tmp_path / "m.parquet").table["uri"].to_pylist()[0] == "v/3.webm"


def write_lists(folder: Path, prefix: str, **kinds: str | None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for kind, text in kinds.items():
        if text is not None:
            (folder / f"{prefix}-{kind}.csv").write_text(text, encoding="utf-8")
    return folder


class TestJester:
    @pytest.mark.real_data
    def test_real_lists(self, real_data, tmp_path):
        source = real_data / "annotations" / "jester"
        manifest, notes = run("jester", source, "s3://bucket/jester")
        assert manifest.splits() == {"test": 14_743, "train": 118_562, "val": 14_787}
        assert manifest.table["label"].null_count == 14_743
        assert manifest.classes == tuple((source / "jester-v1-labels.csv").read_text().splitlines())
        assert swapped(manifest) == {
            "Swiping Left": "Swiping Right",
            "Swiping Right": "Swiping Left",
            "Sliding Two Fingers Left": "Sliding Two Fingers Right",
            "Sliding Two Fingers Right": "Sliding Two Fingers Left",
            "Turning Hand Clockwise": "Turning Hand Counterclockwise",
            "Turning Hand Counterclockwise": "Turning Hand Clockwise",
        }
        assert len(notes) == 1
        row = manifest.table.slice(0, 1).to_pylist()[0]
        assert (row["uri"], manifest.classes[row["label"]]) == ("s3://bucket/jester/34870", "Drumming Fingers")

    @pytest.mark.real_data
    def test_a_partial_download(self, real_data, tmp_path):
        source = real_data / "annotations" / "jester"
        videos = tmp_path / "20bn jester ü"
        write_frames(videos / "34870", 3)
        (videos / "9223").mkdir(parents=True)  # no image in it yet
        text = "148091 of 148092 clips are missing or not whole: 56557, 129112, 63861, 131717, 23595, ...; get them"
        assert text in refused("jester", source, videos)
        manifest, _ = run("jester", source, videos, partial=True)
        assert [row["clip_id"] for row in manifest.table.to_pylist()] == ["34870"]
        with open_video(manifest.resolved_uris()[0]) as video:
            assert video.info.num_frames == 3


class TestSomethingSomethingV1:
    NAME = "something-something-v1"

    @pytest.fixture
    def lists(self, tmp_path, monkeypatch):
        monkeypatch.setattr(ssv1, "NUM_CLIPS", {"train": 2, "val": 1, "test": 1})
        return write_lists(
            tmp_path / "lists",
            self.NAME,
            labels="\n".join(SSV2_LABELS) + "\n",
            train="100218;Doing thing 7 with something\n4;Pushing something from right to left\n",
            validation="5;Doing thing 0 with something\r\n",
            test="9\n",
        )

    def test_counts(self):
        assert sum(ssv1.NUM_CLIPS.values()) == 108_499

    @pytest.mark.real_data
    def test_real_labels(self, real_data, lists):
        real = real_data / "annotations" / self.NAME / "label_map.txt"
        (lists / f"{self.NAME}-labels.csv").unlink()
        (lists / "label_map.txt").write_bytes(real.read_bytes())
        (lists / f"{self.NAME}-test.csv").unlink()
        write_lists(
            lists, self.NAME, train="1;Holding something\n2;Opening something\n", validation="3;Folding something"
        )
        manifest, _ = run(self.NAME, lists, "s3://bucket/v1")
        assert manifest.classes == tuple(real.read_text().splitlines())
        # As in TSM's own list of pairs.
        assert {one: other for one, other in manifest.flip_map.items() if one < other} == {2: 4, 30: 41, 52: 66}
        assert manifest.table["label"].to_pylist() == [0, 5, 9]

    def test_command(self, lists, tmp_path, capfd):
        for name in ("100218", "4", "5", "9"):
            write_frames(tmp_path / "v 1" / name, 4)
        words = ["data", "import", self.NAME, str(lists), "--videos", str(tmp_path / "v 1"), "--json"]
        assert main([*words, "--out", str(tmp_path / "m.parquet")]) == 0
        captured = capfd.readouterr()
        assert json.loads(captured.out)["splits"] == {"test": 1, "train": 2, "val": 1}
        assert captured.err == ""
        rows = read_manifest(tmp_path / "m.parquet").table.to_pylist()
        assert [(row["uri"], row["label"], row["split"]) for row in rows] == [
            ("v 1/100218", 7, "train"),
            ("v 1/4", 173, "train"),
            ("v 1/5", 0, "val"),
            ("v 1/9", None, "test"),
        ]

    def test_an_image_is_missing(self, lists, tmp_path):
        for name in ("100218", "4", "5", "9"):
            write_frames(tmp_path / "v" / name, 4)
        (tmp_path / "v" / "4" / "00002.jpg").unlink()
        message = refused(self.NAME, lists, tmp_path / "v")
        assert "1 of 4 clips are missing or not whole: 4; get them" in message
        assert message.endswith(" (4: missing images: 00002.jpg is the first of 1)")
        manifest, notes = run(self.NAME, lists, tmp_path / "v", partial=True)
        assert manifest.table["clip_id"].to_pylist() == ["100218", "5", "9"]
        assert notes[-1].endswith("they are left out (4: missing images: 00002.jpg is the first of 1)")

    @pytest.mark.parametrize(
        ("kinds", "message"),
        [
            (dict(train="100218;Doing thing 7 wih something\n"), "train.csv:1: label 'Doing thing 7 wih something' is"),
            (dict(train="100218,Doing thing 7 with something\n"), "is not of the form `34870;label`: is it of another"),
            (dict(train="../x;Doing thing 7 with something\n"), "is not of the form `34870;label`"),
            (
                dict(train="5;Doing thing 7 with something\n4;Doing thing 7 with something"),
                "v1-validation.csv:1: '5' is",
            ),
            (dict(train="4;Doing thing 7 with something\n"), "train.csv: 1 clips; the published list has 2"),
            (dict(labels="a\nb\n"), "labels.csv: 2 classes; Something-Something v1 has 174"),
            (dict(labels="a\n" * 174), "labels.csv: class 'a' is listed twice"),
            (dict(validation="6;Doing thing 0 with something\n"), "1 of 4 clips are missing or not whole: 6; get them"),
            (dict(test="9;Doing thing 0 with something\n"), "test.csv:1: '9;Doing thing 0 with something' is not of"),
            (dict(test="9\n10\n"), "test.csv: 2 clips; the published list has 1"),
        ],
    )
    def test_bad_input(self, lists, tmp_path, kinds, message):
        for name in ("100218", "4", "5", "9"):
            write_frames(tmp_path / "v" / name, 2)
        assert message in refused(self.NAME, write_lists(lists, self.NAME, **kinds), tmp_path / "v")


class TestUcf101:
    @pytest.mark.real_data
    @pytest.mark.parametrize("fold", [1, 2, 3])
    def test_real_lists(self, real_data, fold):
        manifest, notes = run("ucf101", real_data / "annotations" / "ucf101", "s3://bucket/ucf", fold=fold)
        assert manifest.splits() == ucf101.NUM_CLIPS[fold]
        assert sum(manifest.splits().values()) == 13_320
        assert manifest.num_classes == 101
        assert (manifest.classes[0], manifest.classes[100]) == ("ApplyEyeMakeup", "YoYo")
        assert manifest.flip_map == {label: label for label in range(101)}
        rows = manifest.table.to_pylist()
        assert all(row["uri"].split("/")[-2] == manifest.classes[row["label"]] for row in rows)
        groups = {
            split: {(row["label"], row["group"]) for row in rows if row["split"] == split}
            for split in ("train", "test")
        }
        assert groups["train"].isdisjoint(groups["test"])
        assert len(notes) == 1

    @pytest.mark.real_data
    def test_partial(self, real_data, tmp_path, capfd):
        source, video = real_data / "annotations" / "ucf101", "YoYo/v_YoYo_g01_c01.avi"
        write_video(tmp_path / "v" / video, 8, codec="mpeg4")
        assert "13319 of 13320 clips are missing or not whole: Apply" in refused("ucf101", source, tmp_path / "v")
        words = ["data", "import", "ucf101", str(source), "--videos", str(tmp_path / "v"), "--out", str(tmp_path / "m")]
        assert main([*words, "--fold", "2", "--partial", "--json"]) == 0
        assert json.loads(capfd.readouterr().out)["splits"] == {"train": 1}

    @pytest.mark.real_data
    @pytest.mark.parametrize(
        ("file", "line", "message"),
        [
            ("trainlist01.txt", "YoYo/v_YoYo_g01_c01.avi 7", "class 'YoYo' has the number 101, not 7"),
            ("trainlist01.txt", "YoYoo/v_YoYo_g01_c01.avi 7", "none of the 101 classes; did you mean 'YoYo'"),
            ("trainlist01.txt", "YoYo/clip.avi 101", "is not of the form `class/v_class_g01_c01.avi`"),
            ("testlist01.txt", "YoYo/v_YoYo_g08_c01.avi", "'YoYo/v_YoYo_g08_c01.avi' is listed twice, first in train"),
            ("classInd.txt", "102 Zoo", "102 classes; UCF101 has 101"),
            ("classInd.txt", "7 Zoo", "'7 Zoo' is not of the form `102 class`"),
        ],
    )  # fmt: skip
    def test_bad_lists(self, real_data, tmp_path, monkeypatch, file, line, message):
        for path in (real_data / "annotations" / "ucf101").iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / file).write_text((tmp_path / file).read_text() + line + "\n")
        monkeypatch.setattr(ucf101, "NUM_CLIPS", {1: {"train": 9537, "test": 3784}})
        assert message in refused("ucf101", tmp_path, "s3://bucket/ucf")

    def test_no_such_fold(self, tmp_path):
        assert "fold 4: UCF101 has the official splits 1, 2, 3" in refused("ucf101", tmp_path, tmp_path, fold=4)


class TestHmdb51:
    @pytest.mark.real_data
    def test_real_lists(self, real_data, tmp_path):
        source = real_data / "annotations" / "hmdb51"
        videos = tmp_path / "v"
        write_video(videos / "brush_hair" / "April_09_brush_hair_u_nm_np1_ba_goo_0.avi", 8, codec="mpeg4")
        manifest, notes = run("hmdb51", source, "s3://bucket/hmdb")
        assert manifest.splits() == {"test": 1530, "train": 3570}
        assert manifest.classes == tuple(sorted(path.name.split("_test_split")[0] for path in source.iterdir()))
        assert manifest.classes[5:7] == ("climb", "climb_stairs")
        assert "1666 clips that split 1 uses neither to train nor to test are left out" in notes[0]
        part, _ = run("hmdb51", source, videos, partial=True)
        assert [row["clip_id"] for row in part.table.to_pylist()] == [
            "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi"
        ]
        assert "5099 of 5100 clips are missing" in refused("hmdb51", source, videos)
        assert "0 classes; HMDB51 has 51" in refused("hmdb51", source, videos, fold=2)

    @pytest.mark.real_data
    def test_bad_lists(self, real_data, tmp_path):
        for path in (real_data / "annotations" / "hmdb51").iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        file = tmp_path / "wave_test_split1.txt"
        for line, message in (
            ("a.avi 3", "wave_test_split1.txt:105: 'a.avi 3' is not of the form `clip.avi 1` (0, 1 or 2)"),
            ("../a.avi 1", "is not of the form"),
            ("a.avi 1", "wave_test_split1.txt: 71 clips; the published list has 70"),
        ):
            text = file.read_text()
            file.write_text(text.rstrip("\n") + f"\n{line}\n")
            assert message in refused("hmdb51", tmp_path, "s3://bucket/hmdb")
            file.write_text(text)


def write_original(folder: Path, **files: str) -> Path:
    """The original CSV files, for subjects of train, val and test."""
    texts = {
        "Subject03/Scene1/Group1.csv": "7,3,6\n2,9,12\n",
        "subject01/Scene2/group2.csv": "83,1,12\n,,\n",
        "Subject02/Scene6/Group10.csv": "1,2.0,3.0\n",
    } | files
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


class TestEgoGesture:
    FOLDERS = ("Subject03/Scene1/Color/rgb1", "Subject01/Scene2/Color/rgb2", "Subject02/Scene6/Color/rgb10")

    @pytest.fixture
    def images(self, tmp_path, monkeypatch):
        monkeypatch.setattr(egogesture, "NUM_CLIPS", {"train": 2, "val": 1, "test": 1})
        for name in self.FOLDERS:
            write_frames(tmp_path / "images" / name, 12, name="{:06d}.jpg")
        return tmp_path / "images"

    @pytest.mark.real_data
    def test_real_lists(self, real_data):
        source = real_data / "annotations" / "egogesture-derived"
        manifest, notes = run("egogesture", source, "s3://bucket/images")
        assert manifest.splits() == {"test": 4_977, "train": 14_416, "val": 4_768}
        assert sum(manifest.splits().values()) == 24_161
        lines = (source / "classIndAll.txt").read_text().splitlines()
        assert [f"{label} {name}" for label, name in enumerate(manifest.classes, start=1)] == lines[:83]
        assert manifest.flip_map == {}
        assert f"{14_397 + 4_760 + 4_964} spans without a gesture (label 84) are left out" in notes[0]
        rows = manifest.table.to_pylist()
        assert len({row["group"] for row in rows}) == 50
        assert len({row["uri"] for row in rows}) == 2081
        assert rows[0] == {
            "clip_id": "Subject03/Scene1/Color/rgb1@67-112",
            "uri": "s3://bucket/images/Subject03/Scene1/Color/rgb1",
            "start_s": 66 / 30,
            "end_s": 112 / 30,
            "reversed": False,
            "label": 6,
            "split": "train",
            "group": "Subject03",
        }
        assert rows[-1]["split"] == "test"

    @pytest.mark.real_data
    def test_a_partial_download(self, real_data, tmp_path):
        source = real_data / "annotations" / "egogesture-derived"
        write_frames(tmp_path / "Subject03/Scene1/Color/rgb1", 360, name="{:06d}.jpg")
        message = "24159 of 24161 clips are missing or not whole: Subject03/Scene1/Color/rgb1@455-511, "
        assert message in refused("egogesture", source, tmp_path)
        manifest, notes = run("egogesture", source, tmp_path, partial=True)
        assert manifest.table["clip_id"].to_pylist() == [
            f"Subject03/Scene1/Color/rgb1@{s}" for s in ("67-112", "296-356")
        ]
        assert "2080 of 2081 frame folders cannot be used; first Subject01/Scene1/Color/rgb1: cannot be" in notes[1]

    def test_original_files(self, images, tmp_path, capfd):
        source = write_original(tmp_path / "labels-final-revised1")
        words = ["data", "import", "egogesture", str(source), "--videos", str(images), "--json"]
        assert main([*words, "--out", str(tmp_path / "m.parquet")]) == 0
        assert "1 rows without frames are left out" in capfd.readouterr().err
        manifest = read_manifest(tmp_path / "m.parquet")
        rows = manifest.table.to_pylist()
        assert [(row["clip_id"], row["label"], row["split"], row["group"]) for row in rows] == [
            ("Subject01/Scene2/Color/rgb2@1-12", 82, "val", "Subject01"),
            ("Subject02/Scene6/Color/rgb10@2-3", 0, "test", "Subject02"),
            ("Subject03/Scene1/Color/rgb1@3-6", 6, "train", "Subject03"),
            ("Subject03/Scene1/Color/rgb1@9-12", 1, "train", "Subject03"),
        ]
        spans = []
        for row, uri in zip(rows, manifest.resolved_uris(), strict=True):
            with open_video(uri) as video:
                spans.append(video.frame_span(row["start_s"], row["end_s"]))
        assert spans == [(0, 12), (1, 3), (2, 6), (8, 12)]

    def test_frames_are_the_numbers_of_the_images(self, images, tmp_path):
        """In a folder that counts from 0, image 3 is the fourth frame."""
        folder = images / self.FOLDERS[0]
        write_frames(folder, 1, name="{:06d}.jpg", first=0)
        manifest, _ = run("egogesture", write_original(tmp_path / "l"), images)
        row = manifest.table.to_pylist()[2]
        assert (row["clip_id"], row["start_s"], row["end_s"]) == ("Subject03/Scene1/Color/rgb1@3-6", 3 / 30, 7 / 30)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("7,3,6\n2,9,13\n", "1 of 4 clips are missing or not whole: Subject03/Scene1/Color/rgb1@9-13; get"),
            ("7,3,6\n84,9,12\n", "Group1.csv:2: label 84 is none of 1 to 83"),
            ("7,3,6\n0,9,12\n", "Group1.csv:2: label 0 is none of 1 to 83"),
            ("7,3,6\n2,12,9\n", "Group1.csv:2: its last frame 9 lies before its first one 12"),
            ("class,start,end\n7,3,6\n", "Group1.csv:1: 'class,start,end' is not a label, a first and a last frame"),
            ("7,3,6\n7,3.5,6\n", "Group1.csv:2: '7,3.5,6' is not a label"),
            ("7,3,6\n7,3,6\n", "Group1.csv:2: 'Subject03/Scene1/Color/rgb1@3-6' is listed twice"),
            ("7,3,6\n", "(train): 1 clips; the published list has 2"),
        ],
    )
    def test_bad_files(self, images, tmp_path, text, message):
        source = write_original(tmp_path / "l", **{"Subject03/Scene1/Group1.csv": text})
        assert message in refused("egogesture", source, images)

    def test_an_image_is_missing(self, images, tmp_path):
        (images / self.FOLDERS[1] / "000005.jpg").unlink()
        notes = Noted()
        with pytest.raises(InputError, match="1 of 4 clips are missing or not whole: Subject01"):
            IMPORTERS["egogesture"](write_original(tmp_path / "l"), videos=str(images), note=notes)
        assert "1 of 3 frame folders cannot be used; first Subject01/Scene2/Color/rgb2: missing images" in notes[-1]

    def test_bad_lists(self, images, tmp_path):
        for text, message in (
            (
                "Subject01/Scene1/Color/rgb1 7 1 2\n",
                "'Subject01/Scene1/Color/rgb1' is no folder of a subject of the split",
            ),
            ("../x 7 1 2\n", "'../x' is no folder of a subject"),
            ("Subject77/Scene1/Color/rgb1 7 1 2\n", "trainlistall.txt:1: there is no subject 77"),
            ("Subject03/Scene1/Color/rgb1 7 1\n", "is not a label, a first and a last frame"),
        ):
            (tmp_path / "trainlistall.txt").write_text(text)
            assert message in refused("egogesture", tmp_path, images)
        assert "no trainlistall.txt; give the folder that holds the lists, or the" in refused(
            "egogesture", images, images
        )
        (tmp_path / "classIndAll.txt").write_text("1 Wave\n")
        message = "classIndAll.txt:1: '1 Wave'; EgoGesture has `1 Scroll_hand_towards_right`"
        assert message in refused("egogesture", tmp_path, images)


class TestKinetics:
    HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"
    TRAIN = HEADER + '"air drumming",-3B32lodo2M,59,69,train,0\nabseiling,_4YTwq0-73Y,8,18,train,0\n'
    VAL = HEADER + "abseiling,0wR5jVB-WPk,417,427,validate,0\n"

    def lists(self, folder: Path, **texts: str) -> Path:
        folder.mkdir()
        for name, text in ({"train": self.TRAIN, "val": self.VAL} | texts).items():
            (folder / f"{name}.csv").write_text(text)
        return folder

    @pytest.fixture
    def videos(self, tmp_path):
        write_video(tmp_path / "k 400" / "train" / "air drumming" / "-3B32lodo2M_000059_000069.mp4", 8)
        return touch(tmp_path / "k 400", "train/_4YTwq0-73Y_000008_000018.mp4", "val/0wR5jVB-WPk_000417_000427.mkv")

    def test_command(self, tmp_path, videos, capfd):
        test = "youtube_id,time_start,time_end,split\n--6bJUbfpnQ,17,27,test\n"
        words = ["data", "import", "kinetics", str(self.lists(tmp_path / "l", test=test)), "--videos", str(videos)]
        assert main([*words, "--out", str(tmp_path / "m.parquet"), "--json"]) == 0
        assert "test.csv: 1 clips without labels are left out" in capfd.readouterr().err
        manifest = read_manifest(tmp_path / "m.parquet")
        assert manifest.classes == ("abseiling", "air drumming")
        assert [(r["clip_id"], r["label"], r["split"], r["group"]) for r in manifest.table.to_pylist()] == [
            ("train/air drumming/-3B32lodo2M_000059_000069.mp4", 1, "train", "-3B32lodo2M"),
            ("train/_4YTwq0-73Y_000008_000018.mp4", 0, "train", "_4YTwq0-73Y"),
            ("val/0wR5jVB-WPk_000417_000427.mkv", 0, "val", "0wR5jVB-WPk"),
        ]
        with open_video(manifest.resolved_uris()[0]) as video:
            assert video.info.num_frames == 8

    def test_partial(self, tmp_path, videos):
        lists = self.lists(tmp_path / "l")
        (videos / "val/0wR5jVB-WPk_000417_000427.mkv").unlink()
        text = "1 of 3 clips are missing or not whole: 0wR5jVB-WPk_000417_000427.mp4; get them"
        assert text in refused("kinetics", lists, videos)
        assert run("kinetics", lists, videos, partial=True)[0].splits() == {"train": 2}

    @pytest.mark.parametrize(
        ("train", "message"),
        [
            ("label,video\na,b\n", "train.csv: no column 'youtube_id'; Kinetics has label, youtube_id"),
            (HEADER + "a,b,1,2,train\n", "train.csv:2: not 6 values, as the header has"),
            (HEADER + "a,b,0:01,2,train,0\n", "train.csv:2: not a YouTube id, two whole seconds and a split"),
            (HEADER + "a,../b,1,2,train,0\n", "train.csv:2: not a YouTube id"),
            (HEADER + "abseiling,0wR5jVB-WPk,417,427,train,0\n", "_000417_000427.mkv' is listed twice, first in train"),
            (HEADER + '"a,b,1,2,train,0\n', "train.csv: cannot be read as CSV"),
        ],
    )
    def test_bad_lists(self, tmp_path, videos, train, message):
        assert message in refused("kinetics", self.lists(tmp_path / "l", train=train), videos)

    def test_bad_folders(self, tmp_path, videos):
        lists = self.lists(tmp_path / "l")
        assert "no CSV file; give the folder" in refused("kinetics", videos, videos)
        assert "a web address cannot be listed" in refused("kinetics", lists, "https://host/k400")
        assert "none: no such folder" in refused("kinetics", lists, tmp_path / "none")
        touch(videos, "replacement/_4YTwq0-73Y_000008_000018.mp4")
        assert "two videos of one name: replacement/_4YTwq0" in refused("kinetics", lists, videos)


class TestJhmdb:
    """The real files do not include its split files. They are written in the form of HMDB51's."""

    @pytest.fixture
    def lists(self, tmp_path, monkeypatch):
        monkeypatch.setattr(jhmdb, "NUM_CLIPS", 22)
        (tmp_path / "splits").mkdir()
        names = ["shoot_ball", "shoot_bow", *(f"class_{number:02d}" for number in range(19))]
        for fold in (1, 2, 3):
            for name in names:
                file = tmp_path / "splits" / f"{name}_test_split{fold}.txt"
                file.write_text(f"clip_{name}.avi {2 if fold == 3 else 1}\n")
        with open(tmp_path / "splits" / "shoot_bow_test_split1.txt", "a") as stream:
            stream.write("other ü.avi 2\n")
        return tmp_path / "splits"

    def test_videos(self, lists, tmp_path, capfd):
        write_video(tmp_path / "v" / "shoot_bow" / "other ü.avi", 8, codec="mpeg4")
        touch(tmp_path / "v", "class_03/clip_class_03.avi")
        assert "20 of 22 clips are missing or not whole: class_00/clip_class_00.avi, " in refused(
            "jhmdb", lists, tmp_path / "v"
        )
        words = ["data", "import", "jhmdb", str(lists), "--videos", str(tmp_path / "v"), "--partial", "--json"]
        assert main([*words, "--out", str(tmp_path / "m.parquet")]) == 0
        manifest = read_manifest(tmp_path / "m.parquet")
        assert [(manifest.classes[r["label"]], r["split"], r["uri"]) for r in manifest.table.to_pylist()] == [
            ("class_03", "train", "v/class_03/clip_class_03.avi"),
            ("shoot_bow", "test", "v/shoot_bow/other ü.avi"),
        ]
        capfd.readouterr()

    def test_frames(self, lists, tmp_path):
        for number in range(2):
            path = tmp_path / "v" / "shoot_bow" / "other ü" / f"{number + 1:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(numbered_image(number)).save(path)
        manifest, _ = run("jhmdb", lists, tmp_path / "v", partial=True)
        assert manifest.table["clip_id"].to_pylist() == ["shoot_bow/other ü"]
        with open_video(manifest.resolved_uris()[0]) as video:
            assert video.info.num_frames == 2

    def test_folds(self, lists):
        manifest, _ = run("jhmdb", lists, "s3://bucket/jhmdb")
        assert manifest.splits() == {"test": 1, "train": 21}
        assert "(split 2): 21 clips; the published list has 22" in refused("jhmdb", lists, "s3://bucket/j", fold=2)
        assert run("jhmdb", lists, "s3://bucket/j", fold=3, partial=True)[0].splits() == {"test": 21}
        assert "fold 4: JHMDB has the official splits 1, 2, 3" in refused("jhmdb", lists, "s3://bucket/j", fold=4)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("a.avi 0", "shoot_bow_test_split1.txt:3: 'a.avi 0' is not of the form `clip.avi 1` (1 or 2)"),
            ("../a.avi 1", "is not of the form"),
            ("other ü.avi 1", "split1.txt:3: 'shoot_bow/other ü.avi' is listed twice, first in shoot_bow_test"),
        ],
    )
    def test_bad_lists(self, lists, monkeypatch, line, message):
        monkeypatch.setattr(jhmdb, "NUM_CLIPS", 23)
        with open(lists / "shoot_bow_test_split1.txt", "a") as stream:
            stream.write(line + "\n")
        assert message in refused("jhmdb", lists, "s3://bucket/jhmdb")

    def test_bad_folders(self, lists, tmp_path):
        (lists / "shoot_ball_test_split1.txt").unlink()
        assert "20 classes; JHMDB has 21" in refused("jhmdb", lists, tmp_path)
        assert "none: no such folder" in refused("jhmdb", tmp_path / "none", tmp_path)
