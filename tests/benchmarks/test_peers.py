"""The comparison with peers: what it does with records, failures and wrong input, and nni_cream's own part, reduced."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nni_cream.studies.truths.truth import Truth
from tests.benchmarks.loaded import benchmark

RESULT = {
    "choice": {}, "multiply_adds": 39e6, "search_cpu_seconds": 61.0, "steps": 250, "training_images": 10_000
}  # fmt: skip


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    return benchmark("peers")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image folder of two classes, one dark and one light."""
    folder, noise = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, number in (("train", 80), ("test", 8)):
        for name, light in (("dark", 40), ("light", 200)):
            (folder / part / name).mkdir(parents=True)
            for place in range(number):
                pixels = noise.integers(light - 40, light + 40, (32, 32, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{place}.png")
    return folder


def run(peers: ModuleType, images: Path, out: Path, *more: str) -> int:
    words = ["--data", str(images), "--out", str(out), "--seconds", "60", "--epochs", "1", "--seeds", "0", "1"]
    found: int = peers.main([*words, *more])
    return found


def test_lines_of_a_user_are_those_between_the_marks_without_blanks_and_comments(peers: ModuleType) -> None:
    text = "import a\n# user: begin\nx = 1\n\n    # why\n    y = 2  # what\n# user: end\nz = 3\n# user: begin\nw\n"
    assert peers.count_lines(text) == 3
    assert all(peers.lines_of(name) > 0 for name in peers.PEERS)


def test_records_are_resumed_failures_kept_and_differences_paired(
    peers: ModuleType, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[tuple[str, int]] = []

    def fake(pythons: Any, out: Path, task: Any, arguments: Any) -> dict[str, Any]:
        peer, seed = arguments["peer"], arguments["seed"]
        ran.append((peer, seed))
        assert task["limit"] == 40e6
        assert task["data"] == str(images)  # as given
        if peer == "nni_enas":
            return {"error": "it | broke"}
        return {**RESULT, "test_accuracy": {"cream": 0.8, "nni_darts": 0.7}[peer] + 0.01 * seed}

    monkeypatch.setattr(peers, "environment", lambda folder, packages: Path(sys.executable))
    monkeypatch.setattr(peers, "run_peer", fake)
    assert run(peers, images, tmp_path / "out", "--peers", "cream") == 0
    assert run(peers, images, tmp_path / "out", "--peers", "cream", "nni_darts", "nni_enas") == 0
    assert ran == [("cream", 0), ("cream", 1), *((peer, seed) for seed in (0, 1) for peer in ("nni_darts", "nni_enas"))]
    assert peers.main(["--out", str(tmp_path / "out"), "--report"]) == 0
    assert len(ran) == 6
    table = (tmp_path / "out" / "peers.md").read_text()
    cream, enas, darts = (
        next(line for line in table.splitlines() if name in line) for name in ("| nni_", "ENAS", "DARTS")
    )
    assert "0.8050 [" in cream
    assert "-0.1000" in darts
    assert "| 39.0 | 61 | 250 |" in darts
    assert "0 (2 failed) | failed: it / broke" in enas


def test_regret_is_measured_from_the_best_network_within_the_limit(peers: ModuleType, tmp_path: Path) -> None:
    def record(peer: str, choice: Any) -> str:
        result = {**RESULT, "choice": choice, "test_accuracy": 0.7}
        return json.dumps({"arguments": {"peer": peer, "seed": 0}, "result": result})

    macs = {"small": 10e6, "middle": 39e6, "large": 41e6}
    truth = Truth(
        {}, {}, {}, (0, 1), tuple({"layer_1": name} for name in macs),
        ({0: 0.5, 1: 0.7}, {0: 0.75, 1: 0.65}, {0: 0.9, 1: 0.9}), tuple(macs.values()), {},
    )  # fmt: skip
    records = tmp_path / "records.jsonl"
    head = json.dumps({"shared": {"data": "images", "seconds": 60, "epochs": 1, "limit": 40e6}})
    choices = {"cream": {"layer_1": "middle"}, "nni_darts": {"layer_1": "small"}, "mobilenet_v3_small": 0.5}
    records.write_text("\n".join([head, *(record(*item) for item in choices.items())]) + "\n")
    assert "regret" not in peers.report(records)
    text = peers.report(records, truth)
    assert "2 networks of the truth are within the limit, with a mean regret of 5.00." in text
    # From 0.75 to 0.95 of the limit the small one is alone, from 1.05 on the large one is the best.
    assert "The largest network has 0.00, and 0.00 as the mean of 11 limits" in text
    assert peers.regret_of_largest(replace(truth, macs=(39e6, 39e6, 41e6)), 40e6) == pytest.approx(5)
    last = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in text.splitlines() if "|" in line}
    shown = [last[peers.PEERS[name].title] for name in choices]
    assert shown == ["0.00", "10.00", ""]
    with pytest.raises(SystemExit, match="--truth has no network within 5 multiply-adds; expected nas-bench-macro"):
        peers.truth_within(truth, 5)


def test_a_peer_that_fails_is_a_record_with_its_last_words(
    peers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "SCRIPTS", tmp_path)
    pythons, task = {"nni": Path(sys.executable)}, {"data": "images"}
    (tmp_path / "cream.py").write_text("import sys\nprint('first')\nsys.exit('no such thing')\n")
    assert peers.run_peer(pythons, tmp_path, task, {"peer": "cream", "seed": 0}) == {"error": "no such thing"}
    (tmp_path / "cream.py").write_text("")
    assert peers.run_peer(pythons, tmp_path, task, {"peer": "cream", "seed": 0}) == {"error": "exit code 0"}
    (tmp_path / "cream.py").write_text(
        "import json, pathlib, sys\n"
        "task = json.loads(pathlib.Path(sys.argv[1]).read_text())\n"
        "pathlib.Path(sys.argv[2]).write_text(json.dumps(task))\n"
    )
    found = peers.run_peer(pythons, tmp_path, task, {"peer": "cream", "seed": 3})
    assert found == {"seed": 3, "data": str(Path("images").resolve())}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "nowhere"], "--data is nowhere; expected a folder of images with train and test"),
        ([], "--data is None"),
        (["--peers", "creme"], "--peers is creme; expected some of cream"),
        (["--seconds", "0"], "--seconds, --epochs, --workers or a seed is too small"),
        (["--report"], "does not exist; expected the records of a run"),
        (["--report", "--truth", "none.json"], "none.json"),
    ],
)
def test_wrong_input_is_one_clear_line(peers: ModuleType, tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as raised:
        peers.main(["--out", str(tmp_path / "out"), *words])
    assert message in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_packages_that_cannot_be_had_are_told(
    peers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_pip_of_this_python(folder: Path, **options: Any) -> None:
        (folder / "bin").mkdir(parents=True)
        (folder / "bin/python").symlink_to(sys.executable)

    monkeypatch.setattr(peers.venv, "create", with_pip_of_this_python)
    with pytest.raises(SystemExit, match=r"pip cannot install into .* Is there a network\?"):
        peers.environment(tmp_path / "venv", ["-e", str(tmp_path / "nowhere")])


@pytest.mark.parametrize(
    ("costs", "runs", "steps", "used"),
    [
        ((1.0,), 4, 540, 540),
        ((1.5, 1.5), 5, 360, 540),  # a neighbour came: the training counts that kept the time
        ((1.5, 1.0, 1.0), 6, 540, 540),  # and went again
        ((1.05,), 4, 540, 567),
        ((1.5, 1.0, 1.5), 6, 540, 810),  # no further try: what was used is told
    ],
)
def test_training_that_misses_its_time_is_repeated_and_does_not_count(
    peers: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    costs: tuple[float, ...],
    runs: int,
    steps: int,
    used: float,
) -> None:
    monkeypatch.syspath_prepend(str(peers.SCRIPTS))
    task, now, lengths = importlib.import_module("peer_task"), [0.0], []
    monkeypatch.setattr(task.time, "process_time", lambda: now[0])

    def train(epochs: int, steps: int) -> str:
        lengths.append(epochs * steps)
        now[0] += lengths[-1] * (1, 1, 1, *costs)[len(lengths) - 1]
        return f"training {len(lengths)}"

    job = task.Job("", 600.0, 1, 0, 40e6)
    job.images = SimpleNamespace(train=range(64 * 10_000))
    assert job.spend(train, 0.9) == f"training {runs}"
    assert len(lengths) == runs
    assert (lengths[-1], job.steps) == (steps, steps)
    assert job.used() == pytest.approx(used)


@pytest.mark.integration
def test_network_of_a_search_within_seconds_is_within_the_limit(
    peers: ModuleType, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(peers.SCRIPTS))
    monkeypatch.delitem(sys.modules, "cream", raising=False)
    task, own = importlib.import_module("peer_task"), importlib.import_module("cream")
    monkeypatch.setattr(task, "SCORED", 32)
    monkeypatch.setattr(task, "BATCH", 16)
    job = task.Job(data=str(images), seconds=1.5, epochs=1, seed=0, limit=peers.LIMIT, stretch=3)
    found = task.run(job, own.search, own.build)
    assert 0 < found["multiply_adds"] <= peers.LIMIT
    assert found["multiply_adds"] == task.multiply_adds(own.build(found["choice"]))
    assert 0 <= found["test_accuracy"] <= 1
    assert json.loads(json.dumps(found)) == found
    assert found["search_cpu_seconds"] > 0
    assert found["steps"] >= 1
    with pytest.raises(SystemExit, match="expected at most 1,000,000"):
        task.run(task.Job(str(images), 4.0, 1, 0, 1e6), lambda job: found["choice"], own.build)
