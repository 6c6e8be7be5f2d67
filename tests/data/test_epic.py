"""EPIC-KITCHENS: verbs and nouns from the real annotation files, in videos and frame folders, and errors in them."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from test_published import Noted, refused, run
from videos import frame_numbers, write_frames, write_video

from w3ray.cli import main
from w3ray.data.decoders import open_video
from w3ray.data.importers import epic_kitchens_55, epic_kitchens_100
from w3ray.data.manifest import read_manifest

EPIC_55, EPIC_100 = "epic-kitchens-55", "epic-kitchens-100"
HEADER_55 = "uid,participant_id,video_id,narration,start_timestamp,stop_timestamp,start_frame,stop_frame"
LABELS = ",verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
TIMES = "participant_id,video_id,start_timestamp,stop_timestamp,start_frame,stop_frame"
# From a video with 60 frames per second. uid 5 has the times of uid 4, like two pairs in the real list.
TRAIN = """0,P01,P01_01,open door,00:00:00.14,00:00:00.60,8,36,open,2,door,8,['door'],[8]
4,P01,P01_01,a,00:00:00.50,00:00:00.90,30,54,open,124,door,351,['door'],[351]
5,P01,P01_01,b,00:00:00.50,00:00:00.90,30,54,open,0,door,0,['door'],[0]
7,P26,P26_01,c,00:00:00.20,00:00:00.40,12,24,open,3,door,1,['door'],[1]
"""
SEEN = "19,P01,P01_02,00:00:00.00,00:00:00.50,1,30\n"
UNSEEN = "20,P09,P09_01,00:00:00.10,00:00:01.05,6,63\n"
NUM_FRAMES = {"train/P01/P01_01": 60, "train/P26/P26_01": 60, "test/P01/P01_02": 60, "test/P09/P09_01": 60}


def numbered(kind: str, count: int) -> str:
    return "".join(f"{number},{kind} {number},\"['x']\"\n" for number in range(count))


def write_55(folder: Path, **texts: str | None) -> Path:
    """The files of EPIC-KITCHENS-55, with four labelled segments and two others."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "EPIC_verb_classes": "verb_id,class_key,verbs\n" + numbered("verb", 125),
        "EPIC_noun_classes": "noun_id,class_key,nouns\n" + numbered("noun", 352),
        "EPIC_video_info": "video,resolution,duration,fps\n"
        + "".join(f"{path.rpartition('/')[2]},1920x1080,1.0,60.0\n" for path in NUM_FRAMES),
        "EPIC_train_action_labels": f"{HEADER_55}{LABELS}\n{TRAIN}",
        "EPIC_test_s1_timestamps": f"uid,{TIMES}\n{SEEN}",
        "EPIC_test_s2_timestamps": f"uid,{TIMES}\n{UNSEEN}",
    }
    for name, text in (found | texts).items():
        if text is not None:
            (folder / f"{name}.csv").write_text(text)
    return folder


@pytest.fixture
def lists(tmp_path, monkeypatch):
    monkeypatch.setattr(epic_kitchens_55, "NUM_CLIPS", {"train": 4, "test-s1": 1, "test-s2": 1})
    monkeypatch.setattr(epic_kitchens_55, "VAL_GROUPS", ("P26",))
    return write_55(tmp_path / "lists")


@pytest.fixture
def videos(tmp_path):
    for path, num_frames in NUM_FRAMES.items():
        write_video(tmp_path / "EPIC 55" / "videos" / f"{path}.MP4", num_frames, rate=60)
    return tmp_path / "EPIC 55"


