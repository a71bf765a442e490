"""A training that SIGKILL or SIGTERM ends, or whose newest checkpoint is damaged, ends as if undisturbed.

``benchmarks/kill_points.py`` runs dozens of kills; here are a few of them.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from nni_cream.results.checkpoints.checkpoint_files import usable_checkpoint
from nni_cream.results.output_folder import OutputFolder
from tests.faults.kill_points import Job, differences, finished, interrupted, retrain_job, search_job

pytestmark = pytest.mark.integration

MADE = {"search": search_job, "retraining": retrain_job}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    return {name: make(tmp_path_factory.mktemp(name)) for name, make in MADE.items()}


@pytest.fixture(scope="module")
def wholes(jobs: dict[str, Job], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("undisturbed")
    for name, job in jobs.items():
        finished(job, folder / name)
    return {name: folder / name for name in jobs}


@pytest.mark.parametrize(
    ("name", "batch", "moment"),
    [
        ("search", 14, "between its two renames"),
        ("search", 19, "after the step"),
        ("retraining", 4, "before the step"),  # within a step: its second batch
        ("retraining", 15, "after the step"),  # the first batch of two, in the middle of an epoch
        ("retraining", 20, "between its two renames"),
    ],
)
def test_training_killed_at_a_step_resumes_and_equals_the_undisturbed_one(
    jobs: dict[str, Job], wholes: dict[str, Path], tmp_path: Path, name: str, batch: int, moment: str
) -> None:
    out = tmp_path / "out"
    killed = interrupted(jobs[name], out, batch, moment)
    assert killed.returncode == -signal.SIGKILL
    assert (out / "lock").read_text().startswith(f"{killed.pid} ")
    if moment == "between its two renames":
        assert not (out / "last.ckpt").exists()
        assert (out / f".last.ckpt.{killed.pid}").exists()
        assert usable_checkpoint(OutputFolder(out)) == out / "earlier.ckpt"
    finished(jobs[name], out, "--resume")
    assert differences(wholes[name], out) == []
    assert not [file.name for file in out.iterdir() if file.name.startswith(".last") or file.name == "lock"]


@pytest.mark.parametrize("name", MADE)
def test_sigterm_saves_the_step_and_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    jobs: dict[str, Job], wholes: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    out = tmp_path / "out"
    ended = interrupted(jobs[name], out, 13, "before the step", signal.SIGTERM)
    assert ended.returncode == 143
    assert "terminated by SIGTERM. The run is saved; continue it with --resume." in ended.communicate()[1]
    assert {file.name for file in out.iterdir()} >= {"last.ckpt", "earlier.ckpt"}
    content = bytearray((out / "last.ckpt").read_bytes())
    content[len(content) // 2] ^= 1
    (out / "last.ckpt").write_bytes(content)
    with caplog.at_level("WARNING"):
        assert usable_checkpoint(OutputFolder(out)) == out / "earlier.ckpt"
    assert f"{out}/last.ckpt: is broken. The run resumes from the checkpoint before, earlier.ckpt." in caplog.text
    finished(jobs[name], out, "--resume")
    assert differences(wholes[name], out) == []
