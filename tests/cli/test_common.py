"""Exit codes, error lines and the single JSON document, for every command."""

import json
import os
import signal
import subprocess
import sys
import time
from typing import Annotated

import pytest
import typer

import w3ray.cli
from w3ray.cli import COMMANDS, build_app, main
from w3ray.cli._common import JsonOption, finish, run_command
from w3ray.errors import InputError, RunError

ENDINGS = {
    "input": (InputError("bad.yaml: x: unknown key"), 2),
    "run": (RunError("a stage failed"), 1),
    "interrupted": (KeyboardInterrupt(), 130),
    "internal": (ZeroDivisionError("division"), 1),
}


@run_command
def end(how: Annotated[str, typer.Argument()], as_json: JsonOption = False) -> None:
    """End in the requested way."""
    print("a library prints")
    os.system("echo a child prints")
    if how == "sigterm":
        signal.raise_signal(signal.SIGTERM)
    if how != "done":
        raise ENDINGS[how][0]
    finish({"loss": float("nan"), "rows": (1, 2)}, as_json, "text for people")


@pytest.fixture(autouse=True)
def end_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "end", (f"{__name__}:end", "End as asked."))


class TestRunCommand:
    def test_sigterm_ends_as_ctrl_c_does(self, capsys: pytest.CaptureFixture[str]) -> None:
        before = signal.getsignal(signal.SIGTERM)
        assert main(["end", "sigterm"]) == 130
        assert capsys.readouterr().err.splitlines() == ["error: interrupted"]
        assert signal.getsignal(signal.SIGTERM) is before

    @pytest.mark.parametrize("how", ENDINGS)
    def test_exit_code_and_line(self, how: str, capsys: pytest.CaptureFixture[str]) -> None:
        error, code = ENDINGS[how]
        assert main(["end", how]) == code
        lines = capsys.readouterr().err.splitlines()
        assert lines[-1].startswith("error: ")
        assert str(error) in lines[-1]
        assert (len(lines) == 1) == (how != "internal")

    @pytest.mark.parametrize("how", ENDINGS)
    def test_json_error(self, how: str, capsys: pytest.CaptureFixture[str]) -> None:
        code = main(["end", how, "--json"])
        document = json.loads(capsys.readouterr().out)
        assert document["error"]["kind"] == how
        assert document["exit_code"] == code == ENDINGS[how][1]

    def test_text(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["end", "done"]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "text for people"

    def test_nan_becomes_null(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["end", "done", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"loss": None, "rows": [1, 2]}

    def test_stdout_holds_the_document_alone(self) -> None:
        """Output of child processes and C libraries to descriptor 1 is kept out, too."""
        script = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import test_common as t; "
        script += "t.COMMANDS['end'] = ('test_common:end', ''); sys.exit(t.main(['end', 'done', '--json']))"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == {"loss": None, "rows": [1, 2]}
        assert "a library prints" in done.stderr
        assert "a child prints" in done.stderr


class TestMain:
    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--version"]) == 0
        assert capsys.readouterr().out == f"w3ray {w3ray.__version__}\n"

    def test_help_lists_every_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--help"]) == 0
        shown = capsys.readouterr().out
        assert all(f" {name} " in shown for name in COMMANDS)

    def test_help_is_light_and_quick(self) -> None:
        """No heavy import. The time limit leaves room for a busy machine."""
        script = "import sys; from w3ray.cli import main; main(['--help']); "
        script += "print(*({'torch', 'ray', 'mlflow', 'numpy'} & set(sys.modules)), file=sys.stderr)"
        started_s = time.monotonic()
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stderr.strip() == ""
        assert time.monotonic() - started_s < 10

    @pytest.mark.parametrize(
        ("words", "texts"),
        [
            (["rnu"], ["No such command 'rnu'. Did you mean 'run'?"]),
            (["run"], ["Missing argument 'RECIPE'"]),
            (["run", "quickstart", "--epochs", "3"], ["No such option", "--epochs"]),  # new versions of click quote it
        ],
    )
    def test_usage_errors(self, words: list[str], texts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(words) == 2
        captured = capsys.readouterr()
        assert all(text.lower() in captured.err.lower() for text in texts)
        assert len(captured.err.splitlines()) == 1
        assert captured.out == ""
        assert main([*words, "--json"]) == 2
        assert json.loads(capsys.readouterr().out)["error"]["kind"] == "usage"

    @pytest.mark.parametrize("name", sorted(COMMANDS))
    def test_each_command_loads_and_takes_json(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        app = build_app(name)
        assert app is not None
        assert main([name, "--help"]) == 0
        shown = capsys.readouterr().out
        # A server has no answer to print: it runs until it is stopped.
        assert "--json" in shown or "Commands" in shown or name == "serve"