class TestEpic55:
    @pytest.mark.real_data
    def test_real_lists(self, real_data):
        source = real_data / "annotations" / EPIC_55
        manifest, notes = run(EPIC_55, source, "s3://bucket/ek/")
        assert manifest.splits() == {"test-s1": 8_047, "test-s2": 2_929, "train": 28_472 - 5_281, "val": 5_281}
        assert manifest.head_sizes == (("verb", 125), ("noun", 352))
        assert "116 segments whose verb has no class are left out" in notes[1]
        assert "36379 ends less than 0.1 s past the end of its video and is cut there" in notes[0]
        rows = {row["clip_id"]: row for row in manifest.table.to_pylist()}
        with open(source / "EPIC_train_action_labels.csv", newline="") as stream:
            listed = list(csv.DictReader(stream))
        verb, noun = manifest.heads.each()
        for row in listed:
            label = rows[row["uid"]]["label"]
            assert (verb.label(label), noun.label(label)) == (int(row["verb_class"]), int(row["noun_class"]))
        assert rows["0"] == {
            "clip_id": "0",
            "uri": "s3://bucket/ek/train/P01/P01_01.MP4",
            "start_s": 0.14,
            "end_s": 3.37,
            "reversed": False,
            "label": 2 * 352 + 8,
            "split": "train",
            "group": "P01",
        }
        assert manifest.heads.class_name(rows["0"]["label"]) == "open cupboard"
        assert {row["group"] for row in rows.values() if row["split"] == "val"} == {f"P{n}" for n in range(26, 32)}
        assert (rows["1924"]["uri"], rows["1924"]["label"]) == ("s3://bucket/ek/test/P01/P01_11.MP4", None)
        assert rows["36379"]["end_s"] == 1821.736567

    @pytest.mark.real_data
    def test_a_partial_download(self, real_data, tmp_path):
        """One video and no others. Frames are found by the numbers in the list."""
        source = real_data / "annotations" / EPIC_55
        write_frames(tmp_path / "frames_rgb_flow/rgb/train/P01/P01_01", 210, name="frame_{:010d}.jpg")
        manifest, notes = run(EPIC_55, source, tmp_path, partial=True)
        assert any("431 of 432 videos are not there: P01_02, P01_03, " in note for note in notes)
        (row,) = manifest.table.to_pylist()
        assert (row["clip_id"], row["start_s"], row["end_s"]) == ("0", 7 / 30, 202 / 30)
        with open_video(manifest.resolved_uris()[0]) as video:
            assert video.frame_span(row["start_s"], row["end_s"]) == (7, 202)
        assert "39447 of 39448 clips are missing or not whole" in refused(EPIC_55, source, tmp_path)

    def test_command(self, lists, videos, tmp_path, capfd):
        words = ["data", "import", EPIC_55, str(lists), "--videos", str(videos), "--out", str(tmp_path / "m.parquet")]
        assert main([*words, "--json"]) == 0
        captured = capfd.readouterr()
        document = json.loads(captured.out)
        assert document["splits"] == {"test-s1": 1, "test-s2": 1, "train": 3, "val": 1}
        assert document["heads"] == {"verb": 125, "noun": 352}
        assert document["counts"]["verb verb 124"] == {"test-s1": 0, "test-s2": 0, "train": 1, "val": 0}
        assert document["counts"]["(not known)"] == {"test-s1": 1, "test-s2": 1, "train": 0, "val": 0}
        assert captured.err.endswith("20 ends less than 0.1 s past the end of its video and is cut there\n")
        manifest = read_manifest(tmp_path / "m.parquet")
        assert [(r["clip_id"], r["label"], r["split"], r["group"]) for r in manifest.table.to_pylist()] == [
            ("0", 2 * 352 + 8, "train", "P01"),
            ("4", 124 * 352 + 351, "train", "P01"),
            ("5", 0, "train", "P01"),
            ("7", 3 * 352 + 1, "val", "P26"),
            ("19", None, "test-s1", "P01"),
            ("20", None, "test-s2", "P09"),
        ]
        row = manifest.table.to_pylist()[0]
        with open_video(manifest.resolved_uris()[0]) as video:
            first, stop = video.frame_span(row["start_s"], row["end_s"])
            assert frame_numbers(video.frames([first, stop - 1])) == [9, 35]
        assert main(words) == 0  # text output
        assert "noun noun 351" in capfd.readouterr().out

    def test_val_groups(self, lists, videos, tmp_path):
        manifest, _ = run(EPIC_55, lists, videos, val_groups=["P01"])
        assert manifest.splits() == {"test-s1": 1, "test-s2": 1, "train": 1, "val": 3}
        words = ["data", "import", EPIC_55, str(lists), "--videos", str(videos), "--out", str(tmp_path / "m.parquet")]
        assert main([*words, "--val-groups", "none"]) == 0
        assert read_manifest(tmp_path / "m.parquet").splits() == {"test-s1": 1, "test-s2": 1, "train": 4}
        text = "no participant 'P77' to hold out; it has P01, P26"
        assert text in refused(EPIC_55, lists, videos, val_groups=["P77"])
        assert "every participant is held out" in refused(EPIC_55, lists, videos, val_groups=["P01", "P26"])

    def test_without_test_lists(self, lists, videos):
        for name in ("s1", "s2"):
            (lists / f"EPIC_test_{name}_timestamps.csv").unlink()
        manifest, notes = run(EPIC_55, lists, videos)
        assert manifest.splits() == {"train": 3, "val": 1}
        assert notes[0].endswith("no split test-s1")

    @pytest.mark.parametrize(
        "place",
        [
            "train/P01/P01_01.MP4",
            "P01/videos/P01_01.MP4",
            "videos/train/P01/P01_01.MP4",
            "P01/P01_01.mp4",
            "P01_01.mp4",
        ],
    )
    def test_places_of_videos(self, lists, tmp_path, place):
        (tmp_path / "v" / place).parent.mkdir(parents=True)
        (tmp_path / "v" / place).write_bytes(b"x")
        manifest, _ = run(EPIC_55, lists, tmp_path / "v", partial=True)
        assert set(manifest.table["uri"].to_pylist()) == {str(tmp_path / "v" / place)}

    @pytest.mark.parametrize("place", ["train/P01/P01_01", "rgb/train/P01/P01_01", "P01/rgb_frames/P01_01", "P01_01"])
    @pytest.mark.parametrize("first", [0, 1])
    def test_places_of_frames(self, lists, tmp_path, place, first):
        write_frames(tmp_path / "v" / place, 56, name="frame_{:010d}.jpg", first=first)
        manifest, _ = run(EPIC_55, lists, tmp_path / "v", partial=True)
        rows = manifest.table.to_pylist()
        assert [(row["clip_id"], row["start_s"], row["end_s"]) for row in rows[:2]] == [
            ("0", (8 - first) / 30, (37 - first) / 30),
            ("4", (30 - first) / 30, (55 - first) / 30),
        ]

    def test_patterns(self, lists, videos, tmp_path):
        manifest, _ = run(EPIC_55, lists, f"{videos}/videos/{{part}}/{{participant}}/{{video}}.MP4")
        assert manifest.table["uri"].to_pylist()[0] == str(videos / "videos/train/P01/P01_01.MP4")
        manifest, notes = run(EPIC_55, lists, "s3://bucket/rgb/{participant}/{video}")
        row = manifest.table.to_pylist()[0]
        assert (row["uri"], row["start_s"]) == ("s3://bucket/rgb/P01/P01_01", 7 / 30)
        assert "s3://bucket/rgb: videos are expected at {participant}/{video}" in notes[1]
        assert "a pattern may have only {video}, {participant} and {part}" in refused(
            EPIC_55, lists, "s3://bucket/{kitchen}.MP4"
        )

    def test_bad_folders(self, lists, videos, tmp_path):
        text = "videos are not there: P26_01"
        (videos / "videos/train/P26/P26_01.MP4").write_bytes(b"")
        notes = Noted()
        with pytest.raises(Exception, match="1 of 6 clips are missing or not whole: 7; get them"):
            epic_kitchens_55.import_epic_kitchens_55(lists, videos=str(videos), note=notes)
        assert text in notes[-1]
        write_frames(videos / "rgb/train/P01/P01_01", 60)
        assert "holds both videos (videos/train/P01/P01_01.MP4) and folders of frames" in refused(
            EPIC_55, lists, videos
        )
        assert "none: no such folder" in refused(EPIC_55, lists, tmp_path / "none")

    def test_missing_frames(self, lists, tmp_path):
        """One frame fewer than in the list is rounding: the segment is shortened. More missing frames are an error."""
        folder = write_frames(tmp_path / "v/train/P01/P01_01", 53)
        manifest, notes = run(EPIC_55, lists, tmp_path / "v", partial=True)
        assert [row["end_s"] for row in manifest.table.to_pylist()] == [36 / 30, 53 / 30, 53 / 30]
        assert any(
            "4, 5: ends a few frames after the last frame of its video and is cut there" in note for note in notes
        )
        for number in range(40, 54):
            (folder / f"{number:05d}.jpg").unlink()
        assert run(EPIC_55, lists, tmp_path / "v", partial=True)[0].table["clip_id"].to_pylist() == ["0"]
        (folder / "00020.jpg").unlink()
        assert "nothing is there" in refused(EPIC_55, lists, tmp_path / "v", partial=True)

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("open,124,door", "open,125,door", "labels.csv:3: verb '125' is not in 0 to 124: is the list of another"),
            ("door,351,", "door,352,", "labels.csv:3: noun '352' is not in 0 to 351"),
            ("open,124,", "stay,,", "labels.csv:3: verb '' is not in 0 to 124"),
            ("00:00:00.60", "00:00:01.20", "segment 0 lies from 0.14 to 1.2 s, past the end of P01_01, which is 1"),
            ("\n5,P01", "\n4,P01", "labels.csv:4: '4' is listed twice, first in EPIC_train_action_labels.csv:3"),
            ("\n5,P01", "\n19,P01", "s1_timestamps.csv:2: '19' is listed twice, first in EPIC_train_action"),
            ("00:00:00.60", "00:00:00.10", "segment 0 from 00:00:00.14 to 00:00:00.10, frames 8 to 36, is empty"),
            ("8,36,open", "0,36,open", "frames 0 to 36, is empty, or its frames are not counted from 1"),
            ("00:00:00.60", "0.60", "'0.60' is not a time such as 00:01:02.34"),
            ("0,P01,P01_01", "0,P01,P01_77", "labels.csv:2: the list of videos has no 'P01_77'"),
            ("0,P01,P01_01", "0,P01,../../x", "labels.csv:2: needs a uid, a participant such as P01 and one of"),
            ("0,P01,P01_01", "0,P02,P01_01", "labels.csv:2: needs a uid, a participant such as P01"),
            ("['door'],[8]", "['door']", "labels.csv:2: not 14 values, as the header has"),
            ("7,P26,P26_01,c,00:00:00.20,00:00:00.40,12,24,open,3,door,1,['door'],[1]\n", "", "3 clips; the published"),
            ("start_frame", "begin", "labels.csv: no column 'start_frame'; it has uid, participant_id"),
            ("uid,", "narration_id,", "a file of EPIC-KITCHENS-100, not of EPIC-KITCHENS-55: import that with `w3ray"),
        ],
    )  # fmt: skip
    def test_bad_lists(self, lists, videos, old, new, message):
        file = lists / "EPIC_train_action_labels.csv"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new, 1))
        assert message in refused(EPIC_55, lists, videos)

    def test_bad_class_files(self, lists, videos):
        for text, message in (
            ("verb_id,class_key,verbs\n" + numbered("verb", 97), "97 classes; EPIC-KITCHENS-55 has 125"),
            ("verb_id,class_key,verbs\n1,take,x\n", "EPIC_verb_classes.csv:2: class '1' where 0 is expected"),
            ("id,key,instances,category\n0,take,x,y\n", "a file of EPIC-KITCHENS-100, not of EPIC-KITCHENS-55"),
        ):
            write_55(lists, EPIC_verb_classes=text)
            assert message in refused(EPIC_55, lists, videos)


