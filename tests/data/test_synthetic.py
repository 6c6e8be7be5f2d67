"""Synthetic motion data: only the order of frames distinguishes the classes of a pair; files are complete."""

import json
import os
from pathlib import Path

import av
import numpy as np
import pytest
from decoders_here import each_decoder

from w3ray.data import synthetic
from w3ray.data.decoders import open_video
from w3ray.data.synthetic import ACTIONS, CLASSES, FLIP_MAP, Difficulty, data_set, draw_clip, write_motion_dataset
from w3ray.data.synthetic.clip import _draw_scene
from w3ray.errors import InputError

NUM_CLASSES = len(CLASSES)
SMALL = {"clips": 16, "val_clips": 8, "test_clips": 8, "size": 32}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("synthetic") / "motion"
    return root, write_motion_dataset(root, **SMALL, seed=3)


@pytest.mark.parametrize("pair", range(len(ACTIONS)))
def test_second_class_is_the_first_backwards(pair):
    for seed in range(5):
        forwards, backwards = (
            draw_clip(label, np.random.default_rng(seed), side=32, difficulty=Difficulty(noise=0))
            for label in (2 * pair, 2 * pair + 1)
        )
        np.testing.assert_array_equal(forwards[0], backwards[0][::-1])
        assert not np.array_equal(forwards[0], backwards[0])
        assert forwards[1:] == backwards[1:]


def test_decoys_act_too_and_are_played_backwards_with_the_clip():
    """Their motion is equally likely forwards and backwards, so it says nothing about the class."""
    decoys = Difficulty(noise=0, num_distractors=0, background=0, num_decoys=2)
    alone = Difficulty(noise=0, num_distractors=0, background=0)
    with_decoys, without = (draw_clip(2, np.random.default_rng(1), difficulty=one)[0] for one in (decoys, alone))
    assert (with_decoys != without).any(axis=(1, 2, 3)).mean() > 0.9, "they are in the picture"
    backwards = draw_clip(3, np.random.default_rng(1), difficulty=decoys)[0]
    np.testing.assert_array_equal(with_decoys, backwards[::-1])


def test_difficulties_by_name(tmp_path):
    easy, hard = (
        write_motion_dataset(tmp_path / name, **SMALL, difficulty=name).table["clip_id"].to_pylist()
        for name in ("easy", "hard")
    )
    assert set(easy).isdisjoint(hard)
    described = json.loads((tmp_path / "easy" / "synthetic.json").read_text())["difficulty"]
    assert "num_decoys" not in described, "sets from before decoys existed keep their names"
    assert easy == write_motion_dataset(tmp_path / "default", **SMALL).table["clip_id"].to_pylist()
    cover_TSS = synthetic.acting_cover(tmp_path / "hard", hard[0])
    assert cover_TSS.max() > 0.5
    with pytest.raises(InputError, match="difficulty 'harder': must be one of easy, medium, hard"):
        write_motion_dataset(tmp_path / "no", **SMALL, difficulty="harder")


@pytest.mark.parametrize("act", ACTIONS.values(), ids=[name for name, _ in ACTIONS])
def test_first_and_last_frame_look_alike(act):
    """Otherwise the first frame would show the class. The actor's visible area and place have equal distributions."""
    ends = []
    for seed in range(1500):
        rng = np.random.default_rng(seed)
        scene = _draw_scene(rng, num_frames=24, side=16, difficulty=Difficulty())
        ends.append(act(scene)[[0, -1]])
    cover_N2SS = np.stack(ends)
    area_N2 = cover_N2SS.mean(axis=(2, 3))
    error = area_N2.std(axis=0).max() * np.sqrt(2 / len(area_N2))
    assert abs(area_N2[:, 0].mean() - area_N2[:, 1].mean()) < 4 * error
    maps_2SS = cover_N2SS.mean(axis=0)
    error_SS = np.sqrt(cover_N2SS.var(axis=0).sum(axis=0) / len(cover_N2SS))
    assert (np.abs(maps_2SS[0] - maps_2SS[1]) < 5 * error_SS + 1e-3).all()


def test_motion_is_there():
    for label in range(NUM_CLASSES):
        clip_TSSC = draw_clip(label, np.random.default_rng(label))[0].astype(int)
        assert np.abs(np.diff(clip_TSSC, axis=0)).max() > 60


def test_noise():
    """Each pixel, colour and frame has its own noise, of the requested strength."""
    noisy_TSSC, clean_TSSC = (
        draw_clip(2, np.random.default_rng(1), difficulty=Difficulty(noise=noise))[0].astype(float)
        for noise in (0.05, 0)
    )
    noise_TSSC = noisy_TSSC - clean_TSSC
    # Clipped at black and white.
    inside_TSSC = (clean_TSSC > 64) & (clean_TSSC < 192)
    assert noise_TSSC[inside_TSSC].std() / 255 == pytest.approx(0.05, rel=0.01)
    for axis in range(4):
        along = np.moveaxis(noise_TSSC, axis, 0)
        assert abs(np.corrcoef(along[1:].ravel(), along[:-1].ravel())[0, 1]) < 5 / np.sqrt(along[1:].size)


