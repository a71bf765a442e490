"""``run``, ``resume``, ``status``, ``stop``: experiments of NNI's manager."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nni_cream.cli.common import add_command, be_quiet, print_json, print_result

if TYPE_CHECKING:
    from nni_cream.manager.foreground import ExperimentResult

__all__ = ["add_commands"]

_EXPERIMENT = "output folder of `run`, or NNI's id of the experiment"


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands to the command line; ``shared`` holds the options that all have."""
    _add_run(commands, shared)
    _add_resume(commands, shared)
    _add_status(commands, shared)
    _add_stop(commands, shared)


def _add_run(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = add_command(
        commands,
        "run",
        shared,
        "run an NNI experiment: search, then retrain the best",
        "nni-cream run experiments/cream_experiment.yml --out out/experiment",
    )
    command.add_argument("experiment", metavar="EXPERIMENT.yml", help="in NNI's format, with CreamTuner as its tuner")
    command.add_argument("--out", metavar="DIR", help="folder for all files; default: out/<experiment>-<time>")
    command.add_argument("--force", action="store_true", help="start over, and replace the content of DIR when done")
    _add_watching(command)
    command.set_defaults(command=_run)


def _add_watching(command: argparse.ArgumentParser) -> None:
    command.add_argument("--port", type=_port, metavar="N", help="port of the web UI; default: a free one")
    command.add_argument("--keep", action="store_true", help="leave the web UI running at the end")
    command.add_argument("--json", action="store_true", help="print the result as one line of JSON")


def _add_resume(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = add_command(
        commands, "resume", shared, "continue an interrupted experiment", "nni-cream resume out/experiment"
    )
    command.add_argument("experiment", metavar="EXPERIMENT", help=_EXPERIMENT)
    command.add_argument("--out", metavar="DIR", help="folder for the results of an experiment that nnictl started")
    _add_watching(command)
    command.set_defaults(command=_resume)


def _add_status(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = add_command(
        commands,
        "status",
        shared,
        "show the state of experiments",
        "nni-cream status",
        "nni-cream status out/experiment",
    )
    command.add_argument("experiment", metavar="EXPERIMENT", nargs="?", help=f"{_EXPERIMENT}; default: all of NNI's")
    command.add_argument("--json", action="store_true", help="print it as JSON")
    command.set_defaults(command=_status)


def _add_stop(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = add_command(
        commands, "stop", shared, "stop an experiment; it can be resumed", "nni-cream stop out/experiment"
    )
    command.add_argument("experiment", metavar="EXPERIMENT", help=_EXPERIMENT)
    command.add_argument("--json", action="store_true", help="print its id as one line of JSON")
    command.set_defaults(command=_stop)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1024 <= int(text) <= 65534:
        raise argparse.ArgumentTypeError(f"the value is {text!r}; expected a port from 1024 to 65534.")
    return int(text)


def _run(options: argparse.Namespace) -> None:
    from nni_cream.config import read_yaml
    from nni_cream.results.console_tables import make_console
    from nni_cream.results.output_folder import OutputFolder

    read_yaml(options.experiment)
    out = options.out or f"out/{Path(options.experiment).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    OutputFolder(out).check(resume=None, force=options.force)
    from nni_cream.manager.processes import TrialCheck

    with TrialCheck() as check:  # before NNI is imported here: both take seconds
        be_quiet(options)
        from nni_cream.manager.foreground import run_experiment

        messages = make_console(stderr=True)
        result = run_experiment(
            options.experiment, out, messages, check, port=options.port, keep=options.keep, force=options.force
        )
    _show_result(result, options)


def _resume(options: argparse.Namespace) -> None:
    from nni_cream.results.console_tables import make_console

    be_quiet(options)
    from nni_cream.manager.foreground import resume_experiment

    messages = make_console(stderr=True)
    result = resume_experiment(options.experiment, messages, out=options.out, port=options.port, keep=options.keep)
    _show_result(result, options)


def _show_result(result: ExperimentResult, options: argparse.Namespace) -> None:
    from nni_cream.results.board_file import load_board
    from nni_cream.results.console_tables import board_table, make_console, retrained_table, show_best

    console = make_console(stderr=options.json)
    console.print(board_table(load_board(result.out)))
    console.print(retrained_table(result.retrained, result.best.cost_name, result.best.choices))
    show_best(result.best, console)
    console.print(f"the chosen architecture is in {result.out / 'best.json'}", soft_wrap=True)
    print_result(result.best, result, options)


def _status(options: argparse.Namespace) -> None:
    from nni_cream.manager.status_tables import status_table, trials_table
    from nni_cream.results.console_tables import make_console

    be_quiet(options)
    from nni_cream.manager.foreground import describe_experiment
    from nni_cream.manager.known_experiments import all_experiments, find_experiment

    if options.experiment is None:
        found = [describe_experiment(known) for known in all_experiments()]
        if options.json:
            print_json({"experiments": found})
        else:
            make_console().print(status_table(found))
        return
    state = describe_experiment(find_experiment(options.experiment))
    if options.json:
        print_json(state)
    else:
        make_console().print(status_table([state]))
        make_console().print(trials_table(state["trials"]))


def _stop(options: argparse.Namespace) -> None:
    be_quiet(options)
    from nni_cream.manager.foreground import stop_experiment
    from nni_cream.manager.known_experiments import find_experiment

    known = find_experiment(options.experiment)
    stop_experiment(known)
    if options.json:
        print_json({"id": known.id, "status": "STOPPED"})
    else:
        print(f"experiment {known.id} is stopped. Continue it with: nni-cream resume {options.experiment}")