class TestEpic100:
    @pytest.mark.real_data
    def test_real_lists(self, real_data, tmp_path):
        """The real files do not include the training list. It is written in the form of the validation list."""
        source = real_data / "annotations" / EPIC_100
        assert "no EPIC_100_train.csv" in refused(EPIC_100, source, "s3://bucket/ek")
        for path in source.iterdir():
            shutil.copy(path, tmp_path)
        header, first = (source / "EPIC_100_validation.csv").read_text().splitlines()[:2]
        row = first.replace("P01_11_0", "P01_01_0").replace("P01,P01_11", "P01,P01_01")
        (tmp_path / "EPIC_100_train.csv").write_text(f"{header}\n{row}\n")
        assert "train.csv: 1 clips; the published list has 67217" in refused(EPIC_100, tmp_path, "s3://bucket/ek")
        manifest, notes = run(EPIC_100, tmp_path, "s3://bucket/ek", partial=True)
        assert manifest.splits() == {"test": 13_092, "train": 1, "val": 9_668}
        assert manifest.head_sizes == (("verb", 97), ("noun", 300))
        assert "P29_05_563 ends less than 0.1 s past the end" in notes[0]
        rows = manifest.table.to_pylist()
        assert rows[0]["uri"] == "s3://bucket/ek/P01/videos/P01_01.MP4"
        assert (rows[1]["clip_id"], manifest.heads.class_name(rows[1]["label"])) == ("P01_11_0", "take plate")
        assert (rows[-1]["label"], rows[-1]["split"]) == (None, "test")

    @pytest.mark.real_data
    def test_videos_and_frames(self, real_data, tmp_path):
        source = real_data / "annotations" / EPIC_100
        write_video(tmp_path / "v/P01/videos/P01_11.MP4", 150, rate=60)
        manifest, _ = run(EPIC_100, source, tmp_path / "v", partial=True)
        # They are in the list although this video is shorter than the original. Only reading would show it.
        assert manifest.table["uri"].to_pylist()[0] == str(tmp_path / "v/P01/videos/P01_11.MP4")
        write_frames(tmp_path / "f/P01/rgb_frames/P01_101", 250, name="frame_{:010d}.jpg")
        manifest, _ = run(EPIC_100, source, tmp_path / "f", partial=True)
        rows = manifest.table.to_pylist()
        assert [(row["clip_id"], row["split"], row["start_s"], row["end_s"]) for row in rows] == [
            ("P01_101_0", "test", 142 / 30, 193 / 30)
        ]

    @pytest.mark.real_data
    def test_the_other_version(self, real_data, tmp_path):
        both = real_data / "annotations"
        message = (
            "holds the files of EPIC-KITCHENS-100, not of EPIC-KITCHENS-55: import them with `w3ray data import epic-"
        )
        assert message in refused(EPIC_55, both / EPIC_100, tmp_path)
        message = (
            "holds the files of EPIC-KITCHENS-55, not of EPIC-KITCHENS-100: import them with `w3ray data import epic-"
        )
        assert message in refused(EPIC_100, both / EPIC_55, tmp_path)
        for path in (both / EPIC_55).iterdir():
            shutil.copy(path, tmp_path / path.name.replace("EPIC_", "EPIC_100_", 1))
        assert "a file of EPIC-KITCHENS-55, not of EPIC-KITCHENS-100" in refused(EPIC_100, tmp_path, tmp_path)

    def test_options(self, tmp_path, capfd):
        words = ["data", "import", EPIC_100, str(tmp_path), "--videos", str(tmp_path), "--out", str(tmp_path / "m")]
        assert main([*words, "--val-groups", "P01"]) == 2
        assert "--val-groups has no effect: epic-kitchens-100 has official splits" in capfd.readouterr().err

    def test_counts(self):
        assert epic_kitchens_100.NUM_CLIPS == {"train": 67_217, "val": 9_668, "test": 13_092}
        assert sum(epic_kitchens_55.NUM_CLIPS.values()) == 39_448
