"""Odd real files in `predict`: the scores of their content, or a reason. No file stops the others."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from decoders_here import each_decoder
from odd_files import FILES, decode_all
from videos import write_video

from w3ray.cli import main
from w3ray.data.clip import ClipSpec
from w3ray.data.decoders import DECODERS
from w3ray.data.manifest import build_manifest, write_manifest
from w3ray.evaluation.normalize import IMAGENET_MEAN, IMAGENET_STD
from w3ray.models import build_model
from w3ray.models.bundle import ModelDescription, write_model
from w3ray.scoring.predict import Prediction, predict

pytestmark = pytest.mark.real_data
CLASSES = ("opens", "closes", "turns", "rests")
SAME = 1e-5


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    """The same untrained model for each decoder. Its weights are large, so scores differ between clips."""
    arguments = {"name": "tsm", "backbone": "resnet_small", "num_classes": len(CLASSES)}
    torch.manual_seed(0)
    network = build_model(**arguments)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    folders = {}
    for decoder in DECODERS:
        clip = asdict(ClipSpec(num_frames=8, size=64, decoder=decoder))
        description = ModelDescription(
            model=arguments, clip=clip, classes=CLASSES, mean=IMAGENET_MEAN, std=IMAGENET_STD
        )
        folder = tmp_path_factory.mktemp("models") / decoder
        write_model(folder, network, description)
        folders[decoder] = str(folder)
    return folders


def check(found: Sequence[Prediction], decoder: str, names: Sequence[str]) -> None:
    """Every file once, in order, with scores or with the reason in the table."""
    assert [Path(one.video).name for one in found] == sorted(names)
    for one in found:
        name = Path(one.video).name
        reason = FILES[name].refusal(decoder)
        if reason is None:
            assert one.reason is None, name
            scores = [score for _, score in one.top]
            assert sorted(label for label, _ in one.top) == sorted(CLASSES)
            assert sum(scores) == pytest.approx(1.0, abs=SAME), name  # finite, too
            assert scores == sorted(scores, reverse=True)
        else:
            assert one.top == ()
            assert one.reason is not None
            assert one.reason.startswith(reason), name
            assert len(one.reason) < 200
            assert "\n" not in one.reason


@each_decoder
def test_each_file_has_scores_or_a_reason(real_data, models, decoder):
    folder = real_data / "odd"
    check(list(predict(models[decoder], [str(folder / name) for name in FILES])), decoder, list(FILES))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_the_same_on_a_cluster(real_data, models, monkeypatch):
    asked = [str(real_data / "odd" / name) for name in FILES]
    here = list(predict(models["pyav"], asked))
    monkeypatch.setattr("w3ray.scoring.predict.FEW", 3)
    there = list(predict(models["pyav"], asked))
    check(there, "pyav", list(FILES))
    for mine, theirs in zip(here, there, strict=True):
        assert (mine.video, mine.reason) == (theirs.video, theirs.reason)
        assert dict(theirs.top) == pytest.approx(dict(mine.top), abs=SAME)


def test_a_folder_of_some(real_data, models, tmp_path):
    """A folder leaves out files without the name of a video. Given alone, such a file is refused with a reason."""
    names = ["audio_only.mp3", "audio_only.wav", "minimal.flv", "rotation_90.mov", "zero_bytes.webm"]
    for name in names:
        (tmp_path / name).symlink_to(real_data / "odd" / name)
    check(list(predict(models["pyav"], [str(tmp_path)])), "pyav", names[2:])
    check(list(predict(models["pyav"], [str(tmp_path), f"{tmp_path}/audio_only.wav"])), "pyav", names[1:])


def test_command(real_data, models, tmp_path, monkeypatch, capsys):
    """Given by their plain names, also the one that starts with a dash. Reasons are in the place of scores."""
    monkeypatch.chdir(real_data / "odd")
    out = tmp_path / "lines.jsonl"
    names = ["audio_only.mp3", "rotation_90.mov", "-leading-dash.mp4"]
    assert main(["predict", models["pyav"], "--json", "--out", str(out), "--", *names]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert json.loads(capsys.readouterr().out)["predictions"] == lines
    found = {Path(line["video"]).name: line for line in lines}
    assert found["audio_only.mp3"]["reason"] == FILES["audio_only.mp3"].pyav
    assert all(len(found[name]["top"]) == len(CLASSES) for name in names[1:])
    assert main(["predict", models["pyav"], "audio_only.mp3", "zero_bytes.webm"]) == 1
    assert "none of 2 videos can be read" in capsys.readouterr().err


def write_reference(path: Path, images: Sequence[np.ndarray]) -> str:
    """A video of exactly these frames: lossless, without tags, with even times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "bgr0"
        for image in images:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="bgr0")))
        container.mux(stream.encode())
    return str(path)


