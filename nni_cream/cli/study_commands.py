"""``study``, ``rank``: does the method help, by how much, and why, on the user's own data."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nni_cream.cli.common import add_command, be_quiet, print_json
from nni_cream.errors import ConfigError, FileError, StudyError

if TYPE_CHECKING:
    from nni_cream.studies.study_run import Running

__all__ = ["add_commands"]


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands to the command line; ``shared`` holds the options that all have."""
    group = add_command(
        commands,
        "study",
        shared,
        "train architectures alone, and other studies",
        "nni-cream study truth experiments/truth_fashion.yml --out out/truth",
    )
    study_commands = group.add_subparsers(title="commands", metavar="COMMAND", required=True)
    truth = add_command(
        study_commands,
        "truth",
        shared,
        "train architectures alone, as the reference for rankings",
        "nni-cream study truth experiments/truth_fashion.yml --out out/truth",
    )
    _add_common(truth)
    truth.set_defaults(command=_truth)
    imported = add_command(
        study_commands,
        "import-truth",
        shared,
        "take over accuracies of architectures that others have trained",
        "nni-cream study import-truth nas-bench-macro nas-bench-macro_cifar10.json --out out/truth.json",
        "nni-cream study import-truth csv table.csv --space fashion --out out/truth.json",
    )
    kinds = ("nas-bench-macro", "nas-bench-201", "csv")
    imported.add_argument("kind", metavar="KIND", choices=kinds, help="nas-bench-macro, nas-bench-201 or csv")
    imported.add_argument("table", metavar="FILE", help="the JSON of NAS-Bench-Macro, or a CSV table with a header")
    imported.add_argument("--out", metavar="FILE", required=True, help="new JSON file, for `nni-cream rank --truth`")
    imported.add_argument(
        "--space", metavar="SPACE", help='of a CSV table: a name, or JSON such as \'{"name": ..., "arguments": {...}}\''
    )
    imported.add_argument(
        "--accuracy", metavar="COLUMN", nargs="+", help="columns of a CSV table, one a training; default: accuracy"
    )
    imported.add_argument(
        "--percent", action="store_true", help="accuracies of a CSV table are in percent, though some are 1 or below"
    )
    imported.add_argument("--architectures", type=int, metavar="N", help="draw so many with seed 0; default: all")
    imported.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    imported.set_defaults(command=_import_truth)
    final = add_command(
        study_commands,
        "final",
        shared,
        "compare the board's best with evolution and random search, trained alone",
        "nni-cream study final experiments/final_fashion.yml --out out/final",
    )
    _add_common(final)
    final.set_defaults(command=_final)
    rank = add_command(
        commands,
        "rank",
        shared,
        "measure how well variants of a search rank architectures",
        "nni-cream rank experiments/rank_fashion.yml --truth out/truth/truth_fashion.json --out out/rank",
    )
    _add_common(rank)
    rank.add_argument("--truth", metavar="FILE", required=True, help="JSON file of `nni-cream study truth`")
    rank.add_argument("--equal-time", action="store_true", help="also compare variants at equal training time")
    rank.set_defaults(command=_rank)


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("config", metavar="STUDY.yml", help="settings of the study; docs/studies.md lists the keys")
    command.add_argument("--out", metavar="DIR", required=True, help="folder of the results; continues a study there")
    command.add_argument(
        "--workers", type=int, metavar="N", help="processes at once, one thread each; default: one per core"
    )
    command.add_argument(
        "--report", action="store_true", help="run nothing; rewrite the tables from the records in DIR"
    )
    command.add_argument("--json", action="store_true", help="print the result as one line of JSON")


def _running(options: argparse.Namespace) -> Running:
    if options.workers is not None and options.workers < 1:
        raise ConfigError(f"--workers is {options.workers}; expected a whole number of at least 1.")
    from nni_cream.results.console_tables import make_console
    from nni_cream.studies.study_run import Running

    cores = len(os.sched_getaffinity(0))
    return Running(
        out=Path(options.out),
        workers=0 if options.report else options.workers or cores,
        console=make_console(stderr=True),
        command=shlex.join(["nni-cream", *options.words]),
        name=Path(options.config).stem,
    )


