"""The errors of the workspace: one base, a builtin beside it, and the exit code that the command line gives.

Every message is one sentence that tells what failed, where, what was expected, what was found and what to do.
"""

from __future__ import annotations

from typing import ClassVar


class MPOError(Exception):
    """Base of every error that this workspace raises on purpose."""

    exit_code: ClassVar[int] = 1


class ShapeError(MPOError, ValueError):
    """A tensor, a factorisation or a layer has a shape that does not fit."""


class BondError(MPOError, ValueError):
    """A bond dimension is not a positive integer, or there are not n - 1 of them."""


class NonFiniteError(MPOError, ValueError):
    """A tensor holds NaN or infinity where numbers are needed."""


class ManifestError(MPOError, ValueError):
    """A saved folder does not hold what its manifest promises."""

    exit_code: ClassVar[int] = 3


class UsageError(MPOError, ValueError):
    """The command or the call was put wrongly: an unknown name, an option out of range."""

    exit_code: ClassVar[int] = 2


class InputFileError(MPOError, ValueError):
    """A file or folder of the user's cannot be read as what it should be."""

    exit_code: ClassVar[int] = 3


class MissingPartError(MPOError, ImportError):
    """An optional part is not installed; the message names the extra or the system package."""

    exit_code: ClassVar[int] = 4


class DivergedError(MPOError, ArithmeticError):
    """The training loss became NaN or infinite."""
