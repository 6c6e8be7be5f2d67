"""The tests of the attention study follow its rule."""

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from videos import write_video

from w3ray.data.clip import ClipSpec
from w3ray.data.importers import reversed_twin
from w3ray.data.manifest import read_manifest, write_manifest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def study() -> Iterator[ModuleType]:
    """The script; `figures` and `parts` are its modules."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("attention_study")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def analysis(study: ModuleType) -> ModuleType:
    return importlib.import_module("_attention_figures")


def hits(rng: np.random.Generator, seeds: int, clips: int, share: float) -> np.ndarray:
    return (rng.random((seeds, clips)) < share).astype(float)


def test_no_difference_is_rarely_found(analysis: ModuleType) -> None:
    rng = np.random.default_rng(0)
    p_values = [analysis.compare(hits(rng, 5, 60, 0.7), hits(rng, 5, 60, 0.7), None)["p"] for _ in range(60)]
    assert np.mean(np.array(p_values) < 0.05) <= 0.05  # the larger of two, so rarer than each


def test_a_difference_must_hold_for_other_seeds_and_for_other_clips(analysis: ModuleType) -> None:
    rng = np.random.default_rng(0)
    first = hits(rng, 10, 400, 0.7)
    found = analysis.compare(first, np.maximum(first, hits(rng, 10, 400, 0.4)), None)
    assert found["difference"] > 0.08
    assert found["p"] < 0.001
    assert found["interval_by_seed"][0] > 0
    assert found["interval_by_clip"][0] > 0
    one_seed = first.copy()
    one_seed[0] = 1.0  # the whole difference is in one seed
    found = analysis.compare(first, one_seed, None)
    assert found["p_clips"] < 0.05 < found["p_seeds"] == found["p"]
    one_group = np.zeros_like(first)
    two_groups = np.zeros_like(first)
    two_groups[:, :100] = 1.0  # the whole difference is in one of four groups
    groups = [str(clip // 100) for clip in range(400)]
    found = analysis.compare(one_group, two_groups, groups)
    assert found["p_seeds"] < 0.05 < found["p_clips"] == found["p"]
    with pytest.raises(ValueError, match="need the same seeds and clips"):
        analysis.compare(first, first[:5], None)


def test_holm(analysis: ModuleType) -> None:
    assert analysis.holm({"a": 0.01, "b": 0.04, "c": 0.03}, 3) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert analysis.holm({"a": 0.01}, 6) == pytest.approx({"a": 0.06})  # sets that were not run count


@pytest.mark.parametrize(
    ("variant", "chosen"),
    [([0.71, 0.72, 0.73], "w3-x"), ([0.71, 0.72, 0.69], "w3-unit"), ([0.71, 0.71, 0.71], "w3-unit")],
)
def test_a_variant_must_win_with_each_seed_and_by_enough(analysis: ModuleType, variant: list, chosen: str) -> None:
    screen = {
        "w3-unit, teacher": {"top1_by_seed": [0.70, 0.70, 0.70]},
        "w3-x, teacher": {"top1_by_seed": variant},
        "cbam, teacher": {"top1_by_seed": [0.9, 0.9, 0.9]},  # another attention is not a variant
    }
    assert analysis.chosen_default(screen) == chosen


@pytest.mark.parametrize(
    ("differences", "worth"),
    [
        ({"hard-few": 0.03, "medium-few": 0.03}, True),
        ({"hard-few": 0.03, "medium": 0.03}, False),  # of two lengths
        ({"hard-few": 0.03, "medium-few": -0.03}, False),
        ({"hard": 0.03, "easy": 0.03, "tank-state": 0.1}, True),
        ({"hard": 0.03, "easy": 0.03, "tank-state": -0.1}, False),
        ({"ut-interaction": 0.03, "tank-state": 0.1}, False),
    ],
)
def test_the_verdict(analysis: ModuleType, differences: dict[str, float], worth: bool) -> None:
    found = analysis.verdict(differences, dict.fromkeys(differences, 0.01))
    assert (found["worth_its_name"], found["complete"]) == (worth, False)
    unsure = analysis.verdict(differences, dict.fromkeys(differences, 0.06))
    assert (unsure["better_on"], unsure["worse_on"], unsure["worth_its_name"]) == ([], [], False)


def test_hits_come_back_from_their_record(analysis: ModuleType) -> None:
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 2, (2, 13)).astype(bool)
    records = [
        {
            "arm": "a",
            "seed": seed,
            "fold": None,
            "stages": {"teacher": {"hits": np.packbits(row).tobytes().hex(), "clips": 13}},
        }
        for seed, row in zip((4, 3), bits, strict=True)
    ]
    found, groups = analysis.hits_of(records, "a", "teacher")
    np.testing.assert_array_equal(found, bits[::-1])  # by seed
    assert groups is None


def record_of(arm: str, seed: int, hits: np.ndarray, **more: object) -> dict:
    stages = {"student": {"hits": np.packbits(hits).tobytes().hex(), "clips": len(hits), "steps": 100, **more}}
    return {"arm": arm, "seed": seed, "fold": None, "stages": stages}


def test_a_pair_is_compared_over_the_seeds_that_both_have(analysis: ModuleType) -> None:
    right, wrong = np.ones(8, bool), np.zeros(8, bool)
    records = [record_of("a", 1, right), record_of("a", 2, right), record_of("a", 3, wrong)]
    records += [record_of("b", seed, wrong) for seed in (1, 2)]
    (row,) = analysis.pair_rows(records, [("a, student", "b, student")])
    assert (row["difference"], row["seeds"], row["pair"]) == (1.0, 2, ["a, student", "b, student"])
    assert "paper" not in row


def test_groups_of_clips_that_are_drawn_anew_are_none(analysis: ModuleType) -> None:
    right = np.ones(2, bool)
    same = [record_of("a", seed, right, groups="x|y") for seed in (1, 2)]
    assert analysis.hits_of(same, "a", "student")[1] == ["x", "y"]
    assert analysis.hits_of([same[0], record_of("a", 2, right, groups="y|x")], "a", "student")[1] is None


def test_steps_to_an_accuracy(analysis: ModuleType) -> None:
    curves = {3: [[2, 0.5], [4, 0.9], [5, 0.8]], 1: [[2, 0.5], [4, 0.7], [5, 0.79]]}
    records = [record_of("a", seed, np.ones(8, bool)) | {"curve": curve} for seed, curve in curves.items()]
    assert analysis.steps_to(records, "a", 0.8) == [None, 80]  # by seed; 20 steps an epoch
    assert analysis.steps_to(records, "a", 0.5) == [40, 40]


def test_each_draw_of_the_clips_is_a_case(study: ModuleType) -> None:
    part = study.Part(data="hard-few", arms=("plain", "w3-unit"), seeds=range(1), draws=range(1, 3))
    cases = study.cases_of(part)
    assert [(arm, draw, values["data.synthetic.seed"]) for arm, draw, values in cases.values()] == [
        ("plain", 1, 1), ("w3-unit", 1, 1), ("plain", 2, 2), ("w3-unit", 2, 2),
    ]  # fmt: skip


def test_small_copies_hold_the_same_frames(study: ModuleType, tmp_path: Path) -> None:
    import av

    source = write_video(tmp_path / "set" / "a" / "clip.avi", codec="mpeg4")
    (tmp_path / "set" / "list.csv").write_text("path,label\na/clip.avi,x\n")
    small = study.small_copy(tmp_path / "set", tmp_path / "small", 24)
    assert (small / "list.csv").read_text() == "path,label\na/clip.mp4,x\n"
    with av.open(source) as large, av.open(small / "a" / "clip.mp4") as copy:
        frames, copies = list(large.decode(video=0)), list(copy.decode(video=0))
    assert len(copies) == len(frames) > 5
    assert all(frame.key_frame and frame.height == 24 for frame in copies)
    for frame, again in zip(frames, copies, strict=True):
        there = frame.reformat(again.width, again.height, "gray", interpolation="AREA").to_ndarray()
        assert np.abs(there.astype(int) - again.reformat(format="gray").to_ndarray()).mean() < 4


def test_an_interrupted_part_goes_on_with_its_next_seed(study: ModuleType, tmp_path: Path, monkeypatch) -> None:
    """Only the sweep itself, which takes hours, is replaced."""
    ran: list[int] = []
    interrupted: list[int] = []

    def run_seeds(name: str, sweep_name: str, part: Any, data: Path) -> dict[str, Any]:
        (seed,) = part.seeds
        if seed == 52 and not interrupted:
            interrupted.append(seed)
            raise KeyboardInterrupt
        ran.append(seed)
        about = {"commit": f"at-{seed}", "machine": {}, "date": "today", "wall_s": 10}
        return {**about, "records": [{"arm": arm, "seed": seed} for arm in part.arms]}

    monkeypatch.setattr(study, "run_seeds", run_seeds)
    monkeypatch.setattr(study, "FOLDER", tmp_path)
    part = study.Part(data="tank-state-weights", arms=("plain", "w3-unit"), seeds=range(50, 53), seed_by_seed=True)
    with pytest.raises(KeyboardInterrupt):
        study.run_part("some", part, tmp_path)
    assert not (tmp_path / "some.json").exists()
    study.run_part("some", part, tmp_path)
    document = json.loads((tmp_path / "some.json").read_text())
    assert ran == [50, 51, 52]
    assert [record["seed"] for record in document["records"]] == [50, 50, 51, 51, 52, 52]
    assert [one["commit"] for one in document["runs"]] == ["at-50", "at-51", "at-52"]
    assert document["wall_s"] == 30
    assert list((tmp_path / "pieces").iterdir()) == []


def test_the_committed_analysis_is_that_of_the_committed_records(study, analysis: ModuleType) -> None:
    document = json.loads((BENCHMARKS / "results" / "attention-study.json").read_text())
    figures = analysis.analyse()
    assert json.loads(json.dumps(figures)) == document["figures"]
    assert analysis.tables(figures) in analysis.PAGE.read_text()


def test_a_clip_that_is_played_backwards_is_scored_backwards(study, motion_manifest, tmp_path):
    manifest = write_manifest(reversed_twin(read_manifest(motion_manifest)), tmp_path / "twins.parquet")
    clip = asdict(ClipSpec(num_frames=4, size=32))
    scorer = study.Scorer({"split": "test"}, Path(manifest.location), None, SimpleNamespace(clip=clip))
    assert len(scorer.clips) == 16
    forward, backward = (
        scorer.clips[[row["reversed"] is wanted for row in manifest.split("test").to_pylist()]]
        for wanted in (False, True)
    )
    assert torch.equal(forward.flip(1), backward)
    assert not torch.equal(forward, backward)
