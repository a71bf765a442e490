"""``retrain``, ``evaluate``: one architecture trained by the full recipe, and measured."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nni_cream.cli.common import (
    add_command,
    add_run_options,
    add_trust_option,
    be_quiet,
    check_run_options,
    print_estimate,
    print_json,
    print_result,
)

__all__ = ["add_commands"]

_RESULT = "a best.json, the output folder of a search or retraining, or a published network such as cream-287"
_CONFIG = "data, recipe and hardware; the keys are in the documentation"


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands to the command line; ``shared`` holds the options that all have."""
    _add_retrain(commands, shared)
    _add_evaluate(commands, shared)


def _add_retrain(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = add_command(
        commands,
        "retrain",
        shared,
        "train an architecture by the full recipe",
        "nni-cream retrain out/digits experiments/retrain_digits.yml --out out/digits-retrained",
        "nni-cream retrain cream-287 experiments/retrain_cream_287.yml --dry-run",
    )
    command.add_argument("result", metavar="RESULT", help=_RESULT)
    command.add_argument("config", metavar="CONFIG.yml", help=_CONFIG)
    command.add_argument("--weights", metavar="FILE", help="initial weights, with recipe.start: supernet")
    add_run_options(command)
    add_trust_option(command)
    command.set_defaults(command=_retrain, parser=command)


def _add_evaluate(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = add_command(
        commands,
        "evaluate",
        shared,
        "measure top-1, top-5 and loss of an architecture",
        "nni-cream evaluate out/digits-retrained experiments/retrain_digits.yml",
    )
    command.add_argument("result", metavar="RESULT", help=_RESULT)
    command.add_argument("config", metavar="CONFIG.yml", help=_CONFIG)
    command.add_argument("--weights", metavar="FILE", help="its weights; default: those beside RESULT")
    command.add_argument("--part", choices=("test", "validation", "train"), default="test", help="default: test")
    command.add_argument("--confusion", action="store_true", help="print the confusion matrix, too (up to 100 classes)")
    command.add_argument("--json", action="store_true", help="print the figures as one line of JSON")
    add_trust_option(command)
    command.set_defaults(command=_evaluate)


def _retrain(options: argparse.Namespace) -> None:
    from nni_cream.config import RETRAIN

    config = RETRAIN.load(options.config)
    if options.dry_run:
        _rehearse(options, config)
        return
    check_run_options(options)
    be_quiet(options, training=True)
    from nni_cream.results.console_tables import make_console, retraining_table
    from nni_cream.runs.retrain_run import run_retraining

    messages = make_console(stderr=True)
    result = run_retraining(
        options.result,
        config,
        options.out,
        weights=options.weights,
        resume=options.resume,
        force=options.force,
        trust_code=options.trust_code,
        console=messages,
    )
    console = messages if options.json else make_console()
    console.print(retraining_table(result.best))
    console.print(f"all files are in {result.out}", soft_wrap=True)
    print_result(result.best, result, options, **(result.best.retrained or {}))


def _rehearse(options: argparse.Namespace, config: dict[str, Any]) -> None:
    be_quiet(options, training=True)
    from nni_cream.runs.rehearsals.retrain_rehearsal import rehearse_retraining

    rehearsal = rehearse_retraining(
        options.result,
        config,
        weights=options.weights,
        images_at_once=options.images,
        trust_code=options.trust_code,
    )
    print_estimate(rehearsal, options, rehearsal.to_json())


def _evaluate(options: argparse.Namespace) -> None:
    from nni_cream.config import RETRAIN

    config = RETRAIN.load(options.config)
    be_quiet(options, training=True)
    from nni_cream.results.console_tables import make_console
    from nni_cream.runs.evaluation import confusion_table, evaluate_result, evaluation_table

    weights = None if options.weights is None else Path(options.weights)
    figures = evaluate_result(options.result, config, weights=weights, part=options.part, trust_code=options.trust_code)
    if options.json:
        print_json(figures)
    else:
        console = make_console()
        console.print(evaluation_table(figures))
        if options.confusion and "confusion" in figures:
            console.print(confusion_table(figures))
        elif options.confusion:
            console.print("the confusion matrix is left out: it is given of up to 100 classes")
