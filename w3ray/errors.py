"""Which errors does w3ray raise for its users, and which exit code does each one end with?"""

from w3ray._redact import redact
from w3ray._text import one_line


class _UserError(Exception):
    """The text of an error goes to terminals, logs and files, so secrets are hidden when the error is made.

    Args:
        lines: the lines of the text; a line end inside one of them, such as in a file name, is shown as an escape.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*(one_line(redact(line)) for line in lines))

    def __str__(self) -> str:
        return "\n".join(self.args)


class InputError(_UserError):
    """What the user wrote cannot be used: lines that say what, where and what to do (exit code 2)."""


class RunError(_UserError):
    """Something failed while running: one line with the cause (exit code 1)."""
