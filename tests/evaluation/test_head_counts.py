"""Verb, noun and action, compared with loops over clips. One head gives the same as no heads."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from w3ray.evaluation.head_counts import HeadCounts
from w3ray.evaluation.head_scores import combined_scores, right_in_all_heads, scores_of_logits
from w3ray.evaluation.metrics import Counts
from w3ray.heads import Heads

KITCHEN = Heads(tuple(f"v{i}" for i in range(4)) + tuple(f"n{i}" for i in range(5)), (("verb", 4), ("noun", 5)))


def scored(num_clips: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, KITCHEN.num_labels, (num_clips,), generator=generator)
    logits = torch.randn(num_clips, KITCHEN.num_scores, generator=generator, dtype=torch.float64)
    for row, label in zip(logits, labels, strict=True):
        row[label // 5] += 1.5
        row[4 + label % 5] += 1.5
    return logits, labels


def counted(logits: Tensor, labels: Tensor, valid: Tensor | None = None) -> HeadCounts:
    counts = HeadCounts(KITCHEN)
    counts.update(logits, labels, valid)
    return counts


def test_values_are_those_of_a_loop_over_clips() -> None:
    logits, labels = scored(200)
    result = counted(logits, labels).result()
    top1 = top5 = verbs = nouns = 0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        verb, noun = divmod(label, 5)
        actions = sorted(itertools.product(range(4), range(5)), key=lambda pair: -row[pair[0]] - row[4 + pair[1]])
        top1 += actions[0] == (verb, noun)
        top5 += (verb, noun) in actions[:5]
        verbs += max(range(4), key=lambda i: row[i]) == verb
        nouns += max(range(5), key=lambda i: row[4 + i]) == noun
    expected = {"top1": top1 / 200, "top5": top5 / 200, "verb_top1": verbs / 200, "noun_top1": nouns / 200, "rows": 200}
    assert {name: result[name] for name in expected} == expected
    cross_entropy = torch.nn.functional.cross_entropy
    verb_loss, noun_loss = cross_entropy(logits[:, :4], labels // 5), cross_entropy(logits[:, 4:], labels % 5)
    assert result["verb_loss"] == pytest.approx(float(verb_loss), abs=1e-7)
    assert result["loss"] == pytest.approx(float(verb_loss + noun_loss), abs=1e-6)
    assert right_in_all_heads(logits, labels, KITCHEN).sum() == top1
    per_action = [
        (logits[labels == label][:, :4].argmax(1) == label // 5)
        & (logits[labels == label][:, 4:].argmax(1) == label % 5)
        for label in labels.unique().tolist()
    ]
    mean = sum(float(hits.double().mean()) for hits in per_action) / len(per_action)
    assert result["mean_class_accuracy"] == pytest.approx(mean)


def test_any_split_and_order_gives_the_same_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = scored(60)
    whole = counted(logits, labels).state()
    parts = [counted(logits[i::3], labels[i::3]).state() for i in range(3)]
    assert torch.equal(parts[0] + parts[1] + parts[2], whole)
    assert HeadCounts(KITCHEN).load_state(whole).result() == counted(logits, labels).result()
    monkeypatch.setattr("w3ray.evaluation.head_counts._AT_ONCE", 2 * KITCHEN.num_labels)
    assert torch.equal(counted(logits, labels).state(), whole)


def test_padding_counts_nowhere_whatever_its_label() -> None:
    logits, labels = scored(6)
    labels[4:] = torch.tensor([-1, 10**6])
    valid = torch.tensor([True] * 4 + [False] * 2)
    assert torch.equal(counted(logits, labels, valid).state(), counted(logits[:4], labels[:4]).state())


def test_scores_that_are_not_finite_are_never_right() -> None:
    logits, labels = scored(3)
    logits[0, 7] = float("nan")
    counts = counted(logits, labels)
    assert counts.not_finite == 1
    assert math.isnan(counts.result()["loss"])
    assert counts.combinations_3P[1, labels[0]] == (labels[1:] == labels[0]).sum()


def test_one_head_is_its_counts() -> None:
    logits, labels = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
    counts, plain = HeadCounts(Heads(("a", "b", "c"))), Counts(3)
    counts.update(logits, labels)
    plain.update(logits, labels)
    assert torch.equal(counts.state(), plain.state())
    assert counts.result() == plain.result()
    assert torch.equal(scores_of_logits(logits, counts.heads), logits.softmax(1))


def test_scores_of_each_head_add_up_to_one_and_combine_to_their_products() -> None:
    logits, _ = scored(4)
    scores = scores_of_logits(logits, KITCHEN)
    torch.testing.assert_close(scores[:, :4].sum(1), torch.ones(4, dtype=torch.float64))
    combined = combined_scores(logits, KITCHEN).exp()
    torch.testing.assert_close(combined[:, 2 * 5 + 3], scores[:, 2] * scores[:, 4 + 3])
    torch.testing.assert_close(combined.sum(1), torch.ones(4, dtype=torch.float64))
    views = torch.stack([logits, -logits], 1)
    torch.testing.assert_close(scores_of_logits(views, KITCHEN)[:, 1], scores_of_logits(-logits, KITCHEN))


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"need scores \(B, 9\)"):
        HeadCounts(KITCHEN).update(torch.zeros(1, 8), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="no clip was counted"):
        HeadCounts(KITCHEN).result()
    with pytest.raises(ValueError, match="need int64"):
        HeadCounts(KITCHEN).load_state(torch.zeros(3, dtype=torch.int64))
