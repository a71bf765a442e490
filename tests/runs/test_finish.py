from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import accuracy_score

from nni_cream import config, data
from nni_cream.errors import FileError
from nni_cream.results.architecture_file import load_best
from nni_cream.results.board_file import load_board
from nni_cream.results.rebuilt_network import build_network
from nni_cream.runs import finish
from nni_cream.runs.search_run import run_search

pytestmark = pytest.mark.integration  # whole searches and trainings, small as they are

SPACE = {"name": "digits", "channels": [8, 8], "operations": ["conv_3x3", "mbconv_k3e2", "conv_1x1"]}


def configuration(**changed: Any) -> dict[str, Any]:
    return config.resolve(
        {
            "space": SPACE,
            "data": {"name": "digits", "train": 200, "validation": 100},
            "search": {
                "epochs": 2, "board_size": 5, "warmup": 0, "batch_size": 50, "ema_decay": 0.8,
                "scoring": {"images": 20, "recalibration_images": 100},
            },
            "trainer": {"accelerator": "cpu", "threads": 1},
            **changed,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_search(configuration(), tmp_path_factory.mktemp("finished") / "out").out


def contents(folder: Path) -> dict[str, Any]:
    """Return the JSON of all files that the end of a search writes, and their weights as lists."""
    names = ("best.json", "board.json", "weights.pt", "pareto/*")
    files = [path for name in names for path in sorted(folder.glob(name))]
    return {
        str(path.relative_to(folder)): json.loads(path.read_text())
        if path.suffix == ".json"
        else {name: value.tolist() for name, value in torch.load(path, weights_only=True).items()}
        for path in files
    }


def accuracy_of(architecture: Path, weights: Path) -> float:
    network = build_network(load_best(architecture))
    network.load_state_dict(torch.load(weights, weights_only=True))
    images, labels = data.create("digits", train=200, validation=100).validation.tensors  # type: ignore[attr-defined]
    with torch.no_grad():
        return float(accuracy_score(labels, network.eval()(images).argmax(1)))


def test_the_chosen_weights_have_the_accuracy_that_the_file_says(out: Path) -> None:
    best = load_best(out)
    assert accuracy_of(out / "best.json", out / "weights.pt") == pytest.approx(best.accuracy)
    entries = load_board(out).entries
    assert best.choices == entries[0]["path"]
    assert (best.accuracy, best.score) == (entries[0]["validated"], entries[0]["accuracy"])
    assert all(entry["validated"] <= best.accuracy for entry in entries)


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_weights_have_single_precision_whatever_they_were_trained_in(precision: str, tmp_path: Path) -> None:
    trainer = {"accelerator": "cpu", "threads": 1, "precision": precision}
    out = run_search(configuration(trainer=trainer), tmp_path / "out").out
    for file in (out / "weights.pt", *(out / "pareto").glob("*.pt")):
        weights = torch.load(file, weights_only=True).values()
        assert {value.dtype for value in weights if value.is_floating_point()} == {torch.float32}
    assert accuracy_of(out / "best.json", out / "weights.pt") == pytest.approx(load_best(out).accuracy, abs=0.03)


def test_the_pareto_front_is_a_folder_of_networks_cheapest_first(out: Path) -> None:
    files = sorted((out / "pareto").glob("*.json"))
    assert [path.name for path in files] == [f"{number:02d}.json" for number in range(1, len(files) + 1)]
    front = [load_best(path) for path in files]
    for path, one in zip(files, front, strict=True):
        assert accuracy_of(path, path.with_suffix(".pt")) == pytest.approx(one.accuracy)
    figures = [(entry["cost"], -entry["validated"]) for entry in load_board(out).entries]
    unbeaten = [
        one
        for one in figures
        if not any(other != one and other[0] <= one[0] and other[1] <= one[1] for other in figures)
    ]
    assert [(one.cost, -one.accuracy) for one in front] == sorted(unbeaten)
    assert front[-1] == load_best(out)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("last_written", ["board.json", "01.pt", "weights.pt"])
def test_a_search_killed_in_its_final_validation_ends_as_the_undisturbed_one(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last_written: str
) -> None:
    def killed_after(name: str, function: Any) -> Any:
        def write(path: Path, *arguments: Any) -> None:
            function(path, *arguments)
            if path.name == name:
                raise Killed

        return write

    for name in ("write_json", "_save_weights"):
        monkeypatch.setattr(finish, name, killed_after(last_written, getattr(finish, name)))
    with pytest.raises(Killed):
        run_search(configuration(), tmp_path / "out")
    monkeypatch.undo()
    assert not (tmp_path / "out" / "best.json").exists()
    run_search(configuration(), tmp_path / "out", resume=True)
    assert contents(tmp_path / "out") == contents(out)


def test_how_images_are_loaded_may_change_on_a_resume(out: Path) -> None:
    assert run_search(configuration(loader={"prefetch": 5}), out, resume=True).best == load_best(out)


def test_a_front_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "pareto").write_text("in the way")
    with pytest.raises(FileError, match=r"pareto: cannot be written: File exists"):
        finish._save_front(tmp_path / "pareto", [], torch.zeros(2, 1, 8, 8))
