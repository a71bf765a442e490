"""``init``: a first configuration for a folder of images, fitted to them and to this machine."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nni_cream.cli.common import add_command, be_quiet, print_json
from nni_cream.errors import ConfigError, FileError

if TYPE_CHECKING:
    from nni_cream.starter.image_profile import ImageProfile
    from nni_cream.starter.proposal import Proposal

__all__ = ["add_commands"]

_SPACE, _CLASS = "my_space", "MySpace"


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the command to the command line; ``shared`` holds the options that all have."""
    command = add_command(
        commands,
        "init",
        shared,
        "write a first configuration for your images",
        "nni-cream init pictures && nni-cream go search.yml --out out/first",
        description="Look at the images, choose space, sizes, epochs, batch and budget to fit them and this machine, "
        "time a few steps, and write a commented file that runs as it is. Nothing is asked, and no file is replaced.",
    )
    command.add_argument(
        "folder", metavar="FOLDER", nargs="?", help="images, with one sub-folder a class or train, val and test"
    )
    command.add_argument("--data", metavar="NAME", help="a data set by name, such as digits, in place of FOLDER")
    command.add_argument("--root", metavar="DIR", help="folder of the files of --data, if it needs one")
    command.add_argument("--out", metavar="FILE", default="search.yml", help="file to write; default: search.yml")
    command.add_argument(
        "--space",
        action="store_true",
        help=f"also write a search space of your own to change, {_SPACE}.py, with a test",
    )
    command.add_argument("--json", action="store_true", help="print the choices as one line of JSON")
    command.set_defaults(command=_init, parser=command)


def _init(options: argparse.Namespace) -> None:
    name, arguments = _data(options)
    out = Path(options.out)
    code = out.with_name(f"{_SPACE}.py"), out.with_name(f"test_{_SPACE}.py")
    if options.space and out.absolute().parent != Path.cwd():
        raise ConfigError(
            f"--out is {out}; expected a file in the current folder with --space, since nni-cream looks for "
            f"{_SPACE}.py there. Change to {out.parent} first."
        )
    for file in (out, *code) if options.space else (out,):
        _check_free(file)
    be_quiet(options, training=True)
    from nni_cream.files import write_text
    from nni_cream.starter.image_profile import look_at_images
    from nni_cream.starter.proposal import propose
    from nni_cream.starter.search_file import search_text
    from nni_cream.versions import package_version

    profile = look_at_images(name, arguments)
    proposal = propose(profile)
    if options.space:
        proposal = _write_space(code, profile, proposal)
    made_by = f"nni_cream {package_version('nni_cream')}"
    write_text(out, search_text(proposal, profile, options.out, made_by))
    if options.json:
        print_json(
            {"out": str(out), "config": proposal.config, "reasons": proposal.reasons, "seconds": proposal.seconds}
        )
    else:
        _show(out, profile, proposal)


def _data(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    if (options.folder is None) == (options.data is None):
        options.parser.error("FOLDER or --data NAME is missing; expected one of them.")
    if options.folder is None:
        return options.data, {} if options.root is None else {"root": options.root}
    if options.root is not None:
        options.parser.error(f"--root is {options.root}; expected none with FOLDER.")
    folder = Path(options.folder)
    if not folder.is_dir():
        what = "a file" if folder.exists() else "not there"
        raise ConfigError(
            f"FOLDER is {options.folder}, which is {what}; expected a folder with one sub-folder of images a class. "
            "Name a data set with --data instead, such as --data digits."
        )
    return "folder", {"root": options.folder}


def _check_free(file: Path) -> None:
    """Refuse a file that is there, or that cannot be written, before any work is done."""
    if os.path.lexists(file):
        raise FileError(f"{file}: is there already; expected a new file. Name another one with --out, or remove it.")
    if not file.parent.is_dir() or not os.access(file.parent, os.W_OK):
        raise FileError(f"{file}: cannot be written; expected a folder that you may write to. Name another --out.")


def _write_space(code: tuple[Path, Path], profile: ImageProfile, proposal: Proposal) -> Proposal:
    from nni_cream.files import write_text
    from nni_cream.starter.proposal import chain_channels, propose, stem_stride
    from nni_cream.starter.space_template import space_code, space_test

    side = min(proposal.input_shape[1:])
    write_text(code[0], space_code(_CLASS, chain_channels(side), stem_stride(side)))
    write_text(code[1], space_test(_SPACE, _CLASS, proposal.input_shape, len(profile.classes)))
    return propose(profile, {"name": f"{_SPACE}:{_CLASS}"})


def _show(out: Path, profile: ImageProfile, proposal: Proposal) -> None:
    from rich.table import Table

    from nni_cream.results.console_tables import make_console
    from nni_cream.starter.search_file import duration

    console = make_console()
    parts = ", ".join(f"{count:,} {part}" for part, count in profile.parts.items())
    kind = "grey" if profile.grey else "colour"
    console.print(
        f"{parts} images of {len(profile.classes)} classes; {kind}, {profile.height} x {profile.width} pixels in the "
        f"median, {profile.smallest[0]} x {profile.smallest[1]} to {profile.largest[0]} x {profile.largest[1]}",
        soft_wrap=True,
    )
    table = Table("key", "value", "why")
    for section, values in proposal.config.items():
        if section in proposal.reasons:
            table.add_row(section, str(values["name"]), proposal.reasons[section])
        for key, value in values.items():
            if (reason := proposal.reasons.get(f"{section}.{key}")) is not None:
                table.add_row(f"{section}.{key}", str(value), reason)
    console.print(table)
    console.print(f"written: {out}. About {duration(proposal.seconds)} on this machine:", soft_wrap=True)
    console.print(f"  nni-cream go {shlex.quote(str(out))} --out out/first", soft_wrap=True)
