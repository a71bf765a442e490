"""Kill a training at random steps, resume it, and compare it with an undisturbed one, file by file.

    .venv/bin/python benchmarks/kill_points.py --points 30
    .venv/bin/python benchmarks/kill_points.py --job retrain --points 30
    .venv/bin/python benchmarks/kill_points.py --processes 2 --points 5

Prints one line a kill and a verdict; the exit code is 0 if nothing differed. Run it from a clone: it uses the tools of
the tests. Of two processes, each is killed in its turn; a kill while a checkpoint is written meets the first.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.faults.kill_points import differences, finished, interrupted, points, rank_to_kill, retrain_job, search_job


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", choices=("search", "retrain"), default="search", help="what is killed")
    parser.add_argument("--processes", type=int, default=1, help="how many train together")
    parser.add_argument("--points", type=int, default=30, help="how many kills")
    parser.add_argument("--seed", type=int, default=0, help="decides the steps and the moments")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = (search_job if options.job == "search" else retrain_job)(folder, options.processes)
        finished(job, folder / "whole")
        for number, (batch, moment) in enumerate(points(job, options.points, options.seed)):
            out, rank = folder / str(number), rank_to_kill(job, number, moment)
            killed = interrupted(job, out, batch, moment, rank=rank)
            if killed.returncode != -signal.SIGKILL:
                raise SystemExit(f"the training was not killed: {killed.communicate()}")
            finished(job, out, "--resume")
            found = differences(folder / "whole", out)
            failed += bool(found)
            print(f"kill {number}: rank {rank}, batch {batch}, {moment}: {found or 'equal'}", flush=True)
    print(f"{options.points - failed} of {options.points} resumed trainings equal the undisturbed one")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
