"""How is text from users (names, paths, what they wrote) shown so that it cannot harm the terminal or mislead a reader?

Characters that act instead of being seen, such as line ends, terminal escapes and marks that change the direction of
writing, are shown as the escapes of Python strings. All other characters stay as they are.
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
    """`text` as one line. Each character that acts is shown as an escape, such as `\\n` for a line end."""
    return _ACTS.sub(_escape, text)


def plain_lines(text: str) -> str:
    """As `one_line`, but line ends stay."""
    return _ACTS_IN_A_LINE.sub(_escape, text)


def encodable(text: str, encoding: str) -> str:
    """`text` with an escape for each character that `encoding` does not have."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
