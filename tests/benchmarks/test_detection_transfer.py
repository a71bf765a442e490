"""The comparison of backbones: which commands it runs, what it resumes, and what its table says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from scipy import stats

from nni_cream import config
from nni_cream.config import DETECT
from nni_cream.results.architecture_file import Best
from tests.benchmarks.loaded import benchmark

PUBLISHED = Path(__file__).resolve().parents[2] / "docs/evidence/detection"
AP = {"weights": (0.5, 0.7), "new": (0.4, 0.5), "mobilenet": (0.55, 0.45)}


@pytest.fixture(scope="module")
def transfer() -> ModuleType:
    return benchmark("detection_transfer")


def figures(arm: str, seed: int) -> dict[str, Any]:
    ap = AP[arm][seed]
    return {"ap": ap, "ap50": ap + 0.3, "ap75": ap + 0.1, "ap_of": {"a": ap}, "train_loss": 0.4}


@pytest.fixture
def commands(transfer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put results in the place of the commands, and note which were run."""
    ran: list[str] = []

    def run(command: str, content: Mapping[str, Any], folder: Path) -> None:
        ran.append(f"{command} {folder.name}")
        source = folder.with_suffix(".yml")
        source.write_text(yaml.safe_dump(dict(content)))
        resolved = (config if command == "search" else DETECT).load(source)
        arm, _, seed = folder.name.rpartition("_")
        space = {"name": "mixed", "arguments": {}}
        detection = None
        if command == "search":
            assert (resolved["search"]["seed"], resolved["search"]["cost_range"]) == (int(seed), [None, 4.4e6])
        else:
            assert (resolved["recipe"]["seed"], resolved["recipe"]["epochs"]) == (int(seed), 7)
            started = {"weights": "beside"} if arm == "weights" else {}
            name = "mobilenet_v3_small" if arm == "mobilenet" else str(folder.parent / f"search_{seed}")
            assert resolved["backbone"] == {"name": name, "arguments": started}
            detection = {"categories": ["a"], "anchor_scale": 2.0, "image_size": [64, 96], "backbone_macs": 5e6}
            detection["figures"] = figures(arm, int(seed))
        data = {"name": "folder", "arguments": {}, "fingerprint": "f"}
        best = Best(space, {}, 0.5, 1.0, "macs", data, int(seed), {}, detection=detection)
        folder.mkdir(exist_ok=True)
        best.save(folder / "best.json")

    monkeypatch.setattr(transfer, "nni_cream", run)
    monkeypatch.setattr(transfer, "run_jobs", in_turn)
    return ran


def in_turn(work: Any, jobs: Any, records: Any, workers: int, on_done: Any) -> None:
    for job in records.missing(jobs):
        records.add(job, work(records.shared, job.arguments))


def words(folder: Path, *more: str) -> list[str]:
    (folder / "images").mkdir(exist_ok=True)
    images = str(folder / "images")
    return ["--cells", images, "--cifar", images, "--out", str(folder / "out"), "--epochs", "7", *more]


def test_each_seed_has_its_search_and_three_detectors_and_a_table_of_paired_differences(
    transfer: ModuleType, commands: list[str], tmp_path: Path
) -> None:
    assert transfer.main(words(tmp_path, "--seeds", "0")) == 0
    assert commands == ["search search_0", *(f"detect train {arm}_0" for arm in ("weights", "new", "mobilenet"))]
    commands.clear()
    assert transfer.main(words(tmp_path, "--seeds", "0", "1")) == 0  # resumes
    assert commands == ["search search_1", *(f"detect train {arm}_1" for arm in ("weights", "new", "mobilenet"))]
    lines = (tmp_path / "out/detection_transfer.md").read_text().splitlines()
    rows = {cells[1].strip(): cells for cells in (line.split("|") for line in lines if line.startswith("| "))}
    first = rows["searched, weights of the search"]
    # Differences of 0.1 and 0.2: mean 0.15, and Student's t with one degree of freedom times 0.05.
    half = stats.t.ppf(0.975, 1) * 0.05
    assert first[-2].strip() == f"+0.150 [{0.15 - half:+.3f}, {0.15 + half:+.3f}]"
    assert rows["searched, new weights"][-2].strip() == ""
    assert "64 x 96 pixels" in lines[0]
    assert transfer.main(["--out", str(tmp_path / "out"), "--report"]) == 0
    assert (tmp_path / "out/detection_transfer.md").read_text().splitlines() == lines


def test_a_command_that_fails_ends_it_and_names_its_log(
    transfer: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "no images: $*"\nexit 3\n')
    python.chmod(0o755)
    monkeypatch.setattr(transfer.sys, "executable", str(python))
    monkeypatch.setattr(transfer, "run_jobs", in_turn)
    with pytest.raises(SystemExit, match=r"search.* failed; see .*search_0\.log"):
        transfer.main(words(tmp_path, "--seeds", "0"))
    log = (tmp_path / "out/search_0.log").read_text()
    assert log.startswith("no images: -m nni_cream search")


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--epochs", "0"], "--epochs, --workers or a seed is too small"),
        (["--cells", "nowhere"], "--cells is nowhere; expected a folder"),
        (["--out", "nothing", "--report"], "does not exist"),
    ],
)
def test_wrong_input_is_named(transfer: ModuleType, tmp_path: Path, more: list[str], problem: str) -> None:
    with pytest.raises(SystemExit, match=problem):
        transfer.main(words(tmp_path, *more))


def test_page_shows_the_table_of_its_records(transfer: ModuleType) -> None:
    head, *lines = map(json.loads, (PUBLISHED / "records.jsonl").read_text().splitlines())
    ran = {(line["arguments"]["arm"], line["arguments"]["seed"]) for line in lines}
    assert ran == {(arm, seed) for arm in transfer.ARMS for seed in (0, 1, 2)}
    assert (head["shared"]["epochs"], head["shared"]["limit"]) == (20, transfer.LIMIT)
    assert (PUBLISHED / "detection_transfer.md").read_text() == transfer.report(PUBLISHED / "records.jsonl")
