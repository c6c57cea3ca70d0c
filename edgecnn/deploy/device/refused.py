"""What the device will not do, in words that cross the link."""

from __future__ import annotations


class Refused(Exception):
    """The device says no, and what to do about it.

    Stands apart from ``edgecnn.errors``: here there may be no edgecnn yet.

    Args:
        message: What was found and what was expected.
        fix: The way out, in the imperative.
    """

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.message, self.fix = message, fix
