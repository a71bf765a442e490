"""Resume a search from hundreds of checkpoints that are whole and hold wrong values, and report what became of them.

    python benchmarks/hostile_checkpoints.py --count 300

Prints one line for each way to end; exits with 1 if a resume ended in an error that is not ours.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.faults.hostile_checkpoints import half_finished, resumed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300, help="checkpoints; default: 300")
    parser.add_argument("--first", type=int, default=0, help="seed of the first; default: 0")
    options = parser.parse_args()
    bad, ends = 0, Counter[str]()
    with tempfile.TemporaryDirectory(prefix="nni_cream_hostile_") as folder:
        whole = half_finished(Path(folder))
        for seed in range(options.first, options.first + options.count):
            outcome = resumed(whole, Path(folder) / str(seed), seed)
            ends[outcome.error] += 1
            if not outcome.own:
                bad += 1
                print(f"seed {seed}, {outcome.place}: {outcome.error}: {outcome.message[:300]}", file=sys.stderr)
    print("\n".join(f"{count:6,} {error}" for error, count in ends.most_common()))
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
