"""The tables of docs/evidence.md are what their commands make of the records beside them."""

import json
import re
import shutil
from pathlib import Path

import pytest

from nni_cream import data
from nni_cream.cli import main
from nni_cream.errors import DataError
from tests.benchmarks.loaded import benchmark
from tests.real_data import real_data

pytestmark = pytest.mark.integration  # whole searches and trainings, small as they are

TABLE = "nas_bench_macro_cifar10.json"
ROOT = Path(__file__).parents[2]
EVIDENCE = ROOT / "docs/evidence"
PAGE = (ROOT / "docs/evidence.md").read_text()
COMMAND = re.compile(r"^nni-cream (.* --out docs/evidence/\S+)$", re.MULTILINE)
COMMANDS = [command.split() for command in COMMAND.findall(PAGE)]


@pytest.fixture(scope="module", autouse=True)
def fashion():
    try:
        data.create("fashion", train=10, validation=10)
    except DataError as error:
        pytest.skip(str(error))


def test_every_folder_of_results_has_its_command():
    shown = set(re.findall(r"^(?:nni-cream|python) .*--out docs/evidence/(\S+)", PAGE, re.MULTILINE))
    assert shown == {path.name for path in EVIDENCE.iterdir() if path.is_dir()}


def same(found, expected, where=""):
    """Compare JSON values, numbers to nine digits: sums may be rounded otherwise on another processor."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            same(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            same(one, other, f"{where}[{place}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12), where
    else:
        assert found == expected, where


def room_with_images(room, config):
    """Make a working folder that has the project's files, and CIFAR-10 where a configuration looks for it."""
    room.mkdir()
    for name in ("docs", "experiments"):
        (room / name).symlink_to(ROOT / name)
    if "root: out/cifar10" in (ROOT / config).read_text():
        (room / "out").mkdir()
        (room / "out/cifar10").symlink_to(real_data() / "cifar10")
    return room


def imported(out):
    """Import the accuracies of NAS-Bench-Macro, which are not part of the project, and return their file."""
    assert main(["study", "import-truth", "nas-bench-macro", str(real_data() / TABLE), "--out", str(out)]) == 0
    return str(out)


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words[:-2]))
def test_table_is_made_anew_from_its_records(words, tmp_path, monkeypatch):
    config = next(word for word in words if word.endswith(".yml"))
    monkeypatch.chdir(room_with_images(tmp_path / "room", config))
    folder, name = Path(words[words.index("--out") + 1]), Path(config).stem
    shutil.copytree(folder, tmp_path / "out")
    for path in (tmp_path / "out").glob(f"{name}*"):
        path.unlink()
    again = [str(tmp_path / "out") if word == str(folder) else word for word in words]
    if "--truth" in again and not Path(truth := again[again.index("--truth") + 1]).exists():
        again[again.index(truth)] = imported(tmp_path / "truth.json")
    assert main([*again, "--report"]) == 0
    found, expected = (json.loads((place / f"{name}.json").read_text()) for place in (tmp_path / "out", folder))
    assert expected["command"].startswith("nni-cream ")
    for content in (found, expected):  # who made them, and with what
        content.pop("command")
        content.pop("versions", None)
    same(found, expected)
    drawn, shown = ({path.name for path in place.glob(f"{name}*.png")} for place in (tmp_path / "out", folder))
    assert drawn == shown


def test_table_of_the_peers_is_made_anew_from_its_records(tmp_path):
    truth = imported(tmp_path / "truth.json")
    shutil.copy(EVIDENCE / "peers/records.jsonl", tmp_path)
    assert benchmark("peers").main(["--report", "--truth", truth, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "peers.md").read_text() == (EVIDENCE / "peers/peers.md").read_text()


@pytest.mark.parametrize(
    ("path", "architectures", "seeds"),
    [("truth/truth_fashion.json", 60, 3), ("pairs_truth/truth_fashion_pairs.json", 30, 2)],
)
def test_truth_is_reliable_enough_to_rank_by(path, architectures, seeds):
    truth = json.loads((EVIDENCE / path).read_text())
    assert truth["complete"] is True
    assert truth["reliability"] >= 0.9
    assert len(truth["architectures"]) >= architectures
    assert len(truth["seeds"]) >= seeds
