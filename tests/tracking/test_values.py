"""Names and values are changed to fit MLflow's limits, but different ones stay different."""

from w3ray.tracking._values import MAX_VALUE, flatten, metric_name, model_name


def test_flatten_nested() -> None:
    params = {"train": {"lr": 0.1, "schedule": {"kind": "step", "milestones": [1, 2]}}, "fold": None, "none": {}}
    assert flatten(params) == {
        "train.lr": "0.1",
        "train.schedule.kind": "step",
        "train.schedule.milestones": "[1, 2]",
        "fold": "None",
        "none": "{}",
    }


def test_long_values_keep_apart() -> None:
    one, other = flatten({"v": "x" * 7000})["v"], flatten({"v": "x" * 7000 + "y"})["v"]
    assert len(one) == len(other) == MAX_VALUE
    assert one != other


def test_names() -> None:
    assert metric_name("val/top1 (best)") == "val/top1 _best_"
    assert model_name("a/b:c.d%e'f") == "a_b_c_d_e_f"
