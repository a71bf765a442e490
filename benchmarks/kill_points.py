"""Kill a search at random steps, resume it, and compare it with an undisturbed one, file by file.

    .venv/bin/python benchmarks/kill_points.py --points 30

Prints one line a kill and a verdict; the exit code is 0 if nothing differed. Run it from a clone: it uses the tools of
the tests.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.faults.kill_points import SEARCH, differences, interrupted, points, searched


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=30, help="how many kills")
    parser.add_argument("--seed", type=int, default=0, help="decides the steps and the moments")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "search.yml"
        config.write_text(yaml.safe_dump(SEARCH))
        searched(str(config), folder / "whole")
        for number, (step, moment) in enumerate(points(options.points, options.seed)):
            out = folder / str(number)
            killed = interrupted(str(config), out, step, moment)
            if killed.returncode != -signal.SIGKILL:
                raise SystemExit(f"the search was not killed: {killed.communicate()}")
            searched(str(config), out, "--resume")
            found = differences(folder / "whole", out)
            failed += bool(found)
            print(f"kill {number}: step {step}, {moment}: {found or 'equal'}", flush=True)
    print(f"{options.points - failed} of {options.points} resumed searches equal the undisturbed one")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
