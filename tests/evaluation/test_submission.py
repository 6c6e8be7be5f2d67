"""Submissions: what a server computes from the file equals the model's output."""

import json

import numpy as np
import pytest

from w3ray.evaluation.submission import Supervision, epic_submission, something_submission
from w3ray.heads import Heads
from w3ray.published_sets import PUBLISHED_SETS


def heads_of(version: str) -> Heads:
    sizes = PUBLISHED_SETS[f"epic-kitchens-{version}"].heads
    return Heads(tuple(f"{name} {label}" for name, size in sizes for label in range(size)), sizes)


def scores_of(clips: int, heads: Heads, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    parts = [np.exp(3 * rng.normal(size=(clips, len(head.classes)))) for head in heads.each()]
    return np.concatenate([part / part.sum(axis=1, keepdims=True) for part in parts], axis=1).astype(np.float32)


def softmax(scores: dict[str, float]) -> np.ndarray:
    values = np.exp([scores[str(label)] for label in range(len(scores))])
    return values / values.sum()


@pytest.mark.parametrize("version", ["55", "100"])
def test_epic_values(version):
    heads = heads_of(version)
    scores_NS = scores_of(3, heads)
    names = ["1924", "1925", "7"] if version == "55" else ["P01_101_0", "P01_101_1", "P36_101_9"]
    document = json.loads(json.dumps(epic_submission(names, scores_NS, heads, version), allow_nan=False))
    assert document["challenge"] == "action_recognition"
    assert list(document["results"]) == names
    num_nouns = heads.sizes[1][1]
    for segment, scores_S in zip(document["results"].values(), scores_NS, strict=True):
        verbs, nouns = softmax(segment["verb"]), softmax(segment["noun"])
        np.testing.assert_allclose(np.concatenate([verbs, nouns]), scores_S, rtol=1e-4)
        # What the server computes if there are no actions: the 100 greatest products.
        products = np.outer(verbs, nouns).ravel()
        best = np.argsort(-products, kind="stable")[:100]
        assert list(segment["action"]) == [f"{a // num_nouns},{a % num_nouns}" for a in best]
        np.testing.assert_allclose(list(segment["action"].values()), products[best], rtol=1e-4)


def test_epic_versions():
    for version, levels in (("55", {}), ("100", {"sls_pt": 2, "sls_tl": 3, "sls_td": 4})):
        document = epic_submission(["1"], scores_of(1, heads_of(version)), heads_of(version), version)
        head = {name: value for name, value in document.items() if name != "results"}
        number = {"55": "0.1", "100": "0.2"}[version]
        assert head == {"version": number, "challenge": "action_recognition", **levels}
    taught = Supervision(pretraining=1, training_data=3)
    document = epic_submission(["1"], scores_of(1, heads_of("100")), heads_of("100"), "100", taught)
    assert [document[name] for name in ("sls_pt", "sls_tl", "sls_td")] == [1, 3, 3]


def test_a_score_of_nothing_is_still_a_number():
    heads = heads_of("55")
    scores_NS = np.zeros((1, heads.num_scores), np.float32)
    scores_NS[0, [3, 125 + 7]] = 1
    segment = epic_submission(["1"], scores_NS, heads)["results"]["1"]
    assert next(iter(segment["action"].items())) == ("3,7", 1.0)
    assert len(segment["action"]) == 100
    json.dumps(segment, allow_nan=False)


def test_epic_errors():
    heads = heads_of("55")
    scores_NS = scores_of(2, heads)
    for names, scores, its_heads, message in (
        (["1", "2"], scores_NS, heads_of("100"), r"EPIC-KITCHENS-55 has the heads .*125.*, not .*97"),
        (["1", "2"], scores_NS, Heads(heads.classes), "not one head of 477 classes"),
        (["1", "1"], scores_NS, heads, "a clip appears twice"),
        (["1"], scores_NS, heads, "for 1 clips and 477 classes"),
        (["1", "2"], scores_NS * [[1], [2]], heads, "'2' are not probabilities: they sum to 2"),
        (["1", "2"], scores_NS * [[1], [np.nan]], heads, "'2' are not probabilities: they sum to nan"),
    ):
        with pytest.raises(ValueError, match=message):
            epic_submission(names, scores, its_heads)
    with pytest.raises(ValueError, match="training_data must be 0 to 5, not 6"):
        Supervision(training_data=6)


def test_something():
    classes = [f"class {label}" for label in range(8)]
    scores_NK = np.array([[0.1, 0.3, 0.05, 0.2, 0.15, 0.2, 0, 0], [0, 0, 0, 0, 0, 0, 0.25, 0.75]], np.float32)
    assert something_submission(["8.webm", "1420.webm"], scores_NK, classes) == "8;1;3;5;4;0\n1420;7;6;0;1;2\n"
    assert something_submission(["8", "1420"], scores_NK, classes, "name") == "8;class 1\n1420;class 7\n"
    with pytest.raises(ValueError, match=r"'a\.webm': its name must be the number of a video"):
        something_submission(["8.webm", "a.webm"], scores_NK, classes)
    with pytest.raises(ValueError, match="for 2 clips and 7 classes"):
        something_submission(["8.webm", "9.webm"], scores_NK, classes[:7])
