"""`w3ray predict --window`: the scores of each window, the files, and what is refused."""

import csv
import json
import re
import threading
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from videos import write_frames, write_video

from w3ray.cli import main
from w3ray.data.clip import ClipSpec
from w3ray.data.manifest import build_manifest, write_manifest
from w3ray.errors import InputError
from w3ray.evaluation.normalize import IMAGENET_MEAN, IMAGENET_STD
from w3ray.models import build_model
from w3ray.models.bundle import ModelDescription, write_model
from w3ray.scoring.predict import predict
from w3ray.scoring.timeline import NoTimeline, VideoTimeline, predict_windows, timeline_settings

CLASSES = ("opens", "closes", "turns", "rests")
HEADS = (("what", 2), ("how", 2))


def model_in(folder: Path, heads: tuple = (), **clip) -> str:
    """An untrained model with large weights, so that clips differ in their scores."""
    arguments = {"name": "tsm", "backbone": "resnet_small", "num_classes": len(CLASSES)}
    torch.manual_seed(1)
    network = build_model(**arguments)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    spec = asdict(ClipSpec(**{"num_frames": 4, "size": 32, **clip}))
    description = ModelDescription(
        model=arguments, clip=spec, classes=CLASSES, mean=IMAGENET_MEAN, std=IMAGENET_STD, head_sizes=heads
    )
    write_model(folder, network, description)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return model_in(tmp_path_factory.mktemp("model") / "one")


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> str:
    """Seven seconds and three frames at 25 frames per second."""
    return str(write_video(tmp_path_factory.mktemp("videos") / "long.mp4", 178))


def timeline(model: str, video: str, **settings) -> VideoTimeline:
    (one,) = predict_windows(model, [video], **settings)
    assert isinstance(one, VideoTimeline), one
    return one


@pytest.mark.parametrize("protocol", ["1clip-center", "3crop-2clip"])
def test_scores_are_those_of_a_manifest_with_the_same_spans(model, video, tmp_path, protocol):
    found = timeline(model, video, window_s=1.5, stride_s=0.4, protocol=protocol)
    starts_s = found.starts_s_W.tolist()
    count = len(starts_s)
    assert count == 16  # 15 that fit, and the last one, which ends with the video
    columns = {
        "clip_id": [f"{number:03d}" for number in range(count)], "uri": [video] * count, "label": [0] * count,
        "split": ["test"] * count, "start_s": starts_s, "end_s": [start_s + 1.5 for start_s in starts_s],
    }  # fmt: skip
    manifest = write_manifest(build_manifest(columns, CLASSES), tmp_path / "windows.parquet").location
    asked = predict(model, manifest=manifest, protocol=protocol, top=len(CLASSES))
    for scores_S, one in zip(found.scores_WS, asked, strict=True):
        named = dict(one.top)
        assert scores_S.tolist() == pytest.approx([named[name] for name in CLASSES], abs=1e-5)
    assert np.ptp(found.scores_WS, axis=0).max() > 0.01  # windows differ, so the test can fail


def test_settings_have_defaults():
    settings = timeline_settings(2.0)
    assert (settings.stride_s, settings.smooth_s, settings.threshold) == (1.0, 2.0, 0.5)


def test_a_folder_of_frames(model, tmp_path):
    found = timeline(model, str(write_frames(tmp_path / "frames", 100)), window_s=1.0)
    assert (found.duration_s, found.num_frames) == (pytest.approx(100 / found.fps), 100)
    assert np.isfinite(found.scores_WS).all()


def seconds(stamp: str) -> float:
    hours, minutes, rest = stamp.replace(",", ".").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


