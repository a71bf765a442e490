"""``go``: search, retraining, evaluation and export in one process and one folder."""

from __future__ import annotations

import argparse
import shlex
from typing import TYPE_CHECKING, Any

from nni_cream.cli.common import add_command, add_run_options, be_quiet, check_run_options, print_estimate, print_result
from nni_cream.cli.export_command import export_formats

if TYPE_CHECKING:
    from nni_cream.runs.go_run import GoResult

__all__ = ["add_commands"]


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the command to the command line; ``shared`` holds the options that all have."""
    command = add_command(
        commands,
        "go",
        shared,
        "search, retrain, evaluate and export, in this process",
        "nni-cream go search.yml --out out/mine",
        description="Search an architecture, train the board's best entries from new weights, measure the best of them "
        "on the test images and export it. Each stage can be resumed. The file is that of `nni-cream search`; its "
        "section `retrain` says how the entries are trained.",
    )
    command.add_argument(
        "config", metavar="CONFIG.yml", help="space, data, search and retrain settings, as `nni-cream init` writes them"
    )
    command.add_argument(
        "--format",
        metavar="LIST",
        type=export_formats,
        default=["code", "onnx"],
        help="what is exported, one or more of code,onnx,torch; default: code,onnx",
    )
    add_run_options(command)
    command.set_defaults(command=_go, parser=command)


def _go(options: argparse.Namespace) -> None:
    if options.dry_run:
        _rehearse(options)
    else:
        _run(options)


def _rehearse(options: argparse.Namespace) -> None:
    from nni_cream.config import load

    config = load(options.config)
    be_quiet(options, training=True)
    from nni_cream.runs.go_run import check_go
    from nni_cream.runs.rehearsals.search_rehearsal import OVERHEAD_SECONDS, rehearse_search, retraining_seconds

    check_go(config, options.format)
    rehearsal = rehearse_search(config, options.images)
    parts = {**rehearsal.parts, "retraining": retraining_seconds(rehearsal, config)}
    parts["start, test and export"] = OVERHEAD_SECONDS
    content = {**rehearsal.to_json(), "parts": parts, "seconds": sum(parts.values())}
    print_estimate(rehearsal.training, options, content, parts)


def _run(options: argparse.Namespace) -> None:
    from nni_cream.config import load
    from nni_cream.results.console_tables import make_console
    from nni_cream.results.output_folder import WholeFolder

    check_run_options(options, WholeFolder)
    config = load(options.config)
    be_quiet(options, training=True)
    from nni_cream.runs.go_run import run_go

    messages = make_console(stderr=True)
    result = run_go(
        config,
        options.out,
        formats=options.format,
        resume=options.resume,
        force=options.force,
        console=messages,
        command=shlex.join(["nni-cream", *options.words]),
    )
    _show(result, options, config["search"]["score"] == "balanced_accuracy")


def _show(result: GoResult, options: argparse.Namespace, by_balanced: bool) -> None:
    from nni_cream.results.console_tables import make_console, retrained_table
    from nni_cream.runs.evaluation import confusion_table, evaluation_table

    console = make_console(stderr=options.json)
    console.print(retrained_table(result.retrained, result.best.cost_name, result.best.choices, by_balanced))
    console.print(evaluation_table(result.evaluation))
    if len(result.evaluation.get("confusion", ())) in range(2, 11):
        console.print(confusion_table(result.evaluation))
    console.print(f"the network is in {result.out / 'export'}; its card is README.md there", soft_wrap=True)
    console.print(f"the report is {result.out / 'report.html'}", soft_wrap=True)
    balanced = result.evaluation["balanced_accuracy"]
    more = {"balanced_accuracy": balanced, "export": str(result.out / "export")}
    print_result(result.best, result, options, **more, report=str(result.out / "report.html"))