def _truth(options: argparse.Namespace) -> None:
    from nni_cream.config import TRUTH

    config = TRUTH.load(options.config)
    be_quiet(options, training=True)
    from nni_cream.results.console_tables import make_console
    from nni_cream.studies.study_run import run_truth

    running = _running(options)
    truth = run_truth(config, running)
    content = truth.to_json()
    path = running.file(".json")
    if options.json:
        print_json({key: content[key] for key in ("complete", "reliability")} | {"out": str(path)})
        return
    console = make_console()
    known, reliability = len(truth.known), content["reliability"]
    console.print(f"{known} of {len(truth.architectures)} architectures trained with {len(truth.seeds)} seeds each")
    if known:
        means = truth.means
        console.print(f"accuracies from {min(means):.4f} to {max(means):.4f}")
    if reliability is None:
        console.print("reliability of their means (Spearman-Brown): undefined, since no accuracies differ yet")
    else:
        trusted = "" if reliability >= 0.9 else ": below 0.9, seeds outweigh the differences; train longer or add seeds"
        console.print(f"reliability of their means (Spearman-Brown): {reliability:.3f}{trusted}")
    console.print(f"truth: {path}{'' if truth.complete else ' (PARTIAL)'}", soft_wrap=True)


def _import_truth(options: argparse.Namespace) -> None:
    kind, accuracies = options.kind, options.accuracy or ("accuracy",)
    of_table = options.accuracy or options.percent
    if (kind == "csv") != bool(options.space) or (of_table and kind == "nas-bench-macro"):
        raise ConfigError(
            f"--space is {options.space!r}, --accuracy {options.accuracy!r} and --percent {options.percent} for "
            f"{kind}; expected --space for csv alone, and neither --accuracy nor --percent for nas-bench-macro."
        )
    out = Path(options.out)
    if out.exists():
        raise ConfigError(f"--out is {out}, which exists; expected a new file. Give it another name.")
    be_quiet(options)
    from nni_cream.files import write_json
    from nni_cream.results.console_tables import make_console
    from nni_cream.studies.truths.imported import read_nas_bench_201, read_nas_bench_macro, read_table
    from nni_cream.studies.truths.truth import load_truth

    path, number = Path(options.table), options.architectures
    if kind == "csv":
        truth = read_table(path, _named(options.space), accuracies, number, options.percent)
    elif kind == "nas-bench-201":
        truth = read_nas_bench_201(path, accuracies, number, options.percent)
    else:
        truth = read_nas_bench_macro(path, number)
    content = truth.to_json()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{out}: cannot be written: {error.strerror or error}") from error
    write_json(out, {**content, "command": shlex.join(["nni-cream", *options.words])})
    try:
        load_truth(out)
    except FileError as error:
        out.unlink()
        raise StudyError(
            f"{path}: holds {len(truth.known)} architectures, and their file could not be read again ({error}); "
            "expected fewer. Draw some with --architectures."
        ) from None
    if options.json:
        print_json({"architectures": len(truth.known), "reliability": content["reliability"], "out": str(out)})
        return
    means = truth.means
    make_console().print(
        f"{len(means)} architectures of {truth.space['name']}, {len(truth.seeds)} trainings each, accuracies from "
        f"{min(means):.4f} to {max(means):.4f}: {out}",
        soft_wrap=True,
    )


def _named(space: str) -> dict[str, Any]:
    from nni_cream.json_reader import NAMED, parse_json

    if not space.startswith("{"):
        return {"name": space, "arguments": {}}
    named: dict[str, Any] = parse_json(
        space.encode(), "--space", "a space", "Give a name if it has no arguments.", NAMED
    )
    return named


def _final(options: argparse.Namespace) -> None:
    from nni_cream.config import FINAL

    config = FINAL.load(options.config)
    be_quiet(options, training=True)
    from nni_cream.studies.report import final_cells
    from nni_cream.studies.study_run import run_final

    running = _running(options)
    _show(options, running, run_final(config, running), final_cells)


def _rank(options: argparse.Namespace) -> None:
    from nni_cream.config import RANK

    config = RANK.load(options.config)
    be_quiet(options, training=True)
    from nni_cream.studies.report import rank_cells
    from nni_cream.studies.study_run import run_rank
    from nni_cream.studies.truths.truth import load_truth

    running = _running(options)
    tables = run_rank(config, load_truth(options.truth), running, with_equal_time=options.equal_time)
    _show(options, running, tables, rank_cells)


def _show(
    options: argparse.Namespace,
    running: Running,
    tables: Mapping[str, Sequence[Any]],
    cells: Callable[[Sequence[Any]], tuple[list[str], list[list[str]]]],
) -> None:
    if options.json:
        plain = {name: [row.to_json() for row in own] for name, own in tables.items()}
        print_json({"tables": plain, "out": str(running.out)})
        return
    from nni_cream.results.console_tables import make_console
    from nni_cream.studies.report import as_table

    console = make_console()
    for budget, rows in tables.items():
        partial = "" if all(row.complete for row in rows) else " (PARTIAL)"
        console.print(as_table(*cells(rows), title=f"{budget}{partial}"))
    console.print(f"tables with all columns, and pictures: {running.out}", soft_wrap=True)
