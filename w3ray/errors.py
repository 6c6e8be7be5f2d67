"""Which errors does w3ray raise for its users, and which exit code does each one end with?"""


class InputError(Exception):
    """What the user wrote can not be used: one line that says what, where and what to do (exit code 2)."""


class RunError(Exception):
    """Something failed while running: one line with the cause (exit code 1)."""
