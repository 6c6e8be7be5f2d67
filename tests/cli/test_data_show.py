"""`w3ray data show` as a command: the picture, its document, bad input."""

import json

import pytest
from PIL import Image

from w3ray.cli import main
from w3ray.recipe import load_recipe


def run_json(capfd, *words):
    code = main(["data", "show", *map(str, words), "--json"])
    return code, json.loads(capfd.readouterr().out)


def test_a_recipe_and_the_defaults(motion_manifest, tmp_path, capfd):
    out = tmp_path / "sheet.png"
    code, document = run_json(capfd, motion_manifest, "--recipe", "quickstart", "--count", 3, "--out", out)
    assert code == 0
    recipe = load_recipe("quickstart")
    assert (document["split"], document["stage"], document["seed"]) == ("train", recipe.stages[0].name, recipe.seed)
    assert [len(clip["times_s"]) for clip in document["clips"]] == [recipe.data.num_frames] * 3
    with Image.open(out) as picture:
        assert picture.format == "PNG"
        assert picture.height > 3 * 64
    words = ["--set", "data.num_frames=5", "--set", "data.size=48", "--out", tmp_path / "other.jpg"]
    code, document = run_json(capfd, motion_manifest, *words)
    assert (code, len(document["clips"]), len(document["clips"][0]["times_s"])) == (0, 16, 5)


def test_seed_epoch_and_stage_draw_anew(motion_manifest, tmp_path, capfd):
    def clips(*words):
        common = ["--recipe", "quickstart", "--count", 4, "--out", tmp_path / "sheet.png"]
        return run_json(capfd, motion_manifest, *common, *words)[1]["clips"]

    plain = clips()
    assert clips() == plain
    for other in (["--seed", 5], ["--epoch", 1], ["--stage", "student"]):
        assert clips(*other) != plain
    assert [clip["mirrored"] for clip in clips("--split", "val")] == [False] * 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "{tmp}/sheet.bmp"], "must end in .png"),
        (["--out", "{tmp}/none/sheet.png"], "cannot be written"),
        (["--out", "{tmp}/a.png", "--split", "dev"], "split 'dev' is empty"),
        (["--out", "{tmp}/a.png", "--recipe", "nosuch"], "unknown recipe"),
        (["--out", "{tmp}/a.png", "--set", "data.sise=48"], "--set: data.sise"),
        (["--out", "{tmp}/a.png", "--stage", "x"], "known: show"),
        (["--out", "{tmp}/a.png", "--epoch", "50"], "epochs 0 to 49"),
        (["--out", "{tmp}/a.png", "--set", "train.rows_together=5"], "rows_together 5 does not divide"),
    ],
)
def test_bad_input(motion_manifest, tmp_path, capfd, words, message):
    code, document = run_json(capfd, motion_manifest, *(word.format(tmp=tmp_path) for word in words))
    assert code == 2
    assert message in document["error"]["message"]
    assert list(tmp_path.iterdir()) == []
