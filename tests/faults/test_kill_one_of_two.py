"""One of two processes of a search is killed within an epoch; resumed, both end as if undisturbed.

``benchmarks/kill_points.py --processes 2 --points 5`` runs five kills; here is one of them.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch

from tests.faults.kill_points import differences, finished, interrupted, search_job


@pytest.mark.integration
def test_search_of_two_processes_killed_within_an_epoch_resumes_and_equals_the_undisturbed_one(tmp_path: Path) -> None:
    job = search_job(tmp_path, processes=2)
    finished(job, tmp_path / "whole")
    # At the end of the second epoch; what is left is the checkpoint within it.
    killed = interrupted(job, tmp_path / "out", 8, "while the checkpoint is written")
    assert killed.returncode == -signal.SIGKILL
    left = torch.load(tmp_path / "out" / "last.ckpt", weights_only=True)
    assert (left["epoch"], left["global_step"]) == (1, 7)
    finished(job, tmp_path / "out", "--resume")
    assert differences(tmp_path / "whole", tmp_path / "out") == []