def test_command(model, video, tmp_path, capsys):
    """The segments of the document, of the JSON file and of the subtitles are the same; the table has each window."""
    out = tmp_path / "new" / "timelines"
    arguments = ["--window", "1.5", "--stride", "0.4", "--threshold", "0.3", "--out", str(out), "--json"]
    assert main(["predict", model, video, *arguments]) == 0
    (row,) = json.loads(capsys.readouterr().out)["timelines"]
    assert row["windows"] == 16
    assert sorted(path.name for path in out.iterdir()) == ["long.csv", "long.json", "long.png", "long.srt"]
    assert row["files"]["picture"] == str(out / "long.png")
    found = timeline(model, video, window_s=1.5, stride_s=0.4, threshold=0.3)
    assert row["segments"] == [segment.document() for segment in found.segments]
    assert row["segments"]
    document = json.loads((out / "long.json").read_text())
    assert document["segments"] == row["segments"]
    assert (document["model"], document["video"], document["smooth_s"]) == (model, video, 1.5)
    assert [one["start_s"] for one in document["windows"]] == pytest.approx(found.starts_s_W.tolist())
    assert document["windows"][3]["top"][0]["score"] == pytest.approx(float(found.scores_WS[3].max()))
    with (out / "long.csv").open(newline="") as file:
        heading, *lines = list(csv.reader(file))
    assert heading == ["start_s", "end_s", "class", "score", *CLASSES]
    assert np.array([line[4:] for line in lines], float) == pytest.approx(found.scores_WS, rel=1e-4, abs=1e-6)
    cues = (out / "long.srt").read_text().strip().split("\n\n")
    assert len(cues) == len(row["segments"])
    for number, (cue, segment) in enumerate(zip(cues, row["segments"], strict=True), start=1):
        place, stamps, text = cue.split("\n")
        assert place == str(number)
        assert re.fullmatch(r"\d\d:\d\d:\d\d,\d\d\d --> \d\d:\d\d:\d\d,\d\d\d", stamps)
        assert [seconds(stamp) for stamp in stamps.split(" --> ")] == pytest.approx(
            [segment["start_s"], segment["end_s"]], abs=1e-3
        )
        assert text.startswith(segment["class"])
    with Image.open(out / "long.png") as picture:
        assert picture.width > 1000
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 20


def test_the_table_for_people(model, video, tmp_path, capsys):
    assert main(["predict", model, video, "--window", "2", "--threshold", "0.3", "--out", str(tmp_path / "t")]) == 0
    shown = capsys.readouterr().out
    assert "0:00:07.1, 7 windows" in shown
    assert re.search(r"0:00:00\.0 .* (opens|closes|turns|rests) +\d+\.\d%", shown)
    assert main(["predict", model, video, "--window", "2", "--threshold", "1", "--out", str(tmp_path / "t")]) == 0
    assert "no segment" in capsys.readouterr().out
    assert (tmp_path / "t" / "long.srt").read_text() == ""


