"""Parts that several commands share."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nni_cream.results.architecture_file import Best
    from nni_cream.results.output_folder import OutputFolder
    from nni_cream.runs.rehearsals.rehearsal import Rehearsal

__all__ = [
    "add_command",
    "add_run_options",
    "add_trust_option",
    "be_quiet",
    "check_run_options",
    "print_estimate",
    "print_json",
    "print_result",
    "summary",
]


_HELP_WIDTH = 79


def add_command(
    commands: Any,
    name: str,
    shared: argparse.ArgumentParser,
    summary: str,
    *examples: str,
    description: str | None = None,
) -> argparse.ArgumentParser:
    """Add a command whose ``--help`` says what it does and shows it at work.

    Parameters
    ----------
    commands
        What ``add_subparsers`` returned.
    name
        Word that calls the command.
    shared
        Parser of the options that all commands have.
    summary
        Its line in the list of commands, without a full stop.
    *examples
        Command lines; each is valid as it stands.
    description
        The same in sentences. Default: the summary as one.

    Returns
    -------
    argparse.ArgumentParser
        Parser for the arguments.
    """
    text = description or f"{summary[0].upper()}{summary[1:]}."
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        parents=[shared],
        help=summary,
        description=textwrap.fill(text, _HELP_WIDTH),
        epilog="\n  ".join(["examples:" if len(examples) > 1 else "example:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return command


def be_quiet(options: argparse.Namespace, *, training: bool = False) -> None:
    """Silence the libraries below, unless the user wants to see all. Before a training, prepare this process for it."""
    from nni_cream.processes.kept_memory import keep_memory
    from nni_cream.runs.quiet_libraries import quiet_libraries

    if training:
        keep_memory()
    if not options.debug:
        quiet_libraries(training=training)


def add_run_options(command: argparse.ArgumentParser) -> None:
    """Add the options of a long run that can be resumed, replaced and estimated."""
    command.add_argument("--out", metavar="DIR", help="folder for all output")
    command.add_argument("--resume", action="store_true", help="continue an interrupted run in DIR")
    command.add_argument("--force", action="store_true", help="start over, and replace the content of DIR when done")
    command.add_argument(
        "--dry-run", action="store_true", help="write nothing; run a few steps on random images and estimate the cost"
    )
    command.add_argument(
        "--images", metavar="N", type=_at_least_two, help="images at once in a dry run; default: as configured"
    )
    command.add_argument("--json", action="store_true", help="print the result as one line of JSON")


def add_trust_option(command: argparse.ArgumentParser) -> None:
    """Add the option by which a user lets a result name code."""
    command.add_argument(
        "--trust-code",
        action="store_true",
        help="import the class or function that RESULT names as package.module:Name; it can do anything",
    )


def _at_least_two(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"the value is {text!r}; expected a whole number of at least 2.")
    return int(text)


def check_run_options(options: argparse.Namespace, kind: type[OutputFolder] | None = None) -> None:
    """Refuse wrong options and an occupied folder, of a kind of its own if need be, before torch is imported."""
    from nni_cream.processes.launch import started_processes
    from nni_cream.results.folder_lock import held
    from nni_cream.results.output_folder import OutputFolder

    if options.out is None:
        options.parser.error("--out is missing; expected --out DIR, or --dry-run.")
    if options.images is not None:
        options.parser.error(f"--images is {options.images}; expected none without --dry-run.")
    if started_processes() == 1:  # several meet first, and one of them looks
        folder = (kind or OutputFolder)(options.out)
        with held(folder):  # a folder in use is no unfinished run
            folder.check(resume=options.resume, force=options.force)


def print_result(best: Best, result: Any, options: argparse.Namespace, **more: Any) -> None:
    """Print what ``--json`` gives of a finished run, if it is wanted."""
    if options.json:
        print_json({**summary(best), **more, "seconds": round(result.seconds, 3), "out": str(result.out)})


def summary(best: Best) -> dict[str, Any]:
    """Return what ``--json`` prints of a chosen architecture."""
    content = {
        "best": best.choices,
        "cost": best.cost,
        "cost_name": best.cost_name,
        "one_shot_accuracy": best.accuracy,
    }
    if best.other_costs is not None:
        content["other_costs"] = best.other_costs
    for key in ("validation_accuracy", "test_accuracy"):
        if best.retrained is not None:
            content[key] = best.retrained[key]
    return content


def print_estimate(
    rehearsal: Rehearsal, options: argparse.Namespace, content: dict[str, Any], parts: Mapping[str, float] | None = None
) -> None:
    """Print the estimate of a dry run: ``content`` with ``--json``, else a table with the parts of the whole."""
    from nni_cream.results.console_tables import make_console
    from nni_cream.runs.rehearsals.rehearsal import show_rehearsal

    if options.json:
        print_json(content)
    else:
        show_rehearsal(rehearsal, make_console(), parts)


def print_json(content: dict[str, Any]) -> None:
    """Print one line of JSON, the last of a command's output."""
    print(json.dumps(content), flush=True)
