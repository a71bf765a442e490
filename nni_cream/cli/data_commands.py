"""``data``: what is in a data set, SubImageNet out of ImageNet, and scenes of digits with boxes."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nni_cream.cli.common import add_command, print_json
from nni_cream.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rich.console import Console

    from nni_cream.data.inspection import Inspection

__all__ = ["add_commands"]

_SHOWN = 20
_BOXES = ("coco", "voc")


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands to the command line; ``shared`` holds the options that all have."""
    group = add_command(
        commands,
        "data",
        shared,
        "look into a data set, or make one",
        "nni-cream data check experiments/search_digits.yml",
    )
    data_commands = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_check(data_commands, shared)
    _add_subimagenet(data_commands, shared)
    _add_scenes(data_commands, shared)


def _add_check(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = add_command(
        commands,
        "check",
        shared,
        "load a data set, look at its files, show its parts; exit code 1 if unusable",
        "nni-cream data check experiments/search_digits.yml",
        "nni-cream data check folder --root data/flowers --full",
    )
    command.add_argument(
        "data", metavar="CONFIG.yml|NAME", help="name of a data set, or a file whose key `data` names one"
    )
    command.add_argument("--root", metavar="DIR", help="folder of the images, for a data set by name")
    command.add_argument("--full", action="store_true", help="decode every image in full")
    command.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    command.set_defaults(command=_check)


def _add_subimagenet(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = add_command(
        commands,
        "subimagenet",
        shared,
        "choose classes and images of ImageNet, as a folder of links",
        "nni-cream data subimagenet --imagenet /data/imagenet --out /data/subimagenet",
    )
    command.add_argument(
        "--imagenet", metavar="DIR", required=True, help="folder that holds train/<wnid>/*.JPEG and val/"
    )
    command.add_argument("--out", metavar="DIR", required=True, help="folder to make")
    command.add_argument("--classes", type=int, default=100, metavar="N", help="classes to draw (100)")
    command.add_argument("--train", type=int, default=250, metavar="N", help="training images of each class (250)")
    command.add_argument("--val", type=int, default=50, metavar="N", help="validation images of each class (50)")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="decides which classes and images (0)")
    command.add_argument("--list", metavar="FILE", help="text file that lists the images or the classes, one per line")
    command.add_argument("--copy", action="store_true", help="copy the images, instead of linking to them")
    command.add_argument("--force", action="store_true", help="replace a folder that this command made before")
    command.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    command.set_defaults(command=_subimagenet)


def _add_scenes(commands: Any, shared: argparse.ArgumentParser) -> None:
    command = add_command(
        commands,
        "scenes",
        shared,
        "compose scenes of digits with boxes, in COCO's layout; needs no download",
        "nni-cream data scenes --out out/scenes",
    )
    command.add_argument("--out", metavar="DIR", required=True, help="folder to make")
    command.add_argument("--train", type=int, default=1000, metavar="N", help="training scenes (1000)")
    command.add_argument("--test", type=int, default=200, metavar="N", help="test scenes (200)")
    command.add_argument("--size", type=int, default=96, metavar="N", help="pixels of each side (96)")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="decides all (0)")
    command.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    command.set_defaults(command=_scenes)


def _scenes(options: argparse.Namespace) -> None:
    from nni_cream.detection.boxes.scenes import make_scenes

    made = make_scenes(options.out, train=options.train, test=options.test, size=options.size, seed=options.seed)
    if options.json:
        print_json({"out": str(made.out), "images": dict(made.images), "boxes": dict(made.boxes)})
        return
    parts = ", ".join(
        f"{count:,} {part} scenes with {made.boxes[part]:,} digits" for part, count in made.images.items()
    )
    print(f"{made.out}: {parts}")
    print(f"train on them with data: {{name: coco, root: {made.out}, train: train, test: test}}")


def _check(options: argparse.Namespace) -> None:
    name, arguments = _named(options)
    if name in _BOXES:
        _check_boxes(options, name, arguments)
        return
    from nni_cream.data.inspection import inspect_data

    found = inspect_data(name, arguments, full=options.full, watch=_with_progress)
    if options.json:
        print_json(found.to_json())
    else:
        _show(found)
    if not found.usable:
        raise DataError(
            f"data set {name!r}: the number of unreadable files is {len(found.unreadable)}; expected at most "
            f"{found.limit} (max_unreadable). Get them again or remove them. Those that are found without --full may "
            "also be left out with max_unreadable."
        )


