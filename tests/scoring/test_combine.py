"""A verb and a noun model become one result with both heads."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from w3ray.cli import main
from w3ray.data.clip import ClipSpec
from w3ray.data.manifest import Manifest, build_manifest, write_manifest
from w3ray.errors import InputError
from w3ray.heads import UNLABELLED, Heads
from w3ray.models.bundle import ModelDescription
from w3ray.scoring.clip_scores import ClipScores, write_scores
from w3ray.scoring.combine import check_heads, head_of, log_prior, side_by_side
from w3ray.scoring.compare import compare
from w3ray.scoring.measure import measure

VERBS, NOUNS = ("open", "close"), ("door", "jar", "tap")
HEADS = Heads((*VERBS, *NOUNS), (("verb", 2), ("noun", 3)))


def described(*classes: str) -> ModelDescription:
    return ModelDescription(
        model={"name": "tsm"}, clip=asdict(ClipSpec()), classes=classes, mean=(0.5,) * 3, std=(0.5,) * 3
    )


@pytest.fixture
def clips(tmp_path) -> Manifest:
    """Four training clips (open door, open door, close jar, close tap) and two others."""
    labels = [0, 0, 4, 5, 1, 3]
    columns = {
        "clip_id": list("abcdef"), "uri": [f"/v/{name}.mp4" for name in "abcdef"], "label": labels,
        "split": ["train"] * 4 + ["val"] * 2,
    }  # fmt: skip
    made = build_manifest(columns, HEADS.classes, head_sizes=HEADS.sizes)
    return write_manifest(made, str(tmp_path / "m.parquet"))


def scores(*rows: list[float], labels: tuple[int, ...], **reasons: str) -> ClipScores:
    return ClipScores(
        clip_ids=tuple("ef"[: len(rows)]), labels=np.array(labels), scores=np.array(rows, np.float32), reasons=reasons
    )


def test_scores_side_by_side_in_the_order_of_the_heads():
    verb, noun = HEADS.each()
    of_noun = scores([0.5, 0.3, 0.2], [0.1, 0.6, 0.3], labels=(1, 3))
    of_verb = scores([0.9, 0.1], [0.2, 0.8], labels=(1, 3))
    joined = side_by_side([of_noun, of_verb], [noun, verb])
    np.testing.assert_allclose(joined.scores, [[0.9, 0.1, 0.5, 0.3, 0.2], [0.2, 0.8, 0.1, 0.6, 0.3]])
    unread = scores([0.9, 0.1], [np.nan, np.nan], labels=(1, 3), f="gone")
    joined = side_by_side([unread, of_noun], [verb, noun])
    assert joined.reasons == {"f": "gone"}
    assert np.isnan(joined.scores[1]).all()


def test_the_prior_weighs_actions_and_no_head(clips):
    verb, noun = HEADS.each()
    # Clip e is open jar, which no training clip is; clip f is close door, the same. Without a prior both are right.
    of_verb = scores([0.6, 0.4], [0.3, 0.7], labels=(1, 3))
    of_noun = scores([0.4, 0.5, 0.1], [0.6, 0.3, 0.1], labels=(1, 3))
    joined = side_by_side([of_verb, of_noun], [verb, noun])
    plain = measure(joined, HEADS)
    assert (plain["top1"], plain["verb_top1"], plain["noun_top1"]) == (1.0, 1.0, 1.0)
    prior_P = log_prior("train", clips)
    np.testing.assert_allclose(np.exp(prior_P), [0.5, 0, 0, 0, 0.25, 0.25], atol=1e-20)
    weighed = measure(joined, HEADS, prior_P)
    assert (weighed["top1"], weighed["verb_top1"], weighed["noun_top1"]) == (0.0, 1.0, 1.0)
    assert weighed["top1_interval"][0] == 0.0
    # Pairs that never occur come after those that do: three of the latter.
    assert weighed["top5"] == 1.0


def test_the_prior_of_another_manifest(clips, tmp_path):
    place = str(tmp_path / "m.parquet")
    np.testing.assert_array_equal(log_prior(f"{place}:train", clips), log_prior("train", clips))
    with pytest.raises(InputError, match="split 'tarin' is empty"):
        log_prior("tarin", clips)
    other = build_manifest({"clip_id": ["a"], "uri": ["/a"], "label": [0], "split": ["train"]}, ["x"])
    write_manifest(other, str(tmp_path / "o.parquet"))
    with pytest.raises(InputError, match="has other classes than"):
        log_prior(f"{tmp_path}/o.parquet:train", clips)
    hidden = build_manifest(
        {"clip_id": ["a"], "uri": ["/a"], "label": [None], "split": ["train"]}, HEADS.classes, head_sizes=HEADS.sizes
    )
    write_manifest(hidden, str(tmp_path / "h.parquet"))
    with pytest.raises(InputError, match="none of its clips has a label"):
        log_prior(f"{tmp_path}/h.parquet:train", clips)


def test_which_head_a_model_has(clips):
    assert head_of("v", described(*VERBS), clips).name == "verb"
    assert head_of("n", described(*NOUNS), clips).name == "noun"
    for classes in (("close", "open"), HEADS.classes, ("x",)):
        with pytest.raises(InputError, match=rf"--combine: v: its {len(classes)} classes are not those of one head of"):
            head_of("v", described(*classes), clips)
    with pytest.raises(InputError, match="its clips have one label each"):
        head_of("v", described(*VERBS), clips.with_head("verb"))
    verb, noun = HEADS.each()
    check_heads(["v", "n"], [verb, noun], HEADS)
    with pytest.raises(InputError, match="--combine: v and w both have the head 'verb'; name one of each"):
        check_heads(["v", "w"], [verb, verb], HEADS)


def test_one_head_of_a_manifest(clips):
    verbs, nouns = clips.with_head("verb"), clips.with_head("noun")
    assert verbs.table["label"].to_pylist() == [0, 0, 1, 1, 0, 1]
    assert nouns.table["label"].to_pylist() == [0, 0, 1, 2, 1, 0]
    assert (verbs.classes, verbs.head_sizes) == (VERBS, ())
    assert len({clips.fingerprint(), verbs.fingerprint(), nouns.fingerprint()}) == 3
    with pytest.raises(InputError, match="no head 'word'; it has verb, noun"):
        clips.with_head("word")
    with pytest.raises(InputError, match="no head 'verb'; its clips have one label each"):
        verbs.with_head("verb")


def test_clips_without_a_label_stay_without(tmp_path):
    columns = {"clip_id": ["a", "b"], "uri": ["/a", "/b"], "label": [5, None], "split": ["test", "test"]}
    made = build_manifest(columns, HEADS.classes, head_sizes=HEADS.sizes).with_head("noun")
    assert made.table["label"].to_pylist() == [2, None]
    assert UNLABELLED == -1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", "b", "--prior", "train"], "--prior weighs the actions of two models; add --combine"),
        (["a", "--combine"], "--combine: needs two models, one for each head; 1 given"),
        (["a", "b", "c", "--combine"], "--combine: needs two models, one for each head; 3 given"),
        (["a", "b", "--combine", "--weight", "1", "--weight", "2"], "leave it out with --combine"),
    ],
)
def test_the_command_says_it_in_one_line(words, said, tmp_path, capsys):
    places = [str(tmp_path) if word in "abc" else word for word in words]
    assert main(["evaluate", *places, "--manifest", "m.parquet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_what_reads_scores_refuses_a_prior(tmp_path):
    import json

    both = scores([0.6, 0.4, 0.4, 0.5, 0.1], labels=(1,))
    document = {"models": ["v", "n"], "protocol": "1clip-center", "classes": list(HEADS.classes), "prior": "train"}
    document["heads"] = [list(one) for one in HEADS.sizes]
    for name, prior in (("one", None), ("two", "train")):
        write_scores(tmp_path / name, both)
        (tmp_path / name / "result.json").write_text(json.dumps({**document, "prior": prior}))
    assert len(compare([str(tmp_path / "one")] * 2)) == 2
    with pytest.raises(InputError, match=r"two: was made with --prior train, which is not in its scores"):
        compare([str(tmp_path / "one"), str(tmp_path / "two")])


def test_a_verb_and_a_noun_model_through_the_command(tmp_path: Path, clips, monkeypatch, capsys):
    """Only the scoring itself is replaced."""
    import json

    from w3ray.models import build_model
    from w3ray.models.bundle import write_model

    names = {}
    for name, classes in (("verb", VERBS), ("noun", NOUNS)):
        arguments = {
            "name": "tsn", "backbone": "resnet_small", "options": {}, "num_classes": len(classes), "attention": None,
            "refinement": False, "dropout": 0.5,
        }  # fmt: skip
        network = build_model(**arguments)
        assert isinstance(network, nn.Module)
        about = ModelDescription(
            model=arguments, clip=asdict(ClipSpec(num_frames=2, size=32)), classes=classes, mean=network.pixels.mean,
            std=network.pixels.std,
        )  # fmt: skip
        write_model(tmp_path / name, network, about)
        names[name] = str(tmp_path / name)

    def score(parts, address, roots, on_progress):
        for part in parts:
            rows = (
                [[0.6, 0.4], [0.3, 0.7]] if len(part.description.classes) == 2 else [[0.4, 0.5, 0.1], [0.6, 0.3, 0.1]]
            )
            write_scores(part.directory, scores(*rows, labels=(1, 3)))

    monkeypatch.setattr("w3ray.scoring.evaluate._score", score)
    words = ["--manifest", clips.location, "--combine", "--storage", str(tmp_path / "runs"), "--json"]
    found = []
    for more in ([], ["--prior", "train"]):
        assert main(["evaluate", names["noun"], names["verb"], *words, *more]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert [one["metrics"]["top1"] for one in found] == [1.0, 0.0]
    assert [one["metrics"]["noun_top1"] for one in found] == [1.0, 1.0]
    assert found[0]["directory"] != found[1]["directory"]
    assert main(["evaluate", names["verb"], names["verb"], *words]) == 2
    assert "both have the head 'verb'" in capsys.readouterr().out
    assert main(["evaluate", names["verb"], "--manifest", clips.location, "--json"]) == 2
