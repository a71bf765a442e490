"""Make the stored checkpoints anew, of a search and of a retraining that SIGTERM ended within an epoch.

    python tests/make_checkpoints.py

``tests/runs/test_stored_checkpoints.py`` resumes them. When the format gets a new number, make new ones under another
name below, and keep the old ones as long as they can be read.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.faults.kill_points import interrupted, retrain_job, search_job

STORED = Path(__file__).parent / "data" / "checkpoints"
NAMES = {"search_1": search_job, "retrain_1": retrain_job}
LARGEST = 300_000  # bytes; Git keeps every version


def main() -> None:
    for name, make in NAMES.items():
        with tempfile.TemporaryDirectory() as place:
            job, out = make(Path(place)), Path(place) / "out"
            ended = interrupted(job, out, 13, "before the step", signal.SIGTERM)
            if ended.returncode != 128 + signal.SIGTERM:
                raise SystemExit(f"{name} was not terminated: {ended.communicate()}")
            (out / "earlier.ckpt").unlink(missing_ok=True)
            if (size := (out / "last.ckpt").stat().st_size) > LARGEST:
                raise SystemExit(f"{name} has {size} bytes; expected at most {LARGEST}.")
            shutil.rmtree(STORED / name, ignore_errors=True)
            shutil.copytree(out, STORED / name)
            # What the command gets besides the configuration: for a retraining, the architecture.
            for word in job.words[1:-1]:
                shutil.copy(word, STORED / name / "result.json")
            print(f"{name}: {size} bytes")


if __name__ == "__main__":
    main()
