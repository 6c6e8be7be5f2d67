"""`w3ray explain` draws what the model computes, and refuses unusable input in one line."""

import io
import json
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from w3ray.cli import main
from w3ray.data.clip import ClipSpec, load_clip
from w3ray.data.manifest import read_manifest
from w3ray.evaluation.normalize import normalize_clips
from w3ray.explaining.record import record
from w3ray.models import build_model
from w3ray.models.bundle import ModelDescription, load_model, write_model
from w3ray.storage import RemotePath, upload

CLASSES = ("moves-right", "moves-left", "opens", "closes", "put-together", "pulled-apart", "appears", "vanishes")
W3, CBAM = {"kind": "w3", "start": "near_open"}, {"kind": "cbam", "start": "plain"}  # starts whose gates are not all 1


def write_small_model(folder: Path, attention, *, classes=CLASSES, stage="student", seed=0, **clip) -> str:
    torch.manual_seed(seed)
    options = {"name": "tsm", "backbone": "resnet_small", "num_classes": len(classes), "attention": attention}
    model = build_model(**options)
    torch.nn.init.normal_(model.classifier.weight, 0, 0.3)
    description = ModelDescription(
        model=options,
        clip={"num_frames": 8, "size": 40, **clip},
        classes=classes,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.4),
        stage=stage,
    )
    write_model(folder, model, description)
    return str(folder)


@pytest.fixture(scope="module")
def video(motion_manifest: Path) -> str:
    return read_manifest(str(motion_manifest)).resolved_uris()[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model as in a stage's folder."""
    return write_small_model(tmp_path_factory.mktemp("stages") / "student-0123456789ab" / "model", W3)


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of four frames, because most of an explanation's time goes into the film's frames."""
    return write_small_model(tmp_path_factory.mktemp("brief") / "model", W3, num_frames=4)


def explain(capsys, *words: str) -> dict:
    assert main(["explain", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys, *words: str) -> str:
    """The one line of a refusal. Nothing else is printed."""
    assert main(["explain", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


KINDS = ("channel", "spatial")


def own_scores(folder: str, video: str) -> np.ndarray:
    network, about = load_model(folder)
    frames_THWC, _ = load_clip(video, label=0, spec=ClipSpec(**about.clip), rng=None)
    x_BTCHW = normalize_clips(torch.from_numpy(frames_THWC)[None], mean=about.mean, std=about.std)
    with torch.no_grad():
        return network(x_BTCHW).logits_BK.softmax(dim=1)[0].numpy()


@pytest.fixture(scope="module")
def explained(model, video, tmp_path_factory) -> dict:
    """One explanation, shared by several tests. It is of the stage's folder, which gives the same as its model."""
    folder = tmp_path_factory.mktemp("explained") / "out"
    printed = io.StringIO()
    with redirect_stdout(printed):
        words = ["explain", str(Path(model).parent), video, "--out", str(folder), "--top", "99", "--true", "opens"]
        assert main([*words, "--json"]) == 0
    return json.loads(printed.getvalue())


def test_scores_are_the_models_own(explained, model, video):
    assert explained["model"] == model
    (answer,) = explained["videos"]
    (one,) = answer["models"]
    scores_K = own_scores(model, video)
    assert {row["class"]: row["score"] for row in one["top"]} == dict(zip(CLASSES, map(float, scores_K), strict=True))
    assert [row["score"] for row in one["top"]] == sorted(map(float, scores_K), reverse=True)
    assert one["predicted"] == CLASSES[scores_K.argmax()]
    assert (answer["true"], one["map"], one["name"]) == ("opens", "attention", "TSM + W3")
    assert len(one["map_activity"]) == 8
    assert [block["stage"] for block in one["blocks"]] == [1, 2, 3, 4]
    assert all(len(block["channel_activity"]) == len(block["spatial_activity"]) == 8 for block in one["blocks"])


def check_files(answer: dict, num_frames: int) -> None:
    with Image.open(answer["strip"]) as strip, Image.open(answer["stages"]) as stages:
        assert strip.size[0] == stages.size[0] > 1000
        assert stages.size[1] > strip.size[1] > 300
    with av.open(answer["film"]) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) == 4 * num_frames
    folder = Path(answer["strip"]).parent
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        Path(answer[name]).name for name in ("strip", "stages", "film")
    )


