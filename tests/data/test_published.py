"""Published data sets: exact labels and splits from the real annotation files, and one line for each thing amiss."""

import json
from pathlib import Path

import pytest
from videos import write_frames, write_video

from w3ray.cli import main
from w3ray.data.decoders import open_video
from w3ray.data.importers import IMPORTERS, ucf101
from w3ray.data.importers import something_something_v1 as ssv1
from w3ray.data.importers import something_something_v2 as ssv2
from w3ray.data.importers._published import mirrored
from w3ray.data.manifest import read_manifest, write_manifest
from w3ray.errors import InputError


class Noted(list):
    """Collects the lines that an importer has for its user."""

    def __call__(self, line: str) -> None:
        assert "\n" not in line
        self.append(line)


def run(name, annotations, videos, **options):
    notes = Noted()
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
    """The classes that become another one in a mirror."""
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
        """The training list is not among the real files: the rest is taken as partial."""
        source = real_data / "annotations" / self.NAME
        entries = json.loads((source / "something-something-v2-validation.json").read_text())
        videos = touch(tmp_path / "v", *(f"{entry['id']}.webm" for entry in entries[:-1]))
        assert "no something-something-v2-train.json or train.json" in refused(self.NAME, source, videos)
        manifest, notes = run(self.NAME, source, videos, partial=True)
        assert manifest.splits() == {"val": 24_776}
        assert manifest.classes == tuple((source / "label_map.txt").read_text().splitlines())
        # As TSM's own list of pairs has them.
        assert {one: other for one, other in manifest.flip_map.items() if one < other} == {86: 87, 93: 94, 166: 167}
        assert "27157 clips without labels are left out" in notes[1]
        assert f"1 of 24777 clips are missing or not whole: {entries[-1]['id']}.webm; they are left out" in notes[2]
        rows = manifest.table.to_pylist()
        assert [row["clip_id"] for row in rows[:2]] == ["74225.webm", "116154.webm"]
        assert manifest.classes[rows[0]["label"]] == "Spinning something that quickly stops spinning"

    def test_command(self, tmp_path, capfd, small_ssv2):
        videos = tmp_path / "20bn something ü"
        for name in ("3", "12", "5"):
            write_video(videos / f"{name}.webm", 12, codec="libvpx-vp9")
        words = ["data", "import", self.NAME, str(write_ssv2(tmp_path / "lists")), "--videos", str(videos)]
        assert main([*words, "--out", str(tmp_path / "m.parquet"), "--json"]) == 0
        captured = capfd.readouterr()
        assert json.loads(captured.out)["splits"] == {"train": 2, "val": 1}
        assert captured.err.endswith("something-something-v2-test.json: 2 clips without labels are left out\n")
        manifest = read_manifest(tmp_path / "m.parquet")
        assert [(row["clip_id"], row["label"], row["split"]) for row in manifest.table.to_pylist()] == [
            ("3.webm", 7, "train"),
            ("12.webm", 172, "train"),
            ("5.webm", 0, "val"),
        ]
        assert manifest.flip_map == {172: 173, 173: 172}
        with open_video(manifest.resolved_uris()[0]) as video:
            assert video.info.num_frames == 12

    def test_partial_downloads(self, tmp_path, small_ssv2):
        lists, videos = write_ssv2(tmp_path / "lists"), touch(tmp_path / "v", "12.webm")
        (videos / "3.webm").touch()  # empty: the download had just begun
        text = (
            f"{videos}: 2 of 3 clips are missing or not whole: 3.webm, 5.webm; get them, or let --partial take what is"
        )
        assert text in refused(self.NAME, lists, videos)
        manifest, notes = run(self.NAME, lists, videos, partial=True)
        assert manifest.splits() == {"train": 1}
        assert "2 of 3 clips are missing or not whole: 3.webm, 5.webm; they are left out" in notes[-1]
        assert "nothing is there" in refused(self.NAME, lists, touch(tmp_path / "w", "x"), partial=True)
        assert "no such folder" in refused(self.NAME, lists, tmp_path / "none")

    def test_a_remote_folder_is_not_looked_at(self, tmp_path, small_ssv2):
        manifest, notes = run(self.NAME, write_ssv2(tmp_path / "lists"), "s3://bucket/ssv2/")
        assert manifest.table["uri"].to_pylist()[0] == "s3://bucket/ssv2/3.webm"
        assert "not looked whether the videos are there" in notes[-1]

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
        videos = touch(tmp_path / "v", *(f"{number}.webm" for number in (1, 3, 4, 5, 12)))
        assert message in refused(self.NAME, write_ssv2(tmp_path / "lists", **lists), videos)

    def test_bad_bytes(self, tmp_path, small_ssv2):
        lists = write_ssv2(tmp_path / "lists")
        (lists / "something-something-v2-train.json").write_bytes(b'[{"id": "1", "template": "\xff"}]')
        assert "train.json: byte 26 is no UTF-8 text" in refused(self.NAME, lists, tmp_path)
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
    with pytest.raises(InputError, match=r"column 'clip_id': 'a/\\udcff.mp4' is no UTF-8 text; rename it"):
        IMPORTERS["folder"](tmp_path)