def scores(model: str, video: str) -> dict[str, float]:
    (one,) = predict(model, [video])
    assert one.reason is None, one.reason
    return dict(one.top)


@pytest.fixture(scope="module")
def reordered(tmp_path_factory) -> str:
    """A video whose packets are not in the order of their time stamps (`unordered_pts.mov` is all white)."""
    path = write_video(tmp_path_factory.mktemp("reordered") / "reordered.mp4", 12)
    with av.open(str(path)) as container:
        times = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
    assert times != sorted(times)
    return str(path)


ROTATED = ["rotation_90.mov", "rotation_180.mov", "rotation_270.mov"]


@pytest.mark.parametrize("name", ["rotation_0.mov", *ROTATED, "unordered_pts.mov", "reordered"])
@each_decoder
def test_scores_are_those_of_the_frames_as_shown(real_data, models, reordered, tmp_path, name, decoder):
    """Upright, and in the order of their time stamps, for any kind of file."""
    video = reordered if name == "reordered" else str(real_data / "odd" / name)
    shown = write_reference(tmp_path / "shown.mkv", [image for _, image in decode_all(video)])
    assert scores(models[decoder], video) == pytest.approx(scores(models[decoder], shown), abs=SAME)


@pytest.mark.parametrize("name", [*ROTATED, "reordered"])
def test_other_frames_have_other_scores(real_data, models, reordered, tmp_path, name):
    """As stored (rotated, or in the order of packets), they score differently, so the test above can fail."""
    video = reordered if name == "reordered" else str(real_data / "odd" / name)
    stored = [image for _, image in decode_all(video, upright=False)]
    if name == "reordered":
        with av.open(video) as container:
            times = [packet.pts for packet in container.demux(video=0) if packet.pts is not None]
        stored = [stored[place] for place in np.argsort(np.argsort(times))]
    wrong = write_reference(tmp_path / "stored.mkv", stored)
    assert scores(models["pyav"], video) != pytest.approx(scores(models["pyav"], wrong), abs=10 * SAME)


@each_decoder
def test_a_part_is_that_of_its_time_stamps(real_data, models, tmp_path, decoder):
    """In a video with variable frame rate, from a manifest with a start and an end."""
    video = str(real_data / "odd" / "vfr_fire.mp4")
    frames = list(decode_all(video))
    times_s = [time_s for time_s, _ in frames]
    # Each between two frames, because container ticks can be as coarse as 1 ms.
    parts = {"begin": (0.0, times_s[5] - 0.002), "end": (times_s[-4] - 0.002, times_s[-1] + 1.0)}
    columns = {
        "clip_id": list(parts), "uri": [video] * 2, "label": [0, 0], "split": ["test"] * 2,
        "start_s": [start for start, _ in parts.values()], "end_s": [end for _, end in parts.values()],
    }  # fmt: skip
    manifest = write_manifest(build_manifest(columns, CLASSES), tmp_path / "parts.parquet")
    found = {one.video: dict(one.top) for one in predict(models[decoder], manifest=manifest.location)}
    for clip, images in {"begin": frames[:5], "end": frames[-4:]}.items():
        reference = write_reference(tmp_path / f"{clip}.mkv", [image for _, image in images])
        assert found[clip] == pytest.approx(scores(models[decoder], reference), abs=SAME), clip
    assert found["begin"] != pytest.approx(found["end"], abs=10 * SAME)
