"""``doctor``, ``examples``, ``completion``: help before the first search."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from nni_cream.cli.common import add_command, print_json
from nni_cream.errors import CreamError
from nni_cream.terminal_text import visible

if TYPE_CHECKING:
    from nni_cream.starter.checks.findings import Finding

__all__ = ["add_commands"]

_SHELLS = ("bash", "zsh", "fish")


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands to the command line; ``shared`` holds the options that all have."""
    _add_doctor(commands, shared)
    _add_examples(commands, shared)
    _add_completion(commands, shared)


def _add_doctor(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = add_command(
        commands,
        "doctor",
        shared,
        "check this machine: packages, programs, memory, GPU, ports, data; exit code 1 after an error",
        "nni-cream doctor",
        description="Check everything that a search or an experiment needs on this machine, and say what to do about "
        "the rest. The command changes nothing. An error makes a command of nni_cream fail, a warning may.",
    )
    command.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    command.set_defaults(command=_doctor)


def _add_examples(commands: Any, shared: argparse.ArgumentParser) -> None:
    group = add_command(
        commands, "examples", shared, "list or copy the experiment files of the package", "nni-cream examples list"
    )
    example_commands = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    command = add_command(
        example_commands, "list", shared, "show the name and the subject of each example", "nni-cream examples list"
    )
    command.add_argument("--json", action="store_true", help="print them as one line of JSON")
    command.set_defaults(command=_list)
    command = add_command(
        example_commands,
        "copy",
        shared,
        "copy an example, and the files that it names, to edit and run it",
        "nni-cream examples copy search_digits --out my_search.yml",
    )
    command.add_argument("name", metavar="EXAMPLE", help="name of an example, with or without .yml")
    command.add_argument("--out", metavar="FILE", help="file to write, or a folder; default: the current folder")
    command.add_argument("--force", action="store_true", help="replace existing files")
    command.add_argument("--json", action="store_true", help="print the files as one line of JSON")
    command.set_defaults(command=_copy)


def _add_completion(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = add_command(
        commands,
        "completion",
        shared,
        "print a script that completes commands, options and files in a shell",
        'eval "$(nni-cream completion bash)"',
        description="Print a script for the shell. Save it where the shell looks for completions, or evaluate it in "
        "the shell's startup file. Print it again after an update of nni_cream.",
    )
    command.add_argument("shell", metavar="SHELL", choices=_SHELLS, help=", ".join(_SHELLS))
    command.set_defaults(command=_completion)


def _doctor(options: argparse.Namespace) -> None:
    from nni_cream.starter.doctor import diagnose

    findings: list[Finding] = []
    for finding in diagnose(debug=options.debug):
        findings.append(finding)
        if not options.json:
            _show(finding)
    errors, warnings = (sum(finding.state == state for finding in findings) for state in ("error", "warning"))
    if options.json:
        print_json({"checks": [finding.to_json() for finding in findings], "errors": errors, "warnings": warnings})
    else:
        print(f"errors: {errors}, warnings: {warnings}")
    if errors:
        raise CreamError(f"the number of errors is {errors}; expected none. Do as their lines say, then check again.")


def _show(finding: Finding) -> None:
    """Print a finding at once, since the next one may take seconds."""
    print(visible(f"{finding.state:<8} {finding.name}: {finding.found}"), flush=True)
    if finding.advice:
        print(visible(f"{'':<8} -> {finding.advice}"), flush=True)


def _list(options: argparse.Namespace) -> None:
    from nni_cream.starter.examples import list_examples

    examples = list_examples()
    if options.json:
        print_json({"examples": [{"name": example.name, "summary": example.summary} for example in examples]})
        return
    width = max(len(example.name) for example in examples)
    for example in examples:
        print(f"{example.name:<{width}}  {example.summary}")


def _copy(options: argparse.Namespace) -> None:
    from nni_cream.starter.examples import copy_example, find_example

    example = find_example(options.name)
    written = copy_example(example, options.out, force=options.force)
    if options.json:
        print_json({"files": [str(path) for path in written]})
        return
    for path in written:
        print(f"copied: {path}")
    for file in example.only_in_clone:
        print(f"not copied: {file}, which is in the repository of nni_cream. `nni-cream study truth` makes your own.")


def _completion(options: argparse.Namespace) -> None:
    from nni_cream.starter.completion import completion_script

    print(completion_script(options.whole_parser, options.shell))
