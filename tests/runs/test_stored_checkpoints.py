"""Checkpoints of earlier versions, stored by ``tests/make_checkpoints.py``, resume to the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nni_cream.results.checkpoints.checkpoint_files import seal
from tests.forked import Forked

STORED = Path(__file__).parents[1] / "data" / "checkpoints"


@pytest.mark.integration
@pytest.mark.parametrize("name", sorted(folder.name for folder in STORED.iterdir()))
def test_stored_checkpoint_resumes_to_the_end(name: str, tmp_path: Path) -> None:
    stored, out = STORED / name, tmp_path / "out"
    resumed = start(name, tmp_path)
    _, messages = resumed.communicate()
    assert resumed.returncode == 0, messages
    before, after = ((folder / "metrics.jsonl").read_text().splitlines() for folder in (stored, out))
    assert 0 < len(before) < 3
    assert after[: len(before)] == before
    assert [json.loads(line)["epoch"] for line in after] == [1, 2, 3]
    assert (out / "best.json").exists()
    assert (out / "last.ckpt").read_bytes() != (stored / "last.ckpt").read_bytes()


@pytest.mark.integration
@pytest.mark.parametrize("name", ["search_1", "retrain_1"])
def test_checkpoint_of_a_newer_format_is_refused_with_its_number_and_kept(name: str, tmp_path: Path) -> None:
    resumed = start(name, tmp_path, newer)
    _, messages = resumed.communicate()
    assert resumed.returncode == 1
    told = "the checkpoint's format is 99; expected 1. Resume with the version of nni_cream that wrote it, or start"
    assert told in messages
    assert torch.load(tmp_path / "out" / "last.ckpt", weights_only=True)[STATES[name]]["format"] == 99


STATES = {"search_1": "nni_cream", "retrain_1": "nni_cream_retrain"}


def newer(name: str, checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content[STATES[name]]["format"] = 99
    torch.save(content, checkpoint)
    seal(checkpoint)


def start(name: str, folder: Path, change: Callable[[str, Path], None] = lambda name, checkpoint: None) -> Forked:
    """Resume a copy of a stored training, whose checkpoint may be changed before."""
    out = folder / "out"
    shutil.copytree(STORED / name, out)
    results = [shutil.move(path, folder) for path in out.glob("result.json")]
    change(name, out / "last.ckpt")
    return Forked(name.partition("_")[0], *results, STORED / name / "config.yml", "--out", out, "--resume")
