"""How is a user's text escaped for Markdown and HTML?"""

import html
import re
from collections.abc import Sequence

from w3ray._text import one_line
from w3ray.sweep.report.section import Section

_MARKS = re.compile(r"[\\`*\[\]<>|$~#!&^@]|\b_|_\b|:[\w+-]+:|://|^\s*([-+=]|\d+[.)])\s")
"""Characters that Markdown, or a page that shows it, may read as markup."""
_BOLD_OR_CODE = re.compile(r"\*\*|(?<!`)(?P<fence>`+)(?!`)(?P<code>.+?)(?<!`)(?P=fence)(?!`)")


def span(text: str) -> str:
    """A user's text for Markdown; as code if it might be read as markup."""
    text = one_line(text)
    if not _MARKS.search(text):
        return text
    fence = fence_of(text)
    return f"{fence} {text} {fence}"


def fence_of(text: str, least: int = 1) -> str:
    """Backticks: more than `text` has in a row."""
    return "`" * max([least, *(len(run) + 1 for run in re.findall("`+", text))])


def row_of(cells: Sequence[str]) -> str:
    return "| " + " | ".join(span(cell).replace("|", "\\|") for cell in cells) + " |"


def html_table(section: Section) -> str:
    head, *rows = section.table
    body = "".join(
        f"<tr{' class=best' if place == section.best_row else ''}>"
        + "".join(f"<td>{html.escape(one_line(cell))}</td>" for cell in row)
        + "</tr>"
        for place, row in enumerate(rows)
    )
    return f"<table><tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr>{body}</table>"


def html_text(text: str) -> str:
    """Turn Markdown's bold and code into HTML. A user's text that looks like either is already code: see `span`."""
    pieces, end, is_bold = [], 0, False
    for mark in _BOLD_OR_CODE.finditer(text):
        pieces.append(html.escape(text[end : mark.start()]))
        if mark["code"]:
            pieces.append(f"<code>{html.escape(mark['code'].strip(' '))}</code>")
        else:
            pieces.append("</b>" if is_bold else "<b>")
            is_bold = not is_bold
        end = mark.end()
    return "".join([*pieces, html.escape(text[end:])])
