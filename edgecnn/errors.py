"""One tree of errors; each says what was found, what was expected, and how to fix it."""

from __future__ import annotations


class EdgecnnError(Exception):
    """Something that the user can fix; the command line prints it without a traceback.

    Args:
        message: What was found and what was expected, in one or two sentences.
        fix: The way out, in the imperative.

    Example:
        >>> raise DataError("'cats.txt' is a text file, not a picture.", fix="Remove it.")
        Traceback (most recent call last):
        edgecnn.errors.DataError: 'cats.txt' is a text file, not a picture.
    """

    exit_code = 1

    def __init__(self, message: str, *, fix: str) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __reduce__(self) -> tuple[object, ...]:
        """Cross a process border whole: pickle forgets keyword-only arguments."""
        return _rebuild, (type(self), self.message, self.fix)


def _rebuild(kind: type[EdgecnnError], message: str, fix: str) -> EdgecnnError:
    return kind(message, fix=fix)


class DataError(EdgecnnError):
    """A picture, a folder, an archive or a data set is not what it should be."""


class RecipeError(EdgecnnError):
    """A recipe or another file of settings is wrong."""


class ModelError(EdgecnnError):
    """A network cannot be built, read, trained or converted as asked."""


class BundleError(EdgecnnError):
    """A ``.tflite`` file is damaged, incomplete, or another one than was promised."""


class SignatureError(BundleError):
    """A model file is not signed by a trusted key, was changed since, or is older than it may be."""


class RuntimeFault(EdgecnnError):
    """The interpreter, a delegate or a picture source is missing or failed."""


class MissingPackageError(EdgecnnError):
    """A package that this command needs is not installed."""


class DeployError(EdgecnnError):
    """A device, or what is prepared for one, is not as it must be; what ran there goes on running."""


class CheckFailed(EdgecnnError):
    """A check that was asked for found what it looks for; exit code 3."""

    exit_code = 3
