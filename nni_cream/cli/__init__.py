"""Command line: parse, check, call one function, show the result. Heavy imports wait until a command needs them."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence

from nni_cream import __version__
from nni_cream.cli import (
    data_commands,
    detect_commands,
    experiment_commands,
    export_command,
    go_command,
    help_commands,
    init_command,
    latency_command,
    report_commands,
    search_commands,
    study_commands,
    training_commands,
)
from nni_cream.errors import CreamError
from nni_cream.processes.signals import Terminated
from nni_cream.terminal_text import visible

__all__ = ["main"]

_EXAMPLES = """\
examples:
  nni-cream doctor
        what this machine has and lacks for a search, and what to do about it
  nni-cream examples copy search_digits
        a configuration to edit; `nni-cream examples list` names all
  nni-cream init pictures
        look at a folder of images and write search.yml, fitted to them and to this machine
  nni-cream go search.yml --out out/first
        the whole way: search, retrain the best, measure and export the network; --resume continues
  nni-cream search experiments/search_digits.yml --out out/digits
        search in this process; --resume continues an interrupted search
  nni-cream board out/digits
        the board as a table, also while the search is running
  nni-cream export out/digits --weights --out digits.json
        the chosen architecture and its one-shot weights as files
  nni-cream retrain out/digits experiments/retrain_digits.yml --out out/digits-retrained
        train the chosen architecture by the full recipe; --dry-run estimates what that costs
  nni-cream evaluate out/digits-retrained experiments/retrain_digits.yml
        its top-1 and top-5 on the test images
  nni-cream export out/digits --format code,onnx,torch --out out/phone
        the network for other programs: Python code without NNI, ONNX, torch.export; with a model card
  nni-cream report out/digits
        charts, figures and the architecture as one page, out/digits/report.html; `plot` draws them as pictures
  nni-cream latency experiments/search_digits.yml --out latencies.json
        latency of each choice on this machine, for `cost: latency`
  nni-cream run experiments/cream_experiment.yml --out out/experiment
        search, then retrain the best, as trials of an NNI experiment with a web UI
  nni-cream resume out/experiment
        continue an experiment after a stop or a crash of the machine
  nni-cream status out/experiment
        the state of an experiment, from another terminal
  nni-cream stop out/experiment
        stop it and all its processes
  nni-cream study truth experiments/truth_fashion.yml --out out/truth
        architectures of a space, each trained alone with several seeds
  nni-cream rank experiments/rank_fashion.yml --truth out/truth/truth_fashion.json --out out/rank
        how well searches with and without distillation rank them
  nni-cream study final experiments/final_fashion.yml --out out/final
        the board's best against evolution and random search at the same cost, trained alone
  nni-cream detect train experiments/detect_digits.yml --out out/detector
        a detector with a searched or published backbone, on images with boxes
  nni-cream detect evaluate out/detector/config.yml
        its average precisions on the test images
  nni-cream data check experiments/search_digits.yml
        content of a data set, and its unreadable files
  nni-cream data subimagenet --imagenet /data/imagenet --out /data/subimagenet
        100 classes of ImageNet with 250 + 50 images each, as links

exit codes:
  0 done   1 failed   2 used wrongly   130 interrupted   143 terminated

`nni-cream COMMAND --help` explains a command. `nni-cream completion bash` completes them in the shell.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments
        Words of the command line, without the program's name; ``sys.argv`` by default.

    Returns
    -------
    int
        Exit code: 0 well, 1 failed, 2 used wrongly, 130 interrupted, 143 terminated (SIGTERM).
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    options.whole_parser = parser
    options.words = sys.argv[1:] if arguments is None else list(arguments)
    options.debug = "debug" in options
    # As `python -m` does: a user's own space is looked for in the current folder, too.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        options.command(options)
    except CreamError as error:
        _explain(error, options.debug)
        return error.exit_code
    except Terminated as end:
        print(f"nni-cream: {end}", file=sys.stderr)
        return end.exit_code
    except KeyboardInterrupt:
        print("nni-cream: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone; Python would complain again while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 - a user gets one line, and all of it with --debug
        _explain(error, options.debug, f"unexpected {type(error).__name__}: {error} (--debug shows where)")
        return 1
    return 0


def _explain(error: Exception, debug: bool, message: str | None = None) -> None:
    if debug:
        traceback.print_exception(error)
    print(f"nni-cream: error: {visible(str(message or error))}", file=sys.stderr)


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
    for group in (
        help_commands,
        init_command,
        go_command,
        search_commands,
        latency_command,
        training_commands,
        export_command,
        experiment_commands,
        report_commands,
        study_commands,
        detect_commands,
        data_commands,
    ):
        group.add_commands(commands, shared)
    return parser
