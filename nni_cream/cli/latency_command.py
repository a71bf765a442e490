"""``latency``: measures what each choice of a space takes on this machine, for searches with ``cost: latency``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from nni_cream.cli.common import add_command, be_quiet, print_json
from nni_cream.errors import FileError

__all__ = ["add_commands"]


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the command to the command line; ``shared`` holds the options that all have."""
    command = add_command(
        commands,
        "latency",
        shared,
        "measure a table of latencies on this machine",
        "nni-cream latency experiments/search_digits.yml --out latencies.json",
        description="Measure the latency of each choice of a space on this machine, for searches with `cost: latency`, "
        "and check the table against whole networks.",
    )
    command.add_argument(
        "config", metavar="CONFIG.yml", help="configuration of a search; its section `latency` holds the settings"
    )
    command.add_argument("--out", metavar="FILE", required=True, help="JSON file to write")
    command.add_argument("--force", action="store_true", help="replace an existing file")
    command.add_argument("--json", action="store_true", help="print the check as one line of JSON")
    command.set_defaults(command=_latency)


def _latency(options: argparse.Namespace) -> None:
    from nni_cream.config import load

    config, out = load(options.config), Path(options.out)
    if os.path.lexists(out) and not options.force:
        raise FileError(f"{out}: is there already. Name another file with --out, or replace it with --force.")
    if not out.absolute().parent.is_dir():
        raise FileError(f"{out}: its folder does not exist. Name a file in an existing folder.")
    be_quiet(options)
    from nni_cream.files import write_json
    from nni_cream.from_config import cpu_threads
    from nni_cream.runs.latency_run import measure_latencies

    with cpu_threads(config["trainer"]["threads"]):
        table = measure_latencies(config)
    write_json(out, table.to_json())
    check = table.check or {}
    if options.json:
        print_json({"device": table.device, "settings": dict(table.settings), **check, "out": str(out)})
        return
    print(f"device: {table.device}")
    print(f"image sizes: {', '.join('x'.join(map(str, item.shape)) for item in table.sizes)}")
    median, worst = (f"{100 * check[key]:.1f} %" for key in ("median_error", "worst_error"))
    print(f"against whole networks of {check['paths']} random paths: off by {median} (median), {worst} (worst)")
    quickest, middle, slowest = (f"{1000 * seconds:.3g}" for seconds in check["seconds"])
    print(f"these paths take {quickest} to {slowest} ms, half of them at most {middle} ms")
    print(f"table: {out}")
