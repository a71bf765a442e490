"""``report``, ``plot``: a result as one page that opens from the disk, and as pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nni_cream.cli.common import add_command, print_json

__all__ = ["add_commands"]

_FOLDER = "output folder of go, search, retrain, run or detect train"


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands to the command line; ``shared`` holds the options that all have."""
    report = add_command(
        commands,
        "report",
        shared,
        "write a result as one page: figures, charts, the architecture",
        "nni-cream report out/digits",
        "nni-cream report out/digits --out digits.html",
        description="Write a result as one HTML page that opens from the disk, without a server or network: its "
        "figures, the chosen architecture as a diagram, training curves, and the charts of its search.",
    )
    report.add_argument("folder", metavar="DIR", help=_FOLDER)
    report.add_argument("--out", metavar="FILE", help="page to write; default: report.html in DIR")
    report.add_argument("--json", action="store_true", help="print the file as one line of JSON")
    report.set_defaults(command=_report)
    plot = add_command(
        commands,
        "plot",
        shared,
        "draw a result as pictures; needs nni_cream[plots]",
        "nni-cream plot out/digits",
        "nni-cream plot out/digits --out pictures --format png",
        description="Draw a result as pictures for a paper or a slide: progress, accuracy against cost, the worth of "
        "each choice, the chosen architecture and the training curves. It needs matplotlib, the extra plots.",
    )
    plot.add_argument("folder", metavar="DIR", help=_FOLDER)
    plot.add_argument("--out", metavar="FOLDER", help="folder for the pictures; default: plots in DIR")
    plot.add_argument("--format", choices=("svg", "png"), default="svg", help="default: svg")
    plot.add_argument("--json", action="store_true", help="print the files as one line of JSON")
    plot.set_defaults(command=_plot)


def _report(options: argparse.Namespace) -> None:
    from nni_cream.report import write_report

    written = write_report(Path(options.folder), None if options.out is None else Path(options.out))
    if options.json:
        print_json({"report": str(written)})
    else:
        print(f"report: {written}")


def _plot(options: argparse.Namespace) -> None:
    from nni_cream.report.drawings import write_pictures
    from nni_cream.terminal_text import visible

    out = None if options.out is None else Path(options.out)
    pictures = write_pictures(Path(options.folder), out, options.format)
    if options.json:
        print_json({"files": [str(path) for path in pictures.files], "missing": pictures.missing})
        return
    for path in pictures.files:
        print(path)
    for name, why in pictures.missing.items():
        print(visible(f"not drawn: {name}, since {why}"))
