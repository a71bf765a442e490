"""``export``: the chosen architecture as a file of ours, or in the forms that other programs read."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nni_cream.cli.common import add_command, add_trust_option, be_quiet, print_json
from nni_cream.errors import FileError

if TYPE_CHECKING:
    from nni_cream.runs.export_run import Exported, Wish

__all__ = ["add_commands", "export_formats"]

_FORMATS = ("code", "onnx", "torch")
_BESIDE = ""
"""Value of ``--weights`` without a file: the weights of the result."""


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the command to the command line; ``shared`` holds the options that all have."""
    command = add_command(
        commands,
        "export",
        shared,
        "write the chosen architecture for other programs, or to a file",
        "nni-cream export out/digits --weights --out digits.json",
        "nni-cream export out/digits --format code,onnx,torch --out out/phone",
        description="Without --format: the architecture as JSON, printed or in a file. With --format: a folder with "
        "the network as Python code that needs PyTorch alone, as ONNX or as a program of torch.export, each checked "
        "against the network itself, with its weights and a model card.",
    )
    command.add_argument("result", metavar="RESULT", help="output folder of a search or experiment, or a best.json")
    command.add_argument("--format", metavar="LIST", type=export_formats, help="one or more of code,onnx,torch")
    command.add_argument("--out", metavar="PATH", help="JSON file to write; with --format the folder for all files")
    command.add_argument(
        "--weights",
        metavar="FILE",
        nargs="?",
        const=_BESIDE,
        help="with --format: the file of the weights, by default weights.pt in RESULT; without --format, and without "
        "FILE: write the one-shot weights beside the JSON file, too, as .pt",
    )
    command.add_argument("--pareto", action="store_true", help="export the whole Pareto front of a search")
    command.add_argument("--opset", metavar="N", type=int, help="version of ONNX's operators")
    command.add_argument(
        "--input-shape",
        metavar="C,H,W",
        type=_shape,
        help="check with made-up images of this shape instead of the data set",
    )
    command.add_argument("--force", action="store_true", help="replace existing files, or an earlier export")
    command.add_argument(
        "--json", action="store_true", help="with --format: print what was written as one line of JSON"
    )
    add_trust_option(command)
    command.set_defaults(command=_export, parser=command)


def export_formats(text: str) -> list[str]:
    """Read the value of ``--format``."""
    names = text.split(",")
    if not set(names) <= set(_FORMATS) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(
            f"the value is {text!r}; expected different ones of {', '.join(_FORMATS)}, with commas."
        )
    return names


def _shape(text: str) -> tuple[int, ...]:
    sides = text.split(",")
    if len(sides) != 3 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise argparse.ArgumentTypeError(
            f"the value is {text!r}; expected channels, height and width, such as 3,224,224."
        )
    return tuple(map(int, sides))


def _export(options: argparse.Namespace) -> None:
    if options.format is None:
        _check_file_options(options)
        _write_file(options)
    else:
        _check_folder_options(options)
        _write_folder(options)


def _check_file_options(options: argparse.Namespace) -> None:
    fail: Callable[[str], Any] = options.parser.error
    for name in ("pareto", "opset", "input_shape", "json"):
        if getattr(options, name):
            fail(f"--format is missing; expected it with --{name.replace('_', '-')}.")
    if options.weights:
        fail(f"--format is missing; expected it with --weights {options.weights}.")
    if options.weights is not None and options.out is None:
        fail("--out is missing; expected --out FILE, beside which --weights writes them.")
    if options.weights is not None and Path(options.out).suffix == ".pt":
        fail(f"--out is {options.out}; expected a name such as chosen.json, since the weights are a .pt file.")


def _write_file(options: argparse.Namespace) -> None:
    from nni_cream.results.architecture_file import load_best

    best = load_best(options.result)
    if options.out is None:
        print(json.dumps(best.to_json(), indent=2))
        return
    out = Path(options.out)
    weights = None if options.weights is None else out.with_suffix(".pt")
    for path in (out, weights):
        if path is not None and os.path.lexists(path) and not options.force:
            raise FileError(f"{path}: is there already. Name another file with --out, or replace it with --force.")
    if weights is not None:
        be_quiet(options)
        from nni_cream.results.rebuilt_network import export_weights

        export_weights(best, Path(options.result), weights, trust_code=options.trust_code)
        print(f"weights: {weights}", file=sys.stderr)
    best.save(out)
    print(f"architecture: {out}", file=sys.stderr)


def _check_folder_options(options: argparse.Namespace) -> None:
    fail: Callable[[str], Any] = options.parser.error
    if options.out is None:
        fail("--out is missing; expected --out FOLDER with --format.")
    if options.pareto and options.weights:
        fail(f"--weights is {options.weights}; expected no file with --pareto, since each network has its own.")


def _write_folder(options: argparse.Namespace) -> None:
    be_quiet(options)
    from nni_cream.runs.export_run import Wish, export_pareto, export_result

    wish = Wish(
        out=Path(options.out),
        formats=options.format,
        opset=options.opset,
        input_shape=options.input_shape,
        force=options.force,
        command=shlex.join(["nni-cream", *options.words]),
        trust_code=options.trust_code,
    )
    if options.pareto:
        written = export_pareto(options.result, wish)
    else:
        written = [export_result(options.result, wish, options.weights or None)]
    _show(written, wish, options)


def _show(written: Sequence[Exported], wish: Wish, options: argparse.Namespace) -> None:
    if options.json:
        networks = [
            {
                "folder": str(exported.folder),
                "differences": exported.differences,
                "macs": exported.macs,
                "params": exported.params,
            }
            for exported in written
        ]
        print_json({"out": str(wish.out), "networks": networks})
        return
    for exported in written:
        checks = ", ".join(f"{name} {difference:.1e}" for name, difference in exported.differences.items())
        print(f"{exported.folder}: {exported.macs:,} multiply-adds, {exported.params:,} parameters")
        print(f"  largest difference from the network's own outputs: {checks}")
    print(f"described in {wish.out / 'README.md'}")
