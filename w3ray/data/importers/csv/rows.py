"""How is an open CSV file read, with or without a header, some thousand rows at a time?"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from w3ray.data.importers._common import (
    line_without_text,
)
from w3ray.errors import InputError

_ROWS_AT_ONCE = 50_000


class _Lines:
    """Splits lines at blanks, with the interface of `csv.reader`. If the path comes first, it may contain blanks."""

    def __init__(self, lines: Iterable[str], width: int, path_first: bool) -> None:
        self._lines, self._width, self._path_first = lines, width, path_first
        self.line_num = 0

    def __iter__(self) -> Iterator[list[str]]:
        for line in self._lines:
            self.line_num += 1
            yield line.rsplit(maxsplit=self._width - 1) if self._path_first else line.split()


SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", " ": "blanks"}


def _separator(line: str, header: Sequence[str]) -> str:
    """The separator between the values of a list without a header."""
    fitting = [one for one in SEPARATORS if one != " " and len(line.split(one)) == len(header)]
    return fitting[0] if fitting else " " if len(line.split()) >= len(header) else ","


class Rows:
    """The header of an open CSV file, and its rows.

    `separator` stands between the values of a file without its own header; None if the file has a header.
    """

    def __init__(
        self, stream: TextIO, table: Path, delimiter: str | None, header: Sequence[str] | None, path: str
    ) -> None:
        self._table = table
        self.separator: str | None = None
        self.first_row: list[str] = []
        lines = [next(stream, "")]
        while lines[-1].isspace():
            lines.append(next(stream, ""))
        self.first_line, every = lines[-1].strip(), chain(lines, stream)
        self._reader: Any
        if header is None:
            self._reader = csv.reader(every, delimiter=delimiter or ",", strict=True)
            self.header = [name.strip() for name in next(filter(None, self._reader), [])]
            return
        self.header = list(header)
        self.separator = _separator(self.first_line, header) if delimiter is None else delimiter
        self._reader = (
            _Lines(every, len(header), header[0] == path) if self.separator == " "
            else csv.reader(every, delimiter=self.separator, strict=True)
        )  # fmt: skip

    @property
    def line(self) -> int:
        """The reader's current line, counted from 1."""
        line: int = self._reader.line_num
        return line

    def chunks(self) -> Iterator[tuple[list[list[str]], list[int]]]:
        """Chunks of rows, each with the line in which each row ends, counted from 1."""
        rows: list[list[str]] = []
        lines: list[int] = []
        width, reader = len(self.header), self._reader
        for row in reader:
            if len(row) != width:
                if not row:
                    continue
                whose = "the header has" if self.separator is None else f"--columns names ({','.join(self.header)})"
                raise InputError(f"{self._table}:{reader.line_num}: not {width} values, as {whose}")
            if self.separator is not None and not self.first_row:
                values = [value.strip() for value in row]
                if not rows and values == self.header:
                    continue  # the file has a header after all
                self.first_row = values
            rows.append(row)
            lines.append(reader.line_num)
            if len(rows) == _ROWS_AT_ONCE:
                yield rows, lines
                rows, lines = [], []
        if rows:
            yield rows, lines


@contextmanager
def opened_rows(table: Path, delimiter: str | None, header: Sequence[str] | None, path: str) -> Iterator[Rows]:
    """Raises: InputError if the file cannot be read or is not valid CSV."""
    rows = None
    try:
        with open(table, encoding="utf-8-sig", newline="") as stream:
            rows = Rows(stream, table, delimiter, header, path)
            yield rows
    except UnicodeDecodeError as error:
        raise InputError(f"{table}:{line_without_text(table)}: cannot be read as CSV: not UTF-8 text") from error
    except csv.Error as error:
        raise InputError(f"{table}:{rows.line if rows else 1}: cannot be read as CSV: {error}") from error
    except OSError as error:
        raise InputError(f"{table}: cannot be read as CSV: {error}") from error
