"""``search``, ``board``: one search in this process, and its board."""

from __future__ import annotations

import argparse
from typing import Any

from nni_cream.cli.common import (
    add_command,
    add_run_options,
    be_quiet,
    check_run_options,
    print_estimate,
    print_json,
    print_result,
)

__all__ = ["add_commands"]


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands to the command line; ``shared`` holds the options that all have."""
    _add_search(commands, shared)
    _add_board(commands, shared)


def _add_search(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = add_command(
        commands,
        "search",
        shared,
        "search for an architecture, in this process",
        "nni-cream search experiments/search_digits.yml --out out/digits",
        "nni-cream search experiments/search_digits.yml --out out/digits --resume",
        "nni-cream search experiments/search_digits.yml --dry-run",
    )
    command.add_argument(
        "config", metavar="CONFIG.yml", help="space, data and search settings; docs/configuration.md lists the keys"
    )
    add_run_options(command)
    command.set_defaults(command=_search, parser=command)


def _add_board(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = add_command(
        commands, "board", shared, "show the board of a search, also while it runs", "nni-cream board out/digits"
    )
    command.add_argument("folder", metavar="DIR", help="output folder of a search or experiment")
    command.add_argument("--choices", action="store_true", help="show instead which operation helps where")
    command.add_argument("--json", action="store_true", help="print it as JSON")
    command.set_defaults(command=_board)


def _search(options: argparse.Namespace) -> None:
    if options.dry_run:
        _rehearse(options)
    else:
        _run_search(options)


def _rehearse(options: argparse.Namespace) -> None:
    from nni_cream.config import load

    config = load(options.config)
    be_quiet(options, training=True)
    from nni_cream.runs.rehearsals.search_rehearsal import rehearse_search

    rehearsal = rehearse_search(config, options.images)
    print_estimate(rehearsal.training, options, rehearsal.to_json(), rehearsal.parts)


def _run_search(options: argparse.Namespace) -> None:
    from nni_cream.config import load
    from nni_cream.results.board_file import load_board
    from nni_cream.results.console_tables import board_table, make_console, show_best

    check_run_options(options)
    config = load(options.config)
    be_quiet(options, training=True)
    from nni_cream.runs.search_run import run_search

    messages = make_console(stderr=True)
    result = run_search(config, options.out, resume=options.resume, force=options.force, console=messages)
    console = messages if options.json else make_console()
    console.print(board_table(load_board(result.out)))
    show_best(result.best, console)
    console.print(f"all files are in {result.out}", soft_wrap=True)
    print_result(result.best, result, options)


def _board(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from nni_cream.results.board_file import known_choices, load_board
    from nni_cream.results.console_tables import board_table, choices_table, make_console

    board = load_board(options.folder)
    if options.choices:
        choices = known_choices(board, options.folder)
        if options.json:
            print_json(choices)
        else:
            make_console().print(choices_table(choices))
    elif options.json:
        print_json(asdict(board))
    else:
        make_console().print(board_table(board))
