"""A bank is the same however often it was interrupted, and what cannot be read is said. Nothing here starts Ray."""

import hashlib
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from videos import cut, write_video

from w3ray.cli import main
from w3ray.cluster.plan import plan_resources
from w3ray.data.bank import BANK_NAME, BankAbout, features_at, features_file, read_bank, video_key
from w3ray.data.clip import ClipSpec, read_clip
from w3ray.data.manifest import build_manifest, write_manifest
from w3ray.errors import InputError, RunError
from w3ray.evaluation.normalize import normalize_clips
from w3ray.explaining import explain_videos
from w3ray.explaining.videos import Explainer
from w3ray.models import build_model
from w3ray.models.bundle import ModelDescription, load_model, write_model
from w3ray.scoring.make_bank import BankOrder, make_bank, moments_of
from w3ray.scoring.model_files import model_files
from w3ray.storage import storage_path

SMALL = {"width": 8, "blocks": [1, 1, 1, 1]}
SPEC = ClipSpec(num_frames=4, size=32)
ABOUT = BankAbout(model="m", every_s=0.2, span_s=0.3)
PLAN = plan_resources(nodes=[{"CPU": 2}], workers=(1, 1), use_gpu=False, decoders=1, cpus_per_worker=None)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    arguments = {"name": "i3d_r50", "backbone": None, "options": SMALL, "num_classes": 2}
    network = build_model(**arguments)
    folder = tmp_path_factory.mktemp("made") / "model"
    about = ModelDescription(
        model={**arguments, "attention": None, "refinement": False, "dropout": 0.5},
        clip=asdict(SPEC), classes=("a", "b"), mean=network.pixels.mean, std=network.pixels.std,
    )  # fmt: skip
    write_model(folder, network, about)
    return folder


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[str, str]:
    """Of 5, 16 and 4 features."""
    folder = tmp_path_factory.mktemp("videos")
    return {
        f"{name}.mp4": str(write_video(folder / f"{name}.mp4", frames))
        for name, frames in (("a", 25), ("b", 80), ("c", 20))
    }


def order_of(model: Path, videos: dict[str, str], folder: Path, **more) -> BankOrder:
    values = {
        "folder": folder, "identity": "i", "files": model_files(model), "about": ABOUT, "videos": videos, "here": True
    }  # fmt: skip
    return BankOrder(**{**values, **more})


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "features").iterdir()}


def test_moments():
    assert moments_of(1.0, BankAbout(model="", every_s=0.5, span_s=0.5)) == [(0.0, 0.5), (0.5, 1.0)]
    assert moments_of(2.6, BankAbout(model="", every_s=1.0, span_s=2.0)) == [(0.0, 1.5), (0.5, 2.5), (1.5, 2.6)]
    assert moments_of(0.1, BankAbout(model="", every_s=1.0, span_s=0.1)) == [(0.05, 0.1)]


def test_features_are_the_pooled_last_map(model, videos, tmp_path):
    seen: list[tuple[int, int]] = []
    bank = make_bank(order_of(model, videos, tmp_path), PLAN, on_progress=lambda *counts: seen.append(counts))
    assert dict(bank.moments) == {video_key("a.mp4"): 5, video_key("b.mp4"): 16, video_key("c.mp4"): 4}
    assert bank.channels == 256
    assert seen[-1] == (25, 25)
    assert bank.about == ABOUT
    network, about = load_model(model)
    start_s, end_s = moments_of(3.2, ABOUT)[9]
    clip = read_clip(videos["b.mp4"], label=0, spec=SPEC, rng=None, start_s=start_s, end_s=end_s)
    with torch.no_grad():
        x_BTCHW = normalize_clips(torch.from_numpy(clip.frames_TSSC[None]), mean=about.mean, std=about.std)
        expected = network(x_BTCHW).features[0].mean(dim=(1, 3, 4))[0].numpy()
    found = features_at(bank.file_of("b.mp4"), 9, 1)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert bank.file_of(videos["b.mp4"]) == bank.file_of("b.mp4")