def _check_boxes(options: argparse.Namespace, name: str, arguments: dict[str, Any]) -> None:
    from nni_cream.detection.boxes.box_inspection import box_tables, inspect_boxes
    from nni_cream.results.console_tables import make_console

    found = inspect_boxes({"name": name, "arguments": arguments}, full=options.full, watch=_with_progress)
    if options.json:
        print_json(found.to_json())
    else:
        console = make_console()
        for table in box_tables(found):
            console.print(table)
        _list(console, [f"{fault.kind}: {fault.where}: {fault.why}" for fault in found.faults])
        _list(console, [f"unreadable: {why}" for why in found.unreadable])
    if found.unreadable:
        raise DataError(
            f"data set {name!r}: the number of unreadable images is {len(found.unreadable)}; expected none. Get them "
            "again, or take them out of the annotations."
        )
    if found.faults and not found.dropped:
        raise DataError(
            f"data set {name!r}: the number of faulty images and boxes is {len(found.faults)}; expected none. Mend "
            "them, or leave them out with faulty: drop."
        )


def _named(options: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    if not options.data.endswith((".yml", ".yaml")):
        return options.data, {} if options.root is None else {"root": options.root}
    if options.root is not None:
        raise ConfigError(
            f"--root is {options.root}; expected none, since {options.data} names the folder. Leave it out."
        )
    from nni_cream.config import Layout, read_yaml

    content = read_yaml(options.data)
    tuner = content.get("tuner")  # an experiment in NNI's format holds the same keys there
    if isinstance(tuner, dict) and isinstance(tuner.get("classArgs"), dict):
        content = tuner["classArgs"]
    if "data" not in content:
        raise ConfigError(f"{options.data}: data is missing; expected a configuration of nni_cream.")
    layout = Layout(named={"data": "Images."}, sections={}, keys=())
    data = layout.resolve({"data": content["data"]}, prefix=f"{options.data}: ")["data"]
    return data["name"], data["arguments"]


def _with_progress(results: Iterable[Any], count: int) -> Iterable[Any]:
    from rich.progress import track

    from nni_cream.results.console_tables import make_console

    return track(results, "decoding", total=count, console=make_console(stderr=True), transient=True)


def _show(found: Inspection) -> None:
    from rich.table import Table

    from nni_cream.results.console_tables import make_console

    console = make_console()
    if found.parts:
        console.print(f"{found.name}: {found.classes} classes, images {found.input_shape}")
        table = Table("part")
        table.add_column("images", justify="right")
        for part, count in found.parts.items():
            table.add_row(part, f"{count:,}")
        console.print(table)
        console.print(f"fingerprint {found.fingerprint}", soft_wrap=True)
    console.print(f"unreadable files: {len(found.unreadable)} (max_unreadable: {found.limit})")
    _list(console, [f"{item.file}: {item.why}" for item in found.unreadable])
    if found.left_out:
        console.print(f"files left out for their ending: {sum(found.left_out.values())}")
        _list(console, [f"{ending}: {count}" for ending, count in sorted(found.left_out.items())])
    if found.dark:
        console.print(f"very dark files, which use at most 14 of their 16 bits: {len(found.dark)}")
        _list(console, [f"{file}: largest value {value}" for file, value in found.dark.items()])
    if found.repeated:
        console.print(f"files that occur in several parts: {len(found.repeated)}")
        _list(console, [f"{file}: the same as {other}" for file, other in found.repeated.items()])


def _list(console: Console, lines: list[str]) -> None:
    for line in lines[:_SHOWN]:
        console.print(f"  {line}", soft_wrap=True)
    if len(lines) > _SHOWN:
        console.print(f"  and {len(lines) - _SHOWN} more; --json lists all")


def _subimagenet(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from nni_cream.data import make_subimagenet

    made = make_subimagenet(
        Path(options.imagenet),
        Path(options.out),
        classes=options.classes,
        train=options.train,
        val=options.val,
        seed=options.seed,
        list_file=options.list,
        copy=options.copy,
        force=options.force,
    )
    if options.json:
        print_json(asdict(made))
        return
    kind = "copies" if made.copied else "links"
    print(f"{made.out}: {made.classes} classes, {made.train:,} training and {made.val:,} validation images, as {kind}")
    print(f"search on it with data: {{name: subimagenet, root: {made.out}}}")
