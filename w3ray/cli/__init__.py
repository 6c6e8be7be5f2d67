"""Which commands does `w3ray` have, and how does it find them?

A command is one file in this folder and one row in `COMMANDS`. Only the module of the called command is imported. So
`w3ray --help` answers at once, although most commands need torch or Ray.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import typer

from w3ray._version import __version__
from w3ray.cli._common import EXIT_FAILED, report_input_error, report_usage_error
from w3ray.cli._console import is_unicode, write_error, write_out
from w3ray.cli._streams import guarded
from w3ray.errors import InputError, RunError

# Command -> (module:attribute, the line that `w3ray --help` shows). The attribute is a function, or a typer.Typer for a
# command with subcommands.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("w3ray.cli.run:run", "Run a recipe: train its stages, evaluate, register the model."),
    "tune": ("w3ray.cli.tune:tune", "Search a space of recipes; report on a search."),
    "evaluate": ("w3ray.cli.evaluate:evaluate", "Score a model on a manifest with a test protocol."),
    "compare": ("w3ray.cli.compare:compare", "Compare evaluations with each other, clip by clip."),
    "submit": ("w3ray.cli.submit:submit", "Write the scores of a test split in its challenge's format."),
    "predict": ("w3ray.cli.predict:predict", "Classify videos with a model."),
    "serve": ("w3ray.cli.serve:serve", "Serve a model over HTTP."),
    "explain": ("w3ray.cli.explain:explain", "Draw where and when a model's attention looks in a video."),
    "lint": ("w3ray.cli.lint:lint", "Compare a recipe with the published one, and check it against its data."),
    "data": ("w3ray.cli.data:app", "Import, check, describe, show and synthesise clips."),
    "plugins": ("w3ray.cli.plugins:plugins", "List all parts that a recipe can name, and where each comes from."),
    "export": ("w3ray.cli.export:export", "Write a model as one file for PyTorch or ONNX Runtime."),
    "profile": ("w3ray.cli.profile:profile", "Count a model's multiply-adds and parameters, plain and with attention."),
}


def _print_version(requested: bool) -> None:
    if requested:
        write_out(f"w3ray {__version__}")
        raise typer.Exit()


def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """Distributed training of video action recognisers with What-Where-When attention."""


def _unloaded() -> None:
    """Placeholder for a command that is listed but not called."""


def build_app(command: str | None) -> typer.Typer:
    """The command line. Only `command` is loaded; all other commands are only listed.

    Raises:
        ImportError: the module of `command` cannot be imported.
    """
    # Plain tracebacks: a bug report needs the frames, and typer's boxes hide the exception's own text.
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        # Help is drawn with box characters, which not every stream can encode.
        rich_markup_mode="rich" if is_unicode() else None,
    )
    app.callback()(_root)
    for name, (target, help_line) in COMMANDS.items():
        attribute: Callable[..., Any] | typer.Typer = _unloaded
        if name == command:
            module_name, _, attribute_name = target.partition(":")
            attribute = getattr(import_module(module_name), attribute_name)
        if isinstance(attribute, typer.Typer):
            app.add_typer(attribute, name=name, help=help_line)
        else:
            app.command(name=name, short_help=help_line)(attribute)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with guarded():
        return _main(words)


def _main(words: list[str]) -> int:
    command = next((word for word in words if not word.startswith("-")), None)
    # Without a home folder for its font list, matplotlib prints two long lines. It works without the list.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        app = build_app(command)
        code = typer.main.get_command(app).main(args=words, prog_name="w3ray", standalone_mode=False)
    except RunError as error:  # help that cannot be written
        write_error(f"error: {error}")
        return EXIT_FAILED
    except InputError as error:  # a plugin that the environment names, as a command looks for what there is
        return report_input_error(error, as_json="--json" in words)
    except Exception as error:
        # typer raises click's usage errors. Depending on its version they come from its own copy of click or from the
        # click package; both have this method.
        if not hasattr(error, "format_message"):
            raise
        return report_usage_error(error, as_json="--json" in words)
    return code if isinstance(code, int) else 0