def test_length_and_rate_vary():
    drawn = [draw_clip(0, np.random.default_rng(seed), side=16) for seed in range(200)]
    lengths, rates = {len(clip[0]) for clip in drawn}, {clip[1] for clip in drawn}
    assert min(lengths) == 16
    assert max(lengths) == 36
    assert rates == set(range(12, 31))


def test_manifest(dataset):
    root, manifest = dataset
    rows = manifest.table.to_pylist()
    assert manifest.classes == CLASSES
    assert manifest.flip_map == FLIP_MAP
    for split, count in (("train", 16), ("val", 8), ("test", 8)):
        labels = [row["label"] for row in rows if row["split"] == split]
        assert np.bincount(labels, minlength=NUM_CLASSES).tolist() == [count // NUM_CLASSES] * NUM_CLASSES
    for row in rows:
        assert row["uri"].split("/")[:2] == [row["split"], CLASSES[row["label"]]]
        with open_video(manifest.resolve(row["uri"])) as video:
            assert 16 <= video.info.num_frames <= 36
            assert 12 <= round(video.info.fps) <= 30
            assert video.frames([0]).shape == (1, 32, 32, 3)
    assert len(list(root.rglob("*.mp4"))) == len(rows) == 32


@each_decoder
def test_files_hold_what_was_drawn(dataset, decoder):
    _, manifest = dataset
    row = manifest.table.to_pylist()[5]
    drawn_TSSC, fps, actor = draw_clip(row["label"], np.random.default_rng([3, 0, 5]), side=32)
    with open_video(manifest.resolve(row["uri"]), decoder) as video:
        assert video.info.num_frames == len(drawn_TSSC)
        read_TSSC = video.frames(range(len(drawn_TSSC)))
        assert round(video.info.fps) == fps
    assert row["group"] == f"actor-{actor}"
    # Colours are stored at half the resolution, so small frames differ at their edges.
    assert np.abs(read_TSSC.astype(int) - drawn_TSSC).mean() < 16
    other_TSSC = draw_clip(row["label"], np.random.default_rng([3, 0, 6]), side=32)[0]
    assert np.abs(read_TSSC[:16].astype(int) - other_TSSC[:16]).mean() > 32


def test_every_frame_is_coded_by_itself(dataset):
    _, manifest = dataset
    with av.open(manifest.resolve(manifest.table.to_pylist()[0]["uri"])) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert container.streams.video[0].codec_context.name == "h264"
    assert len(packets) >= 16
    assert all(packet.is_keyframe for packet in packets)


def test_gop(tmp_path):
    manifest = write_motion_dataset(tmp_path / "gop", clips=1, val_clips=1, test_clips=1, size=32, gop_frames=12)
    with av.open(manifest.resolve(manifest.table.to_pylist()[0]["uri"])) as container:
        keys = [i for i, packet in enumerate(p for p in container.demux(video=0) if p.size) if packet.is_keyframe]
    assert keys[:2] == [0, 12]


def test_same_arguments_same_bytes(dataset, tmp_path):
    root, manifest = dataset
    again = write_motion_dataset(tmp_path / "again", **SMALL, seed=3, threads=1)
    other = write_motion_dataset(tmp_path / "other", **SMALL, seed=4)
    assert again.fingerprint() == manifest.fingerprint()
    differing = 0
    for uri in manifest.table["uri"].to_pylist():
        assert (tmp_path / "again" / uri).read_bytes() == (root / uri).read_bytes()
        differing += (tmp_path / "other" / uri).read_bytes() != (root / uri).read_bytes()
    assert differing == 32
    # Stages are identified by the fingerprint: it must differ for other pixels, even if the file names are the same.
    assert other.fingerprint() != manifest.fingerprint()
    assert not set(other.table["clip_id"].to_pylist()) & set(manifest.table["clip_id"].to_pylist())


def test_reused_when_the_same(dataset):
    root, manifest = dataset
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert write_motion_dataset(root, **SMALL, seed=3).fingerprint() == manifest.fingerprint()
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_shares_of_held_out_clips(tmp_path):
    manifest = write_motion_dataset(tmp_path / "shares", clips=24, size=16)
    splits = manifest.table["split"].to_pylist()
    assert {split: splits.count(split) for split in ("train", "val", "test")} == {"train": 24, "val": 8, "test": 16}


def test_errors_other_set_in_the_folder(dataset):
    root, _ = dataset
    with pytest.raises(InputError, match=r"other settings \(seed\)"):
        write_motion_dataset(root, **SMALL, seed=4)


def test_errors_other_things_in_the_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not a synthetic data set"):
        write_motion_dataset(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_empty_folder_is_filled(tmp_path):
    (tmp_path / "empty").mkdir()
    write_motion_dataset(tmp_path / "empty", clips=1, val_clips=1, test_clips=1, size=16)
    assert (tmp_path / "empty" / "manifest.parquet").is_file()


@pytest.mark.parametrize("root", ["sets/small", "../small"])
def test_a_relative_folder_holds_clips_that_are_found(tmp_path, monkeypatch, root):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    manifest = write_motion_dataset(root, clips=1, val_clips=1, test_clips=1, size=32)
    assert all(Path(uri).is_file() for uri in manifest.resolved_uris())
    # Relative in the file, too, so that the folder can be moved.
    assert manifest.table["uri"].to_pylist()[0] == "train/moves-right/00000.mp4"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_errors_unwritable(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot write"):
        write_motion_dataset(tmp_path / "set", **SMALL)


def test_errors_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write_motion_dataset(tmp_path / "file" / "set", **SMALL)


@pytest.mark.parametrize(
    "arguments", [{"clips": 0}, {"clips": 8, "val_clips": 0}, {"size": 33}, {"size": 8}, {"gop_frames": 0}]
)
def test_errors_arguments(tmp_path, arguments):
    with pytest.raises(InputError):
        write_motion_dataset(tmp_path / "set", **{**SMALL, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_nothing_half_written(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(data_set, "write_video", fail)
    with pytest.raises(InputError, match=r"cannot write the synthetic data set to .*: disk full"):
        write_motion_dataset(tmp_path / "set", **SMALL)
    assert list(tmp_path.iterdir()) == []


def _set_features(plane_TSS):
    """Features of a set of frames without its order: quantiles over time of every region and of its contrast."""
    blocks_TRP = plane_TSS.reshape(len(plane_TSS), 8, 4, 8, 4).transpose(0, 1, 3, 2, 4).reshape(len(plane_TSS), 64, 16)
    regions_TF = np.concatenate([blocks_TRP.mean(axis=2), blocks_TRP.std(axis=2)], axis=1)
    return np.quantile(regions_TF, [0, 0.25, 0.5, 0.75, 1], axis=0).ravel()


def _order_features(plane_TSS):
    """Features of two neighbouring frames: sudden or slow change, and the direction of the motion."""
    taken_TSS = plane_TSS[np.linspace(0, len(plane_TSS) - 1, 12).astype(int)]
    mean_T, std_T = taken_TSS.mean(axis=(1, 2)), taken_TSS.std(axis=(1, 2))
    change_TSS = np.diff(taken_TSS, axis=0)
    centred_TSS = taken_TSS - taken_TSS.mean(axis=0)
    shifts = [
        (centred_TSS[:-1] * (np.roll(centred_TSS[1:], -s, 2) - np.roll(centred_TSS[1:], s, 2))).mean()
        for s in (2, 4, 6)
    ]
    skews = [(np.diff(series) ** 3).mean() for series in (mean_T, std_T)]
    return np.array([*shifts, *skews, (change_TSS**3).mean(), *np.quantile(np.diff(std_T), [0, 1])])


def _held_out_accuracy(features_NF, sides_N, folds=8):
    """Ridge regression, cross-validated: how often the side (+1 or -1) of a held-out clip is right."""
    features_NF = (features_NF - features_NF.mean(axis=0)) / (features_NF.std(axis=0) + 1e-9)
    correct = 0
    for fold in range(folds):
        held = np.arange(len(sides_N)) // 2 % folds == fold
        x_NF, y_N = features_NF[~held], sides_N[~held]
        weights_F = np.linalg.solve(x_NF.T @ x_NF + len(x_NF) * np.eye(x_NF.shape[1]), x_NF.T @ y_N)
        correct += int((np.sign(features_NF[held] @ weights_F) == sides_N[held]).sum())
    return correct / len(sides_N)


@pytest.mark.slow
def test_only_order_tells_a_pair_apart(tmp_path):
    """The clips are read from the files, so traces of the coding in single frames would count, too."""
    manifest = write_motion_dataset(tmp_path / "set", clips=960, val_clips=1, test_clips=1, size=32, seed=7)
    rows = manifest.split("train")
    by_class = [[] for _ in CLASSES]
    for uri, label in zip(manifest.resolved_uris(rows), rows["label"].to_pylist(), strict=True):
        with open_video(uri) as video:
            frames_TSSC = video.frames(range(video.info.num_frames)) / 255
        # The actor is colourful, everything else nearly grey.
        colour_TSS = frames_TSSC.max(axis=3) - frames_TSSC.min(axis=3)
        sets = np.concatenate([_set_features(colour_TSS), _set_features(frames_TSSC.mean(axis=3))])
        by_class[label].append((sets, _order_features(colour_TSS)))
    of_sets, of_order = [], []
    for pair in range(len(ACTIONS)):
        clips = [clip for both in zip(by_class[2 * pair], by_class[2 * pair + 1], strict=True) for clip in both]
        sides_N = np.tile([1, -1], len(clips) // 2)
        of_sets.append(_held_out_accuracy(np.stack([clip[0] for clip in clips]), sides_N))
        of_order.append(_held_out_accuracy(np.stack([clip[1] for clip in clips]), sides_N))
    # 240 clips per pair: standard deviation 0.03, and 0.016 over all pairs.
    assert max(of_sets) < 0.65, (of_sets, of_order)
    assert np.mean(of_sets) < 0.57, (of_sets, of_order)
    assert np.mean(of_order) > 0.75, (of_sets, of_order)