def test_files_open_again(explained):
    check_files(explained["videos"][0], 8)


def test_files_of_a_longer_clip_open_again(capsys, tmp_path, video):
    model = write_small_model(tmp_path / "model", W3, num_frames=16)
    (answer,) = explain(capsys, model, video, "--out", str(tmp_path / "out"))["videos"]
    check_files(answer, 16)


def test_several_videos_beside_another_model(capsys, tmp_path, brief, motion_manifest):
    videos = read_manifest(str(motion_manifest)).resolved_uris()[:2]
    twin = tmp_path / "elsewhere" / Path(videos[0]).name
    twin.parent.mkdir()
    shutil.copy(videos[0], twin)
    plain = write_small_model(tmp_path / "plain", None, num_frames=4)
    document = explain(capsys, brief, *videos, str(twin), "--against", plain, "--out", str(tmp_path / "out"))
    assert (document["model"], document["against"]) == (brief, plain)
    assert [answer["video"] for answer in document["videos"]] == [*videos, str(twin)]
    # Two videos with the same name get different files.
    paths = [answer[name] for answer in document["videos"] for name in ("strip", "stages", "film")]
    assert len({path for path in paths if Path(path).is_file()}) == 9
    for answer in document["videos"]:
        made_of = {one["name"]: one["map"] for one in answer["models"]}
        assert made_of == {"TSM + W3": "attention", "TSM": "gradcam"}
        best = answer["models"][1]["top"][0]
        assert best["score"] == float(own_scores(plain, answer["video"]).max())


def test_models_of_one_make_are_told_apart(capsys, tmp_path, brief, video):
    for stage, names in {"teacher": ["student", "teacher"], "student": ["A", "B"]}.items():
        other = write_small_model(tmp_path / stage, W3, stage=stage, seed=1, num_frames=4)
        (answer,) = explain(capsys, brief, video, "--against", other, "--out", str(tmp_path / "out"))["videos"]
        assert [one["name"] for one in answer["models"]] == [f"TSM + W3 ({name})" for name in names]


def test_from_object_storage(capsys, tmp_path, explained, model, video, s3):
    """Object storage gives the same answer as a disk."""
    folder = RemotePath("s3://bucket/stages/student-0")
    upload(Path(model), folder / "model", last="model.json")
    (folder / "clip.mp4").upload(Path(video))
    address = str(folder / "clip.mp4")
    document = explain(capsys, str(folder), address, "--out", str(tmp_path / "s3"), "--top", "99")
    assert (document["model"], document["videos"][0]["video"]) == (f"{folder}/model", address)
    assert document["videos"][0]["models"] == explained["videos"][0]["models"]
    assert "cannot be fetched: no such file" in refusal(capsys, str(folder), f"{folder}/absent.mp4")
    assert "no model here" in refusal(capsys, "s3://bucket/nothing", address)


