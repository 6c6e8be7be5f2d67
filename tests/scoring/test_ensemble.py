"""Scores of several models, averaged with weights."""

import numpy as np
import pytest

from w3ray.cli import main
from w3ray.errors import InputError
from w3ray.scoring.clip_scores import ClipScores
from w3ray.scoring.measure import check_weights, ensemble


def scores_of(values: list[list[float]], **reasons: str) -> ClipScores:
    names = tuple("abc"[: len(values)])
    return ClipScores(
        clip_ids=names, labels=np.zeros(len(values), int), scores=np.array(values, np.float32), reasons=reasons
    )


def test_weights() -> None:
    one, other = scores_of([[0.9, 0.1], [0.2, 0.8]]), scores_of([[0.4, 0.6], [0.7, 0.3]])
    assert ensemble([one, other]).scores == pytest.approx(np.array([[0.65, 0.35], [0.45, 0.55]]))
    fused = ensemble([one, other], (1, 1.5)).scores
    assert fused == pytest.approx(np.array([[0.6, 0.4], [0.5, 0.5]]))
    assert fused.dtype == np.float32
    assert fused.sum(1) == pytest.approx(1.0)


def test_a_clip_that_one_model_could_not_read_has_no_scores() -> None:
    unread = scores_of([[np.nan, np.nan], [0.7, 0.3]], a="no such file")
    fused = ensemble([scores_of([[0.9, 0.1], [0.2, 0.8]]), unread], (1, 3))
    assert fused.reasons == {"a": "no such file"}
    assert np.isnan(fused.scores[0]).all()


def test_equal_weights_are_none() -> None:
    assert check_weights([], 2) is None
    assert check_weights([2.0, 2.0], 2) is None
    assert check_weights([1, 1.5], 2) == (1, 1.5)


@pytest.mark.parametrize(
    ("weights", "num_models", "said"),
    [
        ([1.0], 2, "1 given for 2 models; give one for each model"),
        ([1.0, 2.0, 3.0], 2, "3 given for 2 models"),
        ([1.0], 1, "there is one model"),
        ([1.0, 0.0], 2, "--weight 0: must be a number above 0"),
        ([1.0, -1.5], 2, "--weight -1.5: must be"),
        ([1.0, float("nan")], 2, "--weight nan: must be"),
        ([float("inf"), 1.0], 2, "--weight inf: must be"),
    ],
)
def test_wrong_weights(weights: list[float], num_models: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_weights(weights, num_models)


def test_the_command_says_it_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path) -> None:
    words = ["evaluate", str(tmp_path), str(tmp_path), "--manifest", "clips.parquet", "--weight", "1"]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "error: --weight: 1 given for 2 models; give one for each model, in the same order"
