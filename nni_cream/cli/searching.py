"""``search``, ``board``, ``export``: one search in this process, and its result."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nni_cream.cli.common import be_quiet, print_json, summary
from nni_cream.errors import FileError

if TYPE_CHECKING:
    pass

__all__ = ["add_commands"]


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands to the command line; ``shared`` holds the options that all have."""
    _add_search(commands, shared)
    _add_board(commands, shared)
    _add_export(commands, shared)


def _add_search(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = commands.add_parser("search", parents=[shared], help="search for an architecture, in this process")
    command.add_argument("config", metavar="CONFIG.yml", help="what to search; the keys are in the documentation")
    command.add_argument("--out", metavar="DIR", help="folder for all that the search writes")
    command.add_argument("--resume", action="store_true", help="go on with a half-finished search in DIR")
    command.add_argument("--force", action="store_true", help="start again, and replace what DIR holds when done")
    command.add_argument(
        "--dry-run", action="store_true", help="write nothing: a few steps on made-up images, and what all would cost"
    )
    command.add_argument(
        "--images", type=int, metavar="N", help="images at once in a dry run; default: batch_size, fewer on a CPU"
    )
    command.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    command.set_defaults(command=_search, parser=command)


def _add_board(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = commands.add_parser("board", parents=[shared], help="show the board of a search")
    command.add_argument("folder", metavar="DIR", help="output folder of a search or experiment")
    command.add_argument("--json", action="store_true", help="print it as JSON")
    command.set_defaults(command=_board)


def _add_export(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = commands.add_parser("export", parents=[shared], help="write the chosen architecture to a file")
    command.add_argument("folder", metavar="DIR", help="output folder of a search or experiment")
    command.add_argument("--out", metavar="FILE", help="JSON file to write; printed without it")
    command.add_argument("--weights", action="store_true", help="also write its one-shot weights beside FILE, as .pt")
    command.add_argument("--force", action="store_true", help="replace files that are there")
    command.set_defaults(command=_export, parser=command)


def _search(options: argparse.Namespace) -> None:
    if options.dry_run:
        _rehearse(options)
    elif options.out is None:
        options.parser.error("the following arguments are required: --out")
    elif options.images is not None:
        options.parser.error("--images is for --dry-run; a search takes search.batch_size from its configuration")
    else:
        _run_search(options)


def _rehearse(options: argparse.Namespace) -> None:
    from nni_cream.config import load
    from nni_cream.experiment.tables import make_console

    config = load(options.config)
    be_quiet(options, training=True)
    from nni_cream.experiment.dry_run import rehearse_search
    from nni_cream.experiment.rehearsal import show_rehearsal

    rehearsal = rehearse_search(config, options.images)
    if options.json:
        print_json(rehearsal.to_json())
    else:
        show_rehearsal(rehearsal.training, make_console(), rehearsal.parts)


def _run_search(options: argparse.Namespace) -> None:
    from nni_cream.config import load
    from nni_cream.experiment.best import load_board
    from nni_cream.experiment.files import OutputFolder, is_leader
    from nni_cream.experiment.tables import board_table, make_console, show_best

    config = load(options.config)
    if is_leader():  # what is wrong with the folder is said at once, before torch is imported
        OutputFolder(options.out).check(resume=options.resume, force=options.force)
    be_quiet(options, training=True)
    from nni_cream.experiment.searching import run_search

    messages = make_console(stderr=True)
    result = run_search(config, options.out, resume=options.resume, force=options.force, console=messages)
    console = messages if options.json else make_console()
    console.print(board_table(load_board(result.out)))
    show_best(result.best, console)
    console.print(f"all files are in {result.out}", soft_wrap=True)
    if options.json:
        print_json({**summary(result.best), "seconds": round(result.seconds, 3), "out": str(result.out)})


def _board(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from nni_cream.experiment.best import load_board
    from nni_cream.experiment.tables import board_table, make_console

    board = load_board(options.folder)
    if options.json:
        print_json(asdict(board))
    else:
        make_console().print(board_table(board))


def _export(options: argparse.Namespace) -> None:
    from nni_cream.experiment.best import load_best

    if options.weights and options.out is None:
        options.parser.error("--weights needs --out FILE, to put them beside it")
    best = load_best(options.folder)
    if options.out is None:
        print(json.dumps(best.to_json(), indent=2))
        return
    out = Path(options.out)
    weights = out.with_suffix(".pt")
    if options.weights and weights == out:
        options.parser.error(f"--out {out}: the weights would have the same name; expected a name such as chosen.json")
    for path in (out, weights) if options.weights else (out,):
        if os.path.lexists(path) and not options.force:
            raise FileError(f"{path}: is there already; name another file with --out, or use --force to replace it")
    if options.weights:
        be_quiet(options)
        from nni_cream.experiment.best import export_weights

        export_weights(best, Path(options.folder), weights)
        print(f"weights: {weights}", file=sys.stderr)
    best.save(out)
    print(f"architecture: {out}", file=sys.stderr)