def test_manifests_can_be_written(tmp_path, small_ssv2):
    videos = touch(tmp_path / "v", "3.webm", "12.webm", "5.webm")
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
        assert manifest.splits() == {"train": 118_562, "val": 14_787}
        assert manifest.classes == tuple((source / "jester-v1-labels.csv").read_text().splitlines())
        assert swapped(manifest) == {
            "Swiping Left": "Swiping Right",
            "Swiping Right": "Swiping Left",
            "Sliding Two Fingers Left": "Sliding Two Fingers Right",
            "Sliding Two Fingers Right": "Sliding Two Fingers Left",
            "Turning Hand Clockwise": "Turning Hand Counterclockwise",
            "Turning Hand Counterclockwise": "Turning Hand Clockwise",
        }
        assert "14743 clips without labels are left out" in notes[0]
        row = manifest.table.slice(0, 1).to_pylist()[0]
        assert (row["uri"], manifest.classes[row["label"]]) == ("s3://bucket/jester/34870", "Drumming Fingers")

    @pytest.mark.real_data
    def test_a_partial_download(self, real_data, tmp_path):
        source = real_data / "annotations" / "jester"
        videos = tmp_path / "20bn jester ü"
        write_frames(videos / "34870", 3)
        (videos / "9223").mkdir(parents=True)  # no image in it yet
        text = "133348 of 133349 clips are missing or not whole: 56557, 129112, 63861, 131717, 23595, ...; get them, or let"
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
        write_lists(
            lists, self.NAME, train="1;Holding something\n2;Opening something\n", validation="3;Folding something"
        )
        manifest, _ = run(self.NAME, lists, "s3://bucket/v1")
        assert manifest.classes == tuple(real.read_text().splitlines())
        # As TSM's own list of pairs has them.
        assert {one: other for one, other in manifest.flip_map.items() if one < other} == {2: 4, 30: 41, 52: 66}
        assert manifest.table["label"].to_pylist() == [0, 5, 9]

    def test_command(self, lists, tmp_path, capfd):
        for name in ("100218", "4", "5"):
            write_frames(tmp_path / "v 1" / name, 4)
        words = ["data", "import", self.NAME, str(lists), "--videos", str(tmp_path / "v 1"), "--json"]
        assert main([*words, "--out", str(tmp_path / "m.parquet")]) == 0
        captured = capfd.readouterr()
        assert json.loads(captured.out)["splits"] == {"train": 2, "val": 1}
        assert captured.err.endswith("test.csv: 1 clips without labels are left out\n")
        rows = read_manifest(tmp_path / "m.parquet").table.to_pylist()
        assert [(row["uri"], row["label"]) for row in rows] == [("v 1/100218", 7), ("v 1/4", 173), ("v 1/5", 0)]

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
            (dict(validation="6;Doing thing 0 with something\n"), "1 of 3 clips are missing or not whole: 6; get them"),
        ],
    )
    def test_bad_input(self, lists, tmp_path, kinds, message):
        for name in ("100218", "4", "5"):
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
            ("trainlist01.txt", "YoYoo/v_YoYo_g01_c01.avi 7", "'YoYoo' is none of the 101 classes; did you mean 'YoYo'?"),
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
        assert (manifest.num_classes, manifest.classes[0], manifest.classes[50]) == (51, "brush_hair", "wave")
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