@pytest.mark.parametrize(("after", "kept", "left"), [(1, 1, 4), (2, 1, 4), (3, 2, 2)])
def test_an_interrupted_bank_resumes_and_is_the_same(model, videos, tmp_path, after, kept, left):
    """Eight clips go through the network together. The first of a video goes with the same ones again."""
    make_bank(order_of(model, videos, tmp_path / "whole"), PLAN)
    calls = []

    def stop(done: int, total: int) -> None:
        calls.append(done)
        if len(calls) == after:
            raise KeyboardInterrupt

    order = order_of(model, videos, tmp_path / "halves")
    with pytest.raises(KeyboardInterrupt):
        make_bank(order, PLAN, on_progress=stop)
    assert len(files_of(tmp_path / "halves")) == kept
    assert not (tmp_path / "halves" / BANK_NAME).exists()
    done: list[int] = []
    make_bank(order, PLAN, on_progress=lambda count, total: done.append(count))
    assert len(done) == left
    assert files_of(tmp_path / "halves") == files_of(tmp_path / "whole")
    assert (tmp_path / "halves" / BANK_NAME).read_text() == (tmp_path / "whole" / BANK_NAME).read_text()


def test_a_bank_that_lacks_only_its_description(model, videos, tmp_path):
    order = order_of(model, videos, tmp_path)
    made = make_bank(order, PLAN)
    before = files_of(tmp_path)
    (tmp_path / BANK_NAME).unlink()
    assert make_bank(order, PLAN) == made
    assert files_of(tmp_path) == before


def test_a_finished_bank_is_read(model, videos, tmp_path):
    order = order_of(model, videos, tmp_path)
    made = make_bank(order, PLAN)
    assert make_bank(replace(order, files={}), PLAN) == made
    for file in ("bank.json", "videos.json"):
        with pytest.raises(InputError, match="holds another bank"):
            make_bank(replace(order, identity="other"), PLAN)
        (tmp_path / file).unlink()


def test_videos_that_cannot_be_read_have_no_features(model, videos, tmp_path):
    broken = cut(Path(videos["b.mp4"]), tmp_path / "broken.mp4", 0.3)
    given = {"broken.mp4": str(broken), **videos}
    told: list[str] = []
    order = order_of(model, given, tmp_path / "bank", max_failed_share=0.5)

    def tell(video: str, reason: str) -> None:
        told.append(video)

    bank = make_bank(order, PLAN, on_failure=tell)
    assert told == ["broken.mp4"]
    make_bank(order, PLAN, on_failure=tell)  # it is finished
    assert told == ["broken.mp4"] * 2
    (tmp_path / "bank" / "bank.json").unlink()  # as if it had been interrupted
    make_bank(order, PLAN, on_failure=tell)
    assert told == ["broken.mp4"] * 3
    assert np.load(features_file(tmp_path / "bank", "broken.mp4")).shape == (0, 256)
    assert np.isnan(features_at(bank.file_of("broken.mp4"), 0, 2)).all()
    assert np.isfinite(features_at(bank.file_of("a.mp4"), 0, 5)).all()
    assert "broken.mp4" in (tmp_path / "bank" / "failures.jsonl").read_text()
    with pytest.raises(
        RunError, match=r"1 of 4 videos cannot be read, more than the share 0.01 .*broken.mp4"
    ) as caught:
        make_bank(replace(order, folder=tmp_path / "strict", max_failed_share=0.01), PLAN)
    assert "\n" not in str(caught.value)


def test_moments_that_cannot_be_read_are_marked(model, videos, tmp_path, monkeypatch):
    from w3ray.data.decoders import DecodeError
    from w3ray.data.views import read_views

    def fail(uri, *, start_s, **more):
        if uri == videos["b.mp4"] and 0.5 < start_s < 1.0:
            raise DecodeError(uri, "damaged here")
        return read_views(uri, start_s=start_s, **more)

    monkeypatch.setattr("w3ray.data.microbatch.read_views", fail)
    told: list[tuple[str, str]] = []
    bank = make_bank(
        order_of(model, videos, tmp_path, max_failed_share=1.0), PLAN, on_failure=lambda *said: told.append(said)
    )
    bad = np.isnan(features_at(bank.file_of("b.mp4"), 0, 16)).all(axis=1)
    expected = [0.5 < start_s < 1.0 for start_s, _ in moments_of(3.2, ABOUT)]
    assert bad.tolist() == expected
    assert told == [("b.mp4", f"{sum(expected)} of 16 moments: damaged here")]


def test_a_network_that_gives_no_numbers_is_refused(model, videos, tmp_path, monkeypatch):
    monkeypatch.setattr("w3ray.evaluation.scorer.FeatureScorer.__call__", lambda *_: np.full((8, 3), np.inf))
    with pytest.raises(RunError, match=r"the network gives features of a.mp4 that are not finite"):
        make_bank(order_of(model, videos, tmp_path), PLAN)
    assert not (tmp_path / BANK_NAME).exists()
    with pytest.raises(InputError, match="no finished bank here"):
        read_bank(str(tmp_path))