def test_text(capsys, tmp_path, brief, video):
    assert main(["explain", brief, video, "--out", str(tmp_path), "--top", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == video
    assert lines[1].startswith("  TSM + W3: ")
    assert lines[1].endswith("%")
    assert [line.split()[0] for line in lines[2:5]] == ["strip", "stages", "film"]
    assert lines[5].strip() == "TSM + W3: gates over these videos"
    assert [line.split()[:2] for line in lines[7:15]] == [[str(s), kind] for s in (1, 2, 3, 4) for kind in KINDS]
    faults = [line for line in lines[15:] if line.startswith("TSM + W3: the ")]
    assert len(faults) == 2
    assert all("have not moved" in line for line in faults), "it was never trained"


def test_health_of_the_gates_over_all_videos(capsys, tmp_path, brief, motion_manifest):
    """Equals the health of the gates that `record` keeps for each video."""
    videos = sorted(str(path) for path in motion_manifest.parent.glob("train/*/00000.mp4"))[:2]
    plain = write_small_model(tmp_path / "plain", None, num_frames=4)
    answer = explain(capsys, brief, *videos, "--against", plain, "--out", str(tmp_path / "out"))
    ours, theirs = answer["attention"]
    assert (ours["name"], theirs) == ("TSM + W3", {"name": "TSM", "stages": [], "faults": []})
    network, about = load_model(brief)
    looks = []
    for video in videos:
        frames_THWC, _ = load_clip(video, label=0, spec=ClipSpec(**about.clip), rng=None)
        x_BTCHW = normalize_clips(torch.from_numpy(frames_THWC)[None], mean=about.mean, std=about.std)
        with torch.no_grad():
            looks += record(network, x_BTCHW)[1]
    for stage in ours["stages"]:
        for kind, name in zip(KINDS, ("gate_TC", "mask_THW"), strict=True):
            values = np.stack([getattr(look, name) for look in looks if look.stage == stage["stage"]])
            assert stage[kind]["mean"] == pytest.approx(values.mean(dtype=np.float64), rel=1e-6)
            assert stage[kind]["std"] == pytest.approx(values.std(dtype=np.float64), rel=1e-6)


class TestBadInput:
    def test_no_model(self, capsys, tmp_path, video):
        assert "no model here" in refusal(capsys, str(tmp_path), video, "--out", str(tmp_path / "out"))
        assert "no model here" in refusal(capsys, str(tmp_path / "absent"), video)
        assert not (tmp_path / "out").exists()

    def test_the_storage_of_a_run(self, capsys, tmp_path, video):
        for stage in ("teacher-0", "student-1"):
            write_small_model(tmp_path / "runs" / "stages" / stage / "model", W3)
        (tmp_path / "runs" / "stages" / "unfinished-2").mkdir()
        stages = tmp_path / "runs" / "stages"
        for folder in (tmp_path / "runs", stages):
            line = refusal(capsys, str(folder), video)
            assert line.endswith(f"one of {stages / 'student-1'}, {stages / 'teacher-0'}")

    def test_no_video(self, capsys, tmp_path, model):
        text = tmp_path / "text.mp4"
        text.write_text("no video")
        assert f"{text}: " in refusal(capsys, model, str(text), "--out", str(tmp_path / "out"))
        assert not (tmp_path / "out").exists()
        absent = str(tmp_path / "absent.mp4")
        assert f"{absent}: cannot be read: No such file" in refusal(capsys, model, absent, "--out", str(tmp_path))

    def test_real_odd_files(self, capsys, tmp_path, brief, real_data):
        for name in ("audio_only.mp3", "zero_bytes.webm"):
            assert name in refusal(capsys, brief, str(real_data / "odd" / name), "--out", str(tmp_path))
        rotated = str(real_data / "odd" / "rotation_90.mov")
        assert explain(capsys, brief, rotated, "--out", str(tmp_path))["videos"][0]["video"] == rotated

    def test_a_model_without_attention(self, capsys, tmp_path, video):
        plain = write_small_model(tmp_path / "plain", None)
        assert "without attention" in refusal(capsys, plain, video, "--out", str(tmp_path))

    def test_models_that_see_other_clips(self, capsys, tmp_path, model, video):
        for field, value in {"num_frames": 4, "size": 48, "sampling": "dense"}.items():
            other = write_small_model(tmp_path / field, CBAM, **{field: value})
            line = refusal(capsys, model, video, "--against", other, "--out", str(tmp_path / "out"))
            assert f"--against {other}" in line
            assert f"{field}=" in line
        assert not (tmp_path / "out").exists()

    def test_models_of_other_classes(self, capsys, tmp_path, model, video):
        fewer = write_small_model(tmp_path / "fewer", CBAM, classes=CLASSES[:4])
        assert "4 classes instead of 8" in refusal(capsys, model, video, "--against", fewer)
        other = write_small_model(tmp_path / "other", CBAM, classes=CLASSES[::-1])
        assert "other classes, or in another order" in refusal(capsys, model, video, "--against", other)

    def test_no_such_class(self, capsys, model, video):
        line = refusal(capsys, model, video, "--true", "move-right")
        assert "did you mean 'moves-right'?" in line

    def test_a_file_in_the_way(self, capsys, tmp_path, model, video):
        (tmp_path / "out").write_text("")
        assert f"cannot write to {tmp_path / 'out'}" in refusal(capsys, model, video, "--out", str(tmp_path / "out"))
