"""``detect``: detectors with a searched backbone, trained and measured."""

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
)

__all__ = ["add_commands"]

_CONFIG = "backbone, data, detector, recipe and hardware; the keys are in the documentation"


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands to the command line; ``shared`` holds the options that all have."""
    group = add_command(
        commands,
        "detect",
        shared,
        "train or measure a detector with a searched backbone",
        "nni-cream detect train experiments/detect_digits.yml --out out/detector",
    )
    detect_commands = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    train = add_command(
        detect_commands,
        "train",
        shared,
        "train RetinaNet on images with boxes",
        "nni-cream detect train experiments/detect_digits.yml --out out/detector",
    )
    train.add_argument("config", metavar="CONFIG.yml", help=_CONFIG)
    add_run_options(train)
    add_trust_option(train)
    train.set_defaults(command=_train, parser=train)
    evaluate = add_command(
        detect_commands,
        "evaluate",
        shared,
        "measure COCO's average precisions",
        "nni-cream detect evaluate out/detector/config.yml",
    )
    _add_trained(evaluate)
    evaluate.add_argument("--part", choices=("test", "validation", "train"), default="test", help="default: test")
    evaluate.set_defaults(command=_evaluate)
    export = add_command(
        detect_commands,
        "export",
        shared,
        "write the detector as ONNX, checked on test images",
        "nni-cream detect export out/detector/config.yml --out detector.onnx",
    )
    _add_trained(export)
    export.add_argument("--out", metavar="FILE.onnx", required=True, help="file to write")
    export.set_defaults(command=_export)
    table = add_command(
        detect_commands,
        "table",
        shared,
        "compare trained detectors, as the paper's table",
        "nni-cream detect table out/detector out/another-detector",
    )
    table.add_argument("results", metavar="DIR", nargs="+", help="folders of trained detectors")
    table.add_argument("--json", action="store_true", help="print the rows as one line of JSON")
    table.set_defaults(command=_table)


def _add_trained(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", metavar="CONFIG.yml", help=_CONFIG)
    command.add_argument(
        "--result", metavar="DIR", help="folder of the trained detector; default: the one that CONFIG.yml is in"
    )
    command.add_argument("--json", action="store_true", help="print the figures as one line of JSON")
    add_trust_option(command)


def _train(options: argparse.Namespace) -> None:
    from nni_cream.config import DETECT

    config = DETECT.load(options.config)
    if options.dry_run:
        _rehearse(options, config)
        return
    check_run_options(options)
    be_quiet(options, training=True)
    from nni_cream.detection.detect_run import run_detection
    from nni_cream.detection.detection_evaluation import detection_table
    from nni_cream.results.console_tables import make_console

    messages = make_console(stderr=True)
    result = run_detection(
        config,
        options.out,
        resume=options.resume,
        force=options.force,
        trust_code=options.trust_code,
        console=messages,
    )
    assert result.best.detection is not None
    figures = result.best.detection["figures"]
    console = messages if options.json else make_console()
    console.print(detection_table(figures, f"{figures['images']} test images"))
    console.print(f"all files are in {result.out}", soft_wrap=True)
    if options.json:
        print_json({**figures, "seconds": round(result.seconds, 3), "out": str(result.out)})


def _rehearse(options: argparse.Namespace, config: dict[str, Any]) -> None:
    be_quiet(options, training=True)
    from nni_cream.detection.detect_rehearsal import rehearse_detection

    rehearsal = rehearse_detection(config, images_at_once=options.images, trust_code=options.trust_code)
    print_estimate(rehearsal, options, rehearsal.to_json())


def _evaluate(options: argparse.Namespace) -> None:
    from nni_cream.config import DETECT

    config = DETECT.load(options.config)
    be_quiet(options, training=True)
    from nni_cream.detection.detection_evaluation import detection_table, evaluate_detector
    from nni_cream.results.console_tables import make_console

    figures = evaluate_detector(config, _result(options), part=options.part, trust_code=options.trust_code)
    if options.json:
        print_json(figures)
    else:
        make_console().print(detection_table(figures, f"{figures['images']} {options.part} images"))


def _export(options: argparse.Namespace) -> None:
    from nni_cream.config import DETECT

    config = DETECT.load(options.config)
    be_quiet(options, training=True)
    from nni_cream.detection.onnx_file import export_detector

    made = export_detector(config, _result(options), options.out, trust_code=options.trust_code)
    if options.json:
        content = {"file": str(made.file), "categories": made.categories, "images": made.images}
        print_json({**content, "difference": made.difference})
        return
    print(f"{made.file}: the same boxes, scores and labels as PyTorch's on {made.images} test images")
    print(f"an image (1, 3, height, width) from 0 to 1; labels from 1: {', '.join(made.categories)}")


def _result(options: argparse.Namespace) -> Path:
    return Path(options.config).parent if options.result is None else Path(options.result)


def _table(options: argparse.Namespace) -> None:
    be_quiet(options)
    from nni_cream.detection.detection_evaluation import results_table
    from nni_cream.results.console_tables import make_console

    table, rows = results_table(options.results)
    if options.json:
        print_json({"rows": rows})
    else:
        make_console().print(table)
