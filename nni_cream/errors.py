"""The errors that nni_cream raises on purpose: one base class, one child for each place where things enter."""

from __future__ import annotations

__all__ = [
    "ConfigError",
    "CreamError",
    "DataError",
    "ExportError",
    "FileError",
    "ManagerError",
    "SearchError",
    "SpaceError",
    "StudyError",
]


class CreamError(Exception):
    """Base of every error that nni_cream raises on purpose.

    The message names the key, path or value, says what was expected and what to do. The command line prints it
    without a traceback and exits with ``exit_code``.
    """

    exit_code = 1


class ConfigError(CreamError, ValueError):
    """Something that the user wrote (a file, an argument) is not what was expected."""

    exit_code = 2


class SpaceError(CreamError, ValueError, TypeError):
    """A search space is unknown, cannot be built, cannot be searched, or does not hold the path it was given.

    A ``TypeError`` too, which NNI's own strategies raise for a space that they do not support.
    """

    exit_code = 2


class DataError(CreamError):
    """Images are missing, unreadable or not what the loader expected."""


class SearchError(CreamError, RuntimeError):
    """A search cannot start or continue (wrong kind of evaluator, a loss that is not finite, ...)."""


class FileError(CreamError):
    """A file that nni_cream reads or writes is missing, broken, foreign or in the way."""


class ExportError(CreamError):
    """A network cannot be written in the form that was asked for, or what was written computes something else."""


class ManagerError(CreamError):
    """The NNI manager could not be started, reached or stopped."""


class StudyError(CreamError):
    """A study cannot continue, or its results do not fit what they are compared with."""
