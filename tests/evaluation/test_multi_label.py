"""Figures of multi-label clips, compared with scikit-learn; the same bits in any order of the clips.

Over two processes: tests/training/test_step_ddp.py.
"""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, log_loss, precision_score, recall_score
from torch import Tensor

from w3ray.evaluation.counting import counts_for, loaded_counts
from w3ray.evaluation.map_uncertainty import map_difference, map_interval, resampled_maps
from w3ray.evaluation.multi_label import MultiLabelCounts
from w3ray.evaluation.report import PER_CLASS_JSON, write_report
from w3ray.heads import Heads

HEADS = Heads(("a", "b", "c", "never"), label_sets=((), (0,), (0, 1), (1, 2), (2,)))


def clips(count: int = 60) -> tuple[Tensor, Tensor, np.ndarray]:
    """Logits with ties, labels, and which classes the clips have."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (count,), generator=generator)
    has = np.array([[one in HEADS.label_sets[label] for one in range(4)] for label in labels.tolist()])
    logits = torch.randn(count, 4, generator=generator) + torch.from_numpy(has)
    return (logits * 4).round() / 4, labels, has


def counted(logits: Tensor, labels: Tensor, **options) -> MultiLabelCounts:
    counts = MultiLabelCounts(HEADS, **options)
    counts.update(logits, labels)
    return counts


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_against_scikit_learn(threshold):
    logits, labels, has = clips()
    result = counted(logits, labels, thresholds=threshold).result()
    scores = logits.double().sigmoid().float().numpy()
    said = scores >= threshold
    precisions = [average_precision_score(has[:, one], scores[:, one]) for one in range(3)]
    assert result["map"] == pytest.approx(np.mean(precisions), abs=1e-6)
    assert result["micro_f1"] == pytest.approx(f1_score(has, said, average="micro"))
    assert result["macro_f1"] == pytest.approx(f1_score(has[:, :3], said[:, :3], average="macro"))
    assert result["micro_precision"] == pytest.approx(precision_score(has, said, average="micro"))
    assert result["micro_recall"] == pytest.approx(recall_score(has, said, average="micro"))
    assert result["hit1"] == np.mean([has[row, scores[row].argmax()] for row in range(len(has))])
    assert result["loss"] == pytest.approx(log_loss(has.ravel(), logits.double().sigmoid().numpy().ravel()), rel=1e-6)
    assert result["rows"] == 60


def test_no_other_threshold_has_a_better_f1():
    logits, labels, has = clips()
    scores = logits.double().sigmoid().float().numpy()
    for one, figures in enumerate(counted(logits, labels).figures[:3]):
        best = max(f1_score(has[:, one], scores[:, one] >= limit) for limit in np.unique(scores[:, one]))
        assert f1_score(has[:, one], scores[:, one] >= figures.best_threshold) == pytest.approx(best)
        assert figures.best_f1 == pytest.approx(best)
        assert figures.best_threshold not in scores[:, one], "it lies between two scores"
    never = counted(logits, labels).figures[3]
    assert (never.clips, never.average_precision, never.f1, never.best_threshold) == (0, None, None, None)


@pytest.mark.parametrize("sizes", [[1] * 60, [7, 0, 53], [20, 20, 20]])
def test_any_order_and_any_parts_give_the_same_bits(sizes):
    logits, labels, _ = clips()
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    parts = MultiLabelCounts(HEADS)
    for some, its in zip(logits[order].split(sizes), labels[order].split(sizes), strict=True):
        parts.update(some, its)
    whole = counted(logits, labels)
    assert parts.result() == whole.result()
    assert parts.figures == whole.figures


def test_padding_counts_nowhere_and_scores_that_are_not_finite_are_never_right():
    logits, labels, _ = clips(6)
    counts = MultiLabelCounts(HEADS)
    padded = torch.cat([logits, torch.full((2, 4), math.nan)])
    counts.update(padded, torch.cat([labels, torch.tensor([99, 0])]), torch.tensor([True] * 6 + [False] * 2))
    assert counts.result() == counted(logits, labels).result()
    broken = logits.clone()
    broken[0] = math.inf
    counts = counted(broken, labels)
    zero = logits.clone()
    zero[0] = -math.inf
    assert (counts.not_finite, counts.rows) == (1, 6)
    assert math.isnan(counts.result()["loss"])
    scores = torch.where(torch.isinf(zero), torch.tensor(0.0), zero.double().sigmoid().float())
    known = MultiLabelCounts(HEADS)
    known.add_scores(scores, labels)
    assert counts.result()["map"] == known.result()["map"]


def test_the_state_holds_the_figures(tmp_path):
    logits, labels, _ = clips()
    counts = counted(logits, labels)
    loaded = loaded_counts(HEADS, counts.state().tolist())
    assert isinstance(loaded, MultiLabelCounts)
    assert loaded.result() == counts.result()
    assert loaded.figures == counts.figures
    write_report(tmp_path, loaded)
    assert '"class": "never"' in (tmp_path / PER_CLASS_JSON).read_text()
    assert (tmp_path / "per_class.csv").read_text().startswith("label,class,rows,average_precision,threshold,")
    with pytest.raises(ValueError, match="need 32 numbers"):
        counts_for(HEADS).load_state(torch.zeros(3))


def test_what_is_refused():
    with pytest.raises(ValueError, match="multi-label clips"):
        MultiLabelCounts(Heads(("a", "b")))
    with pytest.raises(ValueError, match="2 thresholds for 4 classes"):
        MultiLabelCounts(HEADS, thresholds=(0.5, 0.5))
    with pytest.raises(ValueError, match=r"need scores \(2, 4\)"):
        counted(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="no clip was counted"):
        MultiLabelCounts(HEADS).result()


def test_a_clip_that_is_drawn_twice_counts_twice():
    """Resamples by weights are those of repeated rows."""
    logits, _, has = clips(30)
    scores = logits.numpy()
    whole, maps = resampled_maps([scores, -scores], has, resamples=20, seed=3)
    drawn = np.random.default_rng(3).multinomial(30, np.full(30, 1 / 30), size=20)
    for again, found in zip(drawn, maps, strict=True):
        rows = np.repeat(np.arange(30), again)
        for sign, value in zip((1, -1), found, strict=True):
            present = [one for one in range(4) if has[rows, one].any()]
            precisions = [average_precision_score(has[rows, one], sign * scores[rows, one]) for one in present]
            assert value == pytest.approx(np.mean(precisions), rel=1e-5)
    assert whole[0, 0] == pytest.approx(average_precision_score(has[:, 0], scores[:, 0]))
    assert math.isnan(whole[0, 3])


def test_intervals_and_differences():
    logits, labels, has = clips(200)
    scores = logits.numpy()
    low, high = map_interval(scores, has)
    assert low < counted(logits, labels).result()["map"] < high
    same = map_difference(scores, scores, has)
    assert (same.difference, same.interval, same.p_value) == (0.0, (0.0, 0.0), 1.0)
    better = map_difference(scores, scores + has, has)
    assert better.difference > 0.05
    assert better.interval[0] > 0
    assert better.p_value == 2 / 1000
    assert (better.classes_K[:3] > 0).all()
    with pytest.raises(ValueError, match="no clip has a class"):
        map_interval(scores, np.zeros_like(has))
