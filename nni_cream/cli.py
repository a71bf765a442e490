"""The command line: parse, check, call one function, show the result. Heavy imports wait until a command needs them."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nni_cream import __version__
from nni_cream.errors import CreamError, FileError

if TYPE_CHECKING:
    from nni_cream.experiment.best import Best
    from nni_cream.experiment.manager import ExperimentResult

__all__ = ["main"]

_EXAMPLES = """\
examples:
  nni-cream search experiments/search_digits.yml --out out/digits
        search in this process; with --resume go on where it was interrupted
  nni-cream board out/digits
        the board as a table, also while the search is running
  nni-cream export out/digits --weights --out digits.json
        the chosen architecture as a file, its one-shot weights beside it
  nni-cream run experiments/cream_experiment.yml --out out/experiment
        search, then retrain the best, as trials of an NNI experiment with a web UI
  nni-cream resume out/experiment
        go on with an experiment that was stopped, or whose machine went down
  nni-cream status out/experiment
        how an experiment stands, from another terminal
  nni-cream stop out/experiment
        stop it, with all that it started
"""


_EXPERIMENT = "output folder of `run`, or NNI's id of the experiment"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments
        Words of the command line, without the program's name; ``sys.argv`` by default.

    Returns
    -------
    int
        Exit code: 0 well, 1 failed, 2 used wrongly, 130 interrupted.
    """
    options = _parser().parse_args(arguments)
    options.debug = "debug" in options
    # As `python -m` does: a user's own space is looked for in the current folder, too.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        options.command(options)
    except CreamError as error:
        _explain(error, options.debug)
        return error.exit_code
    except KeyboardInterrupt:
        print("nni-cream: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - a user gets one line, and all of it with --debug
        _explain(error, options.debug, f"unexpected {type(error).__name__}: {error} (--debug shows where)")
        return 1
    return 0


def _explain(error: Exception, debug: bool, message: str | None = None) -> None:
    if debug:
        traceback.print_exception(error)
    print(f"nni-cream: error: {message or error}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks and all logs")
    parser = argparse.ArgumentParser(
        prog="nni-cream",
        description="Neural architecture search with prioritized path distillation (Cream of the Crop), for NNI.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[shared],
    )
    parser.add_argument("--version", action="version", version=f"nni-cream {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_search(commands, shared)
    _add_board(commands, shared)
    _add_export(commands, shared)
    _add_run(commands, shared)
    _add_resume(commands, shared)
    _add_status(commands, shared)
    _add_stop(commands, shared)
    return parser


def _add_search(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = commands.add_parser("search", parents=[shared], help="search for an architecture, in this process")
    command.add_argument("config", metavar="CONFIG.yml", help="what to search; the keys are in the documentation")
    command.add_argument("--out", metavar="DIR", required=True, help="folder for all that the search writes")
    command.add_argument("--resume", action="store_true", help="go on with a half-finished search in DIR")
    command.add_argument("--force", action="store_true", help="start again, and replace what DIR holds when done")
    command.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    command.set_defaults(command=_search)


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


def _add_run(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = commands.add_parser("run", parents=[shared], help="run an NNI experiment: search, then retrain the best")
    command.add_argument("experiment", metavar="EXPERIMENT.yml", help="in NNI's format, with CreamTuner as its tuner")
    command.add_argument("--out", metavar="DIR", help="folder for all files; default: out/<experiment>-<time>")
    command.add_argument("--force", action="store_true", help="start again, and replace what DIR holds when done")
    _add_watching(command)
    command.set_defaults(command=_run)


def _add_watching(command: argparse.ArgumentParser) -> None:
    command.add_argument("--port", type=_port, metavar="N", help="port of the web UI; default: a free one")
    command.add_argument("--keep", action="store_true", help="leave the web UI running at the end")
    command.add_argument("--json", action="store_true", help="print the result as one line of JSON")


def _add_resume(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = commands.add_parser("resume", parents=[shared], help="go on with an experiment that was interrupted")
    command.add_argument("experiment", metavar="EXPERIMENT", help=_EXPERIMENT)
    command.add_argument("--out", metavar="DIR", help="for one that nnictl started: folder for its results")
    _add_watching(command)
    command.set_defaults(command=_resume)


def _add_status(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = commands.add_parser("status", parents=[shared], help="show how experiments stand")
    command.add_argument("experiment", metavar="EXPERIMENT", nargs="?", help=f"{_EXPERIMENT}; all of NNI's without it")
    command.add_argument("--json", action="store_true", help="print it as JSON")
    command.set_defaults(command=_status)


def _add_stop(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = commands.add_parser("stop", parents=[shared], help="stop an experiment; it can be resumed")
    command.add_argument("experiment", metavar="EXPERIMENT", help=_EXPERIMENT)
    command.add_argument("--json", action="store_true", help="print its id as one line of JSON")
    command.set_defaults(command=_stop)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1024 <= int(text) <= 65534:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a port from 1024 to 65534")
    return int(text)


def _search(options: argparse.Namespace) -> None:
    from nni_cream.config import load
    from nni_cream.experiment.best import load_board
    from nni_cream.experiment.files import OutputFolder, is_leader
    from nni_cream.experiment.tables import board_table, make_console, show_best

    config = load(options.config)
    if is_leader():  # what is wrong with the folder is said at once, before torch is imported
        OutputFolder(options.out).check(resume=options.resume, force=options.force)
    _be_quiet(options, training=True)
    from nni_cream.experiment.searching import run_search

    messages = make_console(stderr=True)
    result = run_search(config, options.out, resume=options.resume, force=options.force, console=messages)
    console = messages if options.json else make_console()
    console.print(board_table(load_board(result.out)))
    show_best(result.best, console)
    console.print(f"all files are in {result.out}", soft_wrap=True)
    if options.json:
        _print_json({**_summary(result.best), "seconds": round(result.seconds, 3), "out": str(result.out)})


def _board(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from nni_cream.experiment.best import load_board
    from nni_cream.experiment.tables import board_table, make_console

    board = load_board(options.folder)
    if options.json:
        _print_json(asdict(board))
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
        _be_quiet(options)
        from nni_cream.experiment.best import export_weights

        export_weights(best, Path(options.folder), weights)
        print(f"weights: {weights}", file=sys.stderr)
    best.save(out)
    print(f"architecture: {out}", file=sys.stderr)


def _run(options: argparse.Namespace) -> None:
    from nni_cream.config import read_yaml
    from nni_cream.experiment.files import OutputFolder
    from nni_cream.experiment.tables import make_console

    read_yaml(options.experiment)
    out = options.out or f"out/{Path(options.experiment).stem}-{time.strftime('%Y%m%d-%H%M%S')}"
    OutputFolder(out).check(resume=None, force=options.force)
    _be_quiet(options)
    from nni_cream.experiment.manager import run_experiment

    messages = make_console(stderr=True)
    result = run_experiment(
        options.experiment, out, messages, port=options.port, keep=options.keep, force=options.force
    )
    _show_result(result, options)


def _resume(options: argparse.Namespace) -> None:
    from nni_cream.experiment.tables import make_console

    _be_quiet(options)
    from nni_cream.experiment.manager import resume_experiment

    messages = make_console(stderr=True)
    result = resume_experiment(options.experiment, messages, out=options.out, port=options.port, keep=options.keep)
    _show_result(result, options)


def _show_result(result: ExperimentResult, options: argparse.Namespace) -> None:
    from nni_cream.experiment.best import load_board
    from nni_cream.experiment.tables import board_table, make_console, retrained_table, show_best

    console = make_console(stderr=options.json)
    console.print(board_table(load_board(result.out)))
    console.print(retrained_table(result.retrained, result.best.cost_name, result.best.choices))
    show_best(result.best, console)
    console.print(f"the chosen architecture is in {result.out / 'best.json'}", soft_wrap=True)
    if options.json:
        _print_json({**_summary(result.best), "seconds": round(result.seconds, 3), "out": str(result.out)})


def _status(options: argparse.Namespace) -> None:
    from nni_cream.experiment.tables import make_console, status_table, trials_table

    _be_quiet(options)
    from nni_cream.experiment.known import all_experiments, find_experiment
    from nni_cream.experiment.manager import describe_experiment

    if options.experiment is None:
        found = [describe_experiment(known) for known in all_experiments()]
        if options.json:
            _print_json({"experiments": found})
        else:
            make_console().print(status_table(found))
        return
    state = describe_experiment(find_experiment(options.experiment))
    if options.json:
        _print_json(state)
    else:
        make_console().print(status_table([state]))
        make_console().print(trials_table(state["trials"]))


def _stop(options: argparse.Namespace) -> None:
    _be_quiet(options)
    from nni_cream.experiment.known import find_experiment
    from nni_cream.experiment.manager import stop_experiment

    known = find_experiment(options.experiment)
    stop_experiment(known)
    if options.json:
        _print_json({"id": known.id, "status": "STOPPED"})
    else:
        print(f"experiment {known.id} is stopped; go on with it: nni-cream resume {options.experiment}")


def _be_quiet(options: argparse.Namespace, *, training: bool = False) -> None:
    from nni_cream.experiment.quiet import quiet_libraries

    if not options.debug:
        quiet_libraries(training=training)


def _summary(best: Best) -> dict[str, Any]:
    summary = {
        "best": best.choices,
        "cost": best.cost,
        "cost_name": best.cost_name,
        "one_shot_accuracy": best.accuracy,
    }
    for key in ("validation_accuracy", "test_accuracy"):
        if best.retrained is not None:
            summary[key] = best.retrained[key]
    return summary


def _print_json(content: dict[str, Any]) -> None:
    print(json.dumps(content), flush=True)


if __name__ == "__main__":
    sys.exit(main())
