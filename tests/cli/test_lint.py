"""`w3ray lint`: a table for users, a document for programs, exit codes."""

import json
import subprocess
import sys

import pytest

from w3ray.cli import main


def test_clean(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "220")
    assert main(["lint", "ssv1-w3-8f", "--strict"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ssv1-w3-8f, compared with ssv1-w3-8f: TSM+W3, 8 frames, Something-Something V1, W3 Table 1"
    assert "nothing found" in lines
    assert any("only the classifier" in line for line in lines)


def test_findings_are_a_table(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "220")
    words = ["lint", "ssv1-w3-16f", "--set", "model.attention.temporal=false", "--set", "train.momentum=0.5"]
    assert main(words) == 0
    out = capsys.readouterr().out
    (row,) = [line for line in out.splitlines() if "model.attention.temporal" in line]
    assert row.split()[1] == "warning"
    for said in ("false", "true [W3 Eq. 4 and 6]", "47.2 instead of 52.6 [W3 Table 5"):
        assert said in row
    (row,) = [line for line in out.splitlines() if "train.momentum" in line]
    assert "no figure is published" in row
    assert "1 warning, 1 note" in out
    assert main([*words, "--strict"]) == 1


def test_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", "quickstart", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["compared_with"]["recipe"] == "ssv1-w3-8f"
    assert document["same_data"] is False
    assert document["data_unread"] is None
    fields = {finding["field"]: finding for finding in document["findings"]}
    assert fields["data.size"]["value"] == 40
    assert fields["data.size"]["published"] == 224
    keys = {"rule", "severity", "field", "value", "published", "source", "cost", "cost_source"}
    assert all(set(finding) == keys for finding in document["findings"])
    assert main(["lint", "quickstart", "--json", "--strict"]) == 1
    assert json.loads(capsys.readouterr().out) == document


def test_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", "ssv1-w3"]) == 2
    assert "did you mean" in capsys.readouterr().err
    assert main(["lint", "quickstart", "--set", "train.epoch=3"]) == 2
    assert "did you mean 'train.epochs'" in capsys.readouterr().err


def test_needs_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from w3ray.cli import main; main(['lint', 'quickstart']); print({'torch', 'ray'} & {*sys.modules})"
    )
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert answer.stdout.splitlines()[-1] == "set()"
