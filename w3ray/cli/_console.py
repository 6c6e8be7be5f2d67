"""The only way to the terminal: text from users is never read as markup and can never control the terminal.

No other module imports Rich or writes to standard output or standard error (`tests/cli/test_hostile_text.py` checks).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, cast

from rich.console import Console as RichConsole
from rich.console import ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table as RichTable
from rich.text import Text

from w3ray._redact import redact
from w3ray._text import encodable, one_line, plain_lines

__all__ = ["Console", "Group", "Line", "Live", "ProgressBar", "RenderableType", "RichConsole", "Table", "error_console",
           "is_unicode", "lines", "write_error", "write_out"]  # fmt: skip

_UNLIMITED = 100_000
"""Columns where there is no terminal: a row stays one line, so that cut and grep work."""


class Console(RichConsole):
    """A console that prints every text unchanged, and prints characters that the stream cannot encode as escapes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})
        if not self.is_terminal and self._width is None:
            self.width = _UNLIMITED

    @property
    def file(self) -> IO[str]:
        """The stream itself, without Rich's proxy (of a live display) and w3ray's."""
        file = super().file
        while (inner := getattr(file, "rich_proxied_file", None)) is not None:
            file = inner
        return file

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render anything, also objects that do not use this module."""
        for segment in super().render(renderable, options):
            if not (segment.control or (segment.text.isascii() and segment.text.isprintable())):
                # This ellipsis is Rich's own. An ellipsis in a user's text is already an escape if not encodable.
                text = segment.text if is_unicode(self) else segment.text.replace("…", ".")
                segment = Segment(_shown(plain_lines(text), self), segment.style)
            yield segment


class Line:
    """One line of text, in one style, or in parts that have their own styles.

    Args:
        parts: texts, or pairs of a text and its style.
        cut: whether a line that is too long ends in an ellipsis. Otherwise it is folded.
    """

    def __init__(self, *parts: str | tuple[str, str], style: str = "", cut: bool = False) -> None:
        self._parts = [(part, "") if isinstance(part, str) else part for part in parts]
        self._style, self._cut = style, cut

    def text(self, console: RichConsole) -> Text:
        text = Text(style=self._style)
        for part, style in self._parts:
            text.append(_shown(one_line(part), console), style or None)
        if self._cut:
            text.no_wrap, text.overflow = True, "ellipsis"
        return text

    def __rich_console__(self, console: RichConsole, options: ConsoleOptions) -> Iterator[Text]:
        yield self.text(console)

    def __rich_measure__(self, console: RichConsole, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.text(console))


class Table(RichTable):
    """A table of lines of text. A text without enough room is folded; it is never cut or parsed as markup."""

    def __init__(self, *, title: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.title = None if title is None else Text(one_line(title), style=self.title_style or "table.title")

    def add_column(self, header: str | Line = "", **options: Any) -> None:  # type: ignore[override]
        options.setdefault("overflow", "fold")
        super().add_column(cast(RenderableType, Line(header) if isinstance(header, str) else header), **options)

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:
        super().add_row(*(Line(cell) if isinstance(cell, str) else cell for cell in cells), **options)


def lines(texts: Iterable[str], style: str = "") -> Group:
    """The texts, one line each."""
    return Group(*(Line(text, style=style) for text in texts))


def error_console() -> Console:
    """A new console on standard error for displays, progress and warnings. Not cached: stderr may be redirected."""
    return Console(stderr=True)


def write_out(shown: RenderableType | Sequence[str]) -> None:
    """Write something drawn, such as a table, or one line for each text, on standard output. Secrets are removed."""
    console = Console()
    if isinstance(shown, str | Line) or not isinstance(shown, Sequence):
        console.print(Line(redact(shown)) if isinstance(shown, str) else shown, soft_wrap=isinstance(shown, str))
        return
    console.file.write("".join(f"{_shown(one_line(redact(text)), console)}\n" for text in shown))
    console.file.flush()


def write_error(*texts: str) -> None:
    """Write one line for each text on standard error. Secrets are removed."""
    console = error_console()
    for text in texts:
        console.print(Line(redact(text)), soft_wrap=True)


def is_unicode(console: RichConsole | None = None) -> bool:
    """Whether the console (default: standard output) can encode every character."""
    return (console or Console()).encoding.startswith("utf")


def _shown(text: str, console: RichConsole) -> str:
    return text if text.isascii() or is_unicode(console) else encodable(text, console.encoding)
