"""Which errors does w3ray raise for its users, and which exit code does each one end with?"""

from w3ray._redact import redact
from w3ray._text import one_line


class _UserError(Exception):
    """Its text goes to terminals, logs and files: what is secret in it is hidden as soon as it is made.

    Args:
        lines: of its text; a line end inside of one, such as that of a file's name, is shown as an escape.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*(one_line(redact(line)) for line in lines))

    def __str__(self) -> str:
        return "\n".join(self.args)


class InputError(_UserError):
    """What the user wrote cannot be used: lines that say what, where and what to do (exit code 2)."""


class RunError(_UserError):
    """Something failed while running: one line with the cause (exit code 1)."""
