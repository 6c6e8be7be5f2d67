"""How is text that users gave (names, paths, what they wrote) shown so that it can do nothing but be read?

Characters that act instead of being seen, such as line ends, terminal escapes and marks that turn the direction of
writing, are shown as the escapes of Python's own strings. All else stays as it is.
"""

import re

# Controls, soft hyphen, marks and overrides of direction, other characters of no width, line and paragraph separators,
# tags, and halves of surrogate pairs (bytes of a file name that are no UTF-8). Joiners stay, for Persian and emoji.
_ACTING = (
    "\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f"
)
_ACTS = re.compile(f"[{_ACTING}]")
_ACTS_IN_A_LINE = re.compile(f"(?!\n)[{_ACTING}]")


def one_line(text: str) -> str:
    """`text` as one line that shows every character that acts as an escape: a line end as `\\n`."""
    return _ACTS.sub(_escape, text)


def plain_lines(text: str) -> str:
    """As `one_line`, for a text whose line ends are meant as such."""
    return _ACTS_IN_A_LINE.sub(_escape, text)


def encodable(text: str, encoding: str) -> str:
    """`text` with an escape for each character that `encoding` does not have."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