def test_on_object_storage(model, videos, tmp_path, s3):
    s3.heal()
    make_bank(order_of(model, videos, tmp_path), PLAN)
    order = order_of(model, videos, storage_path("s3://bucket/test_on_object_storage"))

    def stop(done: int, total: int) -> None:
        if done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_bank(order, PLAN, on_progress=stop)
    bank = make_bank(order, PLAN)
    assert bank == read_bank("s3://bucket/test_on_object_storage")
    for name in videos:
        whole = np.load(features_file(tmp_path, name))
        np.testing.assert_array_equal(features_at(bank.file_of(name), 0, len(whole)), whole)


def test_bad_input_of_the_command_is_one_line(model, videos, tmp_path, capsys):
    columns = {"clip_id": ["a"], "uri": [videos["a.mp4"]], "label": [0], "split": ["train"]}
    manifest = write_manifest(build_manifest(columns, ["x"]), str(tmp_path / "m.parquet")).location
    description = json.loads((model / "model.json").read_text())
    reader = tmp_path / "reader"
    shutil.copytree(model, reader)
    description["clip"] |= {"bank_window": 4, "bank_channels": 8, "bank_every_s": 1.0}
    (reader / "model.json").write_text(json.dumps(description))
    other = order_of(model, videos, tmp_path / "other")
    make_bank(other, PLAN)
    for words, said in (
        ([str(model), manifest, str(tmp_path / "o"), "--every-s", "0"], "--every-s 0: must be a number above 0"),
        ([str(model), manifest, str(tmp_path / "o"), "--span-s", "inf"], "--span-s inf: must be a number above 0"),
        ([str(tmp_path), manifest, str(tmp_path / "o")], "no model here"),
        ([str(model), str(tmp_path / "none.parquet"), str(tmp_path / "o")], "none.parquet"),
        ([str(reader), manifest, str(tmp_path / "o")], "reads bank with each clip, and there are none for all moments"),
    ):
        assert main(["data", "bank", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    assert not (tmp_path / "o").exists()


def test_explain_takes_the_bank_of_a_model_that_reads_one(model, videos, tmp_path):
    weights = (model / "model.safetensors").read_bytes()
    about = replace(ABOUT, model=hashlib.sha256(weights).hexdigest())
    make_bank(order_of(model, videos, tmp_path / "bank", about=about), PLAN)
    torch.manual_seed(0)
    options = {**SMALL, "window": 4, "bank_channels": 256, "operator": "max"}
    arguments = {
        "name": "lfb", "backbone": None, "options": options, "num_classes": 2, "attention": {"kind": "w3"},
        "refinement": True, "dropout": 0.3,
    }  # fmt: skip
    network = build_model(**arguments)
    torch.nn.init.normal_(network.classifier.linear.weight)
    clip = {**asdict(SPEC), "bank_window": 4, "bank_channels": 256, "bank_every_s": about.every_s}
    described = ModelDescription(
        model=arguments, clip=clip, classes=("a", "b"), mean=network.pixels.mean, std=network.pixels.std,
        bank=asdict(about),
    )  # fmt: skip
    write_model(tmp_path / "lfb", network, described)
    explainer, seen = Explainer(tmp_path / "lfb"), []
    taken = explainer.load(videos["a.mp4"])
    for name in ("a.mp4", "b.mp4"):  # their frames are the same, but the middle of b is later
        extras = explainer.extras(videos[name], explainer.load(videos[name]), None, [str(tmp_path / "bank")])
        assert extras["bank"].shape == (4, 257)
        assert extras["bank"][:, 0].all()
        seen.append(explainer.explain(taken.frames_TSSC, extras).scores_K)
    assert not np.array_equal(*seen)
    with pytest.raises(InputError, match="needs a bank of the videos; name its folder with --bank"):
        explainer.extras(videos["a.mp4"], taken, None)
    with pytest.raises(InputError, match=r"has no features of /elsewhere\.mp4"):
        explainer.extras("/elsewhere.mp4", taken, None, [str(tmp_path / "bank")])
    with pytest.raises(InputError, match="has no masks to show"):
        explain_videos(model, [videos["a.mp4"]], out=tmp_path / "out", banks=[str(tmp_path / "bank")])
