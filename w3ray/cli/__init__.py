"""Which commands does `w3ray` have, and how does it find them?

A command is one file in this folder plus one row in `COMMANDS`. Only the module of the command that was asked for is
imported, so that `w3ray --help` answers at once although most commands need torch or Ray.
"""

import logging
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import typer

from w3ray import __version__
from w3ray.cli._common import EXIT_FAILED, report_usage_error
from w3ray.cli._console import is_unicode, write_error, write_out
from w3ray.cli._streams import guarded
from w3ray.errors import RunError

# Command -> (module:attribute, the line that `w3ray --help` shows). The attribute is a function or, for a command with
# commands of its own, a typer.Typer.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("w3ray.cli.run:run", "Run a recipe: train its stages, evaluate, register the model."),
    "tune": ("w3ray.cli.tune:tune", "Search a space of recipes; report on a search."),
    "evaluate": ("w3ray.cli.evaluate:evaluate", "Score a model on a manifest by a test protocol."),
    "compare": ("w3ray.cli.compare:compare", "Hold evaluations against each other, clip by clip."),
    "submit": ("w3ray.cli.submit:submit", "Write an evaluated test split as its challenge wants it."),
    "predict": ("w3ray.cli.predict:predict", "Tell what a model sees in videos."),
    "explain": ("w3ray.cli.explain:explain", "Draw where and when a model's attention looks in a video."),
    "lint": ("w3ray.cli.lint:lint", "Compare a recipe with the published one; what is wrong for its data."),
    "data": ("w3ray.cli.data:app", "Import, check, describe, show and synthesise clips."),
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
    """Stand-in for a command that this call only lists."""


def build_app(command: str | None) -> typer.Typer:
    """The command line with `command` loaded and every other command only listed.

    Raises:
        ImportError: the module of `command` cannot be imported.
    """
    # Plain tracebacks: a bug report needs the frames, and typer's boxes hide the exception's own text.
    app = typer.Typer(
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        # The boxes that help is drawn with are characters that not every stream has.
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
    """Run the command line; returns the exit code (0 done, 1 failed, 2 bad input, 130 interrupted)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with guarded():
        return _main(words)


def _main(words: list[str]) -> int:
    command = next((word for word in words if not word.startswith("-")), None)
    # Where there is no home to keep its list of fonts in, it says so in two long lines, and does without.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    app = build_app(command)
    try:
        code = typer.main.get_command(app).main(args=words, prog_name="w3ray", standalone_mode=False)
    except RunError as error:  # help that cannot be written
        write_error(f"error: {error}")
        return EXIT_FAILED
    except Exception as error:
        # typer raises click's usage errors, from its own copy of click or from the click package depending on its
        # version; what they share is this method.
        if not hasattr(error, "format_message"):
            raise
        return report_usage_error(error, as_json="--json" in words)
    return code if isinstance(code, int) else 0
