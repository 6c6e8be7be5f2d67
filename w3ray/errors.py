"""Which errors does w3ray raise for its users, and which exit code does each one end with?"""

from w3ray._redact import redact


class _UserError(Exception):
    """Its text goes to terminals, logs and files: what is secret in it is hidden as soon as it is made."""

    def __init__(self, message: str = "") -> None:
        super().__init__(redact(message))


class InputError(_UserError):
    """What the user wrote can not be used: one line that says what, where and what to do (exit code 2)."""


class RunError(_UserError):
    """Something failed while running: one line with the cause (exit code 1)."""
