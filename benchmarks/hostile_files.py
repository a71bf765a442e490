"""Let the program read thousands of malformed files of each kind, and report what became of them.

    python benchmarks/hostile_files.py --count 5000 --out /tmp/hostile

Prints a table in Markdown; exits with 1 if an input ended in an error that is not ours, or one that does not name the
file, took a second or 200 MiB, or ran code. Seeds are those of the tests: 0, 1, 2, ...
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.faults.hostile import ALL, Outcome, attack

HACKED = Path("/tmp/nni_cream_was_hacked")
SECONDS, MEBIBYTES = 1.0, 200.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000, help="inputs of each kind; default: 5000")
    parser.add_argument("--kinds", nargs="+", choices=list(ALL), default=list(ALL), metavar="KIND", help="default: all")
    options = parser.parse_args()
    HACKED.unlink(missing_ok=True)
    print("| Kind | Inputs | Outcomes | Slowest (s) | Most memory (MiB) | Largest file (kB) |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    bad = 0
    for name in options.kinds:
        with tempfile.TemporaryDirectory(prefix="nni_cream_hostile_") as folder:
            outcomes = [attack(ALL[name], seed, Path(folder)) for seed in range(options.count)]
        print(row(name, outcomes), flush=True)
        for seed, outcome in enumerate(outcomes):
            if not outcome.own or outcome.seconds >= SECONDS or outcome.mebibytes >= MEBIBYTES:
                bad += 1
                told = (
                    f"{outcome.error}: {outcome.message[:300]!r}, {outcome.seconds:.2f} s, {outcome.mebibytes:.0f} MiB"
                )
                print(f"{name}, seed {seed}: {told}", file=sys.stderr, flush=True)
    if HACKED.exists():
        print("an input ran code", file=sys.stderr)
    return int(bad > 0 or HACKED.exists())


def row(name: str, outcomes: list[Outcome]) -> str:
    """Return a line of the table."""
    counts = Counter(outcome.error for outcome in outcomes)
    told = ", ".join(f"{count:,} {error}" for error, count in sorted(counts.items()))
    slowest = max(outcome.seconds for outcome in outcomes)
    memory, size = max(outcome.mebibytes for outcome in outcomes), max(outcome.size for outcome in outcomes)
    return f"| {name} | {len(outcomes):,} | {told} | {slowest:.2f} | {memory:.0f} | {size / 1000:,.0f} |"


if __name__ == "__main__":
    sys.exit(main())
