"""Scripts that complete commands, options and file names in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from nni_cream.errors import ConfigError
from nni_cream.starter.examples import list_examples

__all__ = ["completion_script"]

_FOLDERS = ("DIR", "FOLDER")
_EXAMPLE = "EXAMPLE"
_NO_FILE = ("C,H,W", "COLUMN", "LIST", "N", "NAME", "SPACE")
"""How the help names values that are no files."""


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Write the script for a shell.

    Parameters
    ----------
    parser
        Of the whole command line. Its arguments are marked with the kind of their values, by their metavar.
    shell
        ``bash``, ``zsh`` or ``fish``.

    Returns
    -------
    str
        The script.

    Raises
    ------
    ConfigError
        If shtab is not installed.
    """
    try:
        import shtab
    except ModuleNotFoundError as error:  # an installation from before nni_cream required it
        raise ConfigError("shtab is missing; expected it for completion. Run `pip install shtab`.") from error

    for action in _values(parser):
        if action.metavar == _EXAMPLE:
            action.choices = [example.name for example in list_examples()]
        elif action.metavar not in _NO_FILE and not action.choices:
            kind = shtab.DIRECTORY if action.metavar in _FOLDERS else shtab.FILE
            action.complete = kind  # type: ignore[attr-defined] # where shtab looks for it
    script: str = shtab.complete(parser, shell=shell)
    return script


def _values(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield all arguments of all commands that take a value; flags take none."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _values(command)
        elif action.nargs != 0:
            yield action