def test_several_heads(video, tmp_path, capsys):
    model = model_in(tmp_path / "two", HEADS)
    out = tmp_path / "t"
    assert main(["predict", model, video, "--window", "2", "--threshold", "0.1", "--out", str(out), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["timelines"]
    first = row["segments"][0]
    assert first["class"] == f"{first['what']['class']} {first['how']['class']}"
    heading = (out / "long.csv").read_text().splitlines()[0]
    assert heading == "start_s,end_s,class,score,what: opens,what: closes,how: turns,how: rests"


def test_a_video_that_cannot_be_read_does_not_stop_the_others(model, video, tmp_path, capsys):
    """Two videos of the same name have files of their own."""
    broken, short = tmp_path / "broken.mp4", write_video(tmp_path / "short.mp4", 30)
    broken.write_bytes(b"no video")
    other = write_video(tmp_path / "other" / "long.avi", 100, codec="mpeg4")
    out = tmp_path / "t"
    names = [str(path) for path in (broken, short, other, video)]
    assert main(["predict", model, *names, "--window", "2", "--out", str(out), "--json"]) == 0
    rows = {row["video"]: row for row in json.loads(capsys.readouterr().out)["timelines"]}
    assert set(rows) == set(names)
    assert "reason" in rows[str(broken)]
    assert rows[str(short)]["reason"].startswith("--window 2: longer than the video, which has 1.20 s")
    assert {Path(rows[name]["files"]["json"]).name for name in (str(other), video)} == {"long.json", "long-2.json"}
    assert main(["predict", model, str(broken), "--window", "2", "--out", str(out)]) == 1
    assert "none of 1 videos can be read" in capsys.readouterr().err


WRONG = {
    "--window longer": (["--window", "8"], "long.mp4: --window 8: longer than the video, which has 7.12 s"),
    "--window 0": (["--window", "0"], "--window 0: must be a number of seconds above 0"),
    "--window nan": (["--window", "nan"], "--window nan: must be a number"),
    "--window of a frame": (["--window", "0.04"], "shorter than two frames"),
    "--stride larger": (
        ["--window", "2", "--stride", "2.5"],
        "--stride 2.5: must be above 0 and at most --window",
    ),
    "--stride 0": (["--window", "2", "--stride", "0"], "--stride 0: must be above 0"),
    "--stride below a frame": (["--window", "2", "--stride", "0.001"], "shorter than one frame"),
    "--smooth": (["--window", "2", "--smooth", "-1"], "--smooth -1: must be a number of seconds, 0 or more"),
    "--min-segment": (["--window", "2", "--min-segment", "inf"], "--min-segment inf: must be a number of seconds"),
    "--threshold": (["--window", "2", "--threshold", "50"], "--threshold 50: must be between 0 and 1"),
    "--top": (["--window", "2", "--top", "0"], "--top must be at least 1"),
    "alone": (["--stride", "1"], "--stride is about windows that slide over a video; add --window"),
    "--manifest": (["--window", "2", "--manifest", "x"], "--manifest cannot be used with --window"),
    "--address": (["--window", "2", "--address", "auto"], "--address cannot be used with --window"),
    "--protocol": (["--window", "2", "--protocol", "5clip"], "no such protocol"),
    "a file": (["--window", "2", "--out", "lines.jsonl"], "--out lines.jsonl: with --window this is a folder"),
    "in a file": (["--window", "2", "--out", __file__ + "/x"], "cannot be written"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_options_are_refused_in_one_line(model, video, tmp_path, monkeypatch, capsys, case):
    options, message = WRONG[case]
    monkeypatch.chdir(tmp_path)
    assert main(["predict", model, video, *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("clip", "what"),
    [
        ({"flow_fields": 5}, "reads optical flow"),
        ({"boxes_per_frame": 3}, "needs boxes"),
        ({"bank_window": 3, "bank_channels": 8, "bank_every_s": 1.0}, "reads a bank"),
    ],
)
def test_models_that_need_more_than_frames_are_refused(video, tmp_path, clip, what):
    model = model_in(tmp_path / "model", **clip)
    with pytest.raises(InputError, match=f"{what}.*manifest"):
        next(predict_windows(model, [video], window_s=2.0))


def test_the_reading_thread_ends_when_scoring_fails(model, video):
    """Before the video is closed: closing a video that another thread decodes would crash the process."""

    class Full(Exception):
        pass

    def stop(video: str, done: int, total: int) -> None:
        raise Full

    with pytest.raises(Full) as failed:
        next(predict_windows(model, [video], window_s=1.0, stride_s=0.04, on_windows=stop))
    assert failed.tb is not None  # it keeps the frames alive, and with them a generator that nobody closed
    assert not [thread for thread in threading.enumerate() if thread.name == "w3ray-ahead"]


def test_a_video_that_breaks_in_its_middle_has_no_timeline(model, video, tmp_path):
    content = bytearray(Path(video).read_bytes())
    place = len(content) // 2
    content[place : place + 3000] = bytes(3000)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    (one,) = predict_windows(model, [str(damaged)], window_s=2.0)
    assert isinstance(one, NoTimeline)
    assert not one.wrong_setting
