from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nni_cream import spaces
from nni_cream.errors import FileError, SpaceError
from nni_cream.results.architecture_file import Best, load_best
from nni_cream.results.board_file import board_file, known_choices, load_board
from nni_cream.results.rebuilt_network import build_network, export_weights
from nni_cream.search import BoardEntry, PrioritizedBoard
from nni_cream.versions import versions

CHOICES = {f"layer_{number}": "conv_3x3" for number in range(1, 8)}


@pytest.fixture
def best() -> Best:
    return Best(
        space={"name": "digits", "arguments": {}},
        choices=CHOICES,
        accuracy=0.9,
        cost=343_536.0,
        cost_name="macs",
        data={"name": "digits", "arguments": {}, "fingerprint": "f"},
        seed=3,
        versions=versions(),
    )


def board() -> PrioritizedBoard:
    board = PrioritizedBoard(3)
    for accuracy, operation in ((0.5, "identity"), (0.7, "conv_3x3")):
        board.offer(BoardEntry({"layer_1": operation}, accuracy, 10.0, 4))
    return board


def test_saved_architecture_is_read_again_unchanged(tmp_path: Path, best: Best) -> None:
    retrained = replace(best, retrained={"validation_accuracy": 0.95, "test_accuracy": 0.94})
    for architecture in (best, retrained, replace(best, score=0.85)):
        architecture.save(tmp_path / "best.json")
        assert load_best(tmp_path / "best.json") == architecture
        assert load_best(tmp_path) == architecture


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"format": "nni_cream.best/2"},
            "format is 'nni_cream.best/2'; expected 'nni_cream.best/1', which this version of nni_cream reads",
        ),
        ({"format": "other"}, "format is 'other'; expected 'nni_cream.best/1'"),
        ({"format": None}, "format is None; expected 'nni_cream.best/1'"),
        ({"choices": []}, r"choices is \[\]; expected an object"),
        ({"choices": {"layer_1": {}}}, "choices.layer_1 is {}; expected a finite number, a text, true, false or null"),
        ({"accuracy": "high"}, "accuracy is 'high'; expected a finite number. Name the output folder of a finished"),
        ({"accuracy": True}, "accuracy is True"),
        ({"cost": float("inf")}, "cost is inf; expected a finite number"),
        ({"cost": 10**400}, "cost is 1000"),
        ({"data": {"name": "digits", "arguments": {"x": [float("nan")]}}}, r"data\.arguments\.x\[0\] is nan"),
        ({"space": {"arguments": {}}}, "space.name is missing; expected a text"),
        ({"retrained": 3}, "retrained is 3; expected an object with validation_accuracy, test_accuracy"),
    ],
)
def test_broken_or_foreign_architecture_is_refused_with_path_and_key(
    tmp_path: Path, best: Best, change: dict[str, Any], problem: str
) -> None:
    path = tmp_path / "best.json"
    path.write_text(json.dumps({**best.to_json(), **change}))
    with pytest.raises(FileError, match=problem) as caught:
        load_best(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"format": []}'])
def test_file_that_is_no_architecture_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "best.json").write_text(text)
    with pytest.raises(FileError, match=r"best\.json"):
        load_best(tmp_path)


def test_missing_architecture_says_when_it_will_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is missing; expected a chosen architecture"):
        load_best(tmp_path)


def test_network_is_built_without_a_checkpoint_and_holds_the_choices_alone(best: Best) -> None:
    network = build_network(best)
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    space = spaces.create("digits")
    frozen = space.freeze(CHOICES)
    assert network.state_dict().keys() == frozen.state_dict().keys()


def test_architecture_of_another_space_is_refused(best: Best) -> None:
    with pytest.raises(SpaceError, match="layer_9"):
        build_network(replace(best, choices={"layer_9": "conv_3x3"}))


def test_exported_weights_give_the_network_its_outputs(tmp_path: Path, best: Best) -> None:
    network = build_network(best).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    export_weights(best, tmp_path, tmp_path / "copy.pt")
    rebuilt = build_network(best).eval()
    rebuilt.load_state_dict(torch.load(tmp_path / "copy.pt", weights_only=True))
    images = torch.randn(4, 1, 8, 8)
    assert torch.equal(rebuilt(images), network(images))


def test_weights_that_do_not_fit_are_not_exported(tmp_path: Path, best: Best) -> None:
    other = build_network(replace(best, choices={**CHOICES, "layer_1": "identity"}))
    torch.save(other.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(FileError, match="expected the weights of this architecture"):
        export_weights(best, tmp_path, tmp_path / "copy.pt")
    (tmp_path / "weights.pt").write_bytes(b"no weights")
    with pytest.raises(FileError, match="not a file of weights"):
        export_weights(best, tmp_path, tmp_path / "copy.pt")
    assert not (tmp_path / "copy.pt").exists()


def test_missing_weights_are_named(tmp_path: Path, best: Best) -> None:
    with pytest.raises(FileError, match="there are no weights"):
        export_weights(best, tmp_path, tmp_path / "copy.pt")


EFFECTS = {"problem": None, "effects": {"layer": [{"value": "conv", "gain": 0.1, "std": 0.02}]}}


def test_board_file_is_read_by_the_table_and_by_the_board_itself(tmp_path: Path) -> None:
    (tmp_path / "board.json").write_text(json.dumps(board_file(board(), "macs", 7, EFFECTS)))
    saved = load_board(tmp_path)
    assert saved.cost_name == "macs"
    assert saved.epoch == 7
    assert list(saved.entries) == board().to_json()["entries"]
    assert known_choices(saved, tmp_path) == EFFECTS
    again = PrioritizedBoard.from_json(json.loads((tmp_path / "board.json").read_text()))
    assert again.entries == board().entries


@pytest.mark.parametrize(
    ("choices", "reason"), [(None, "earlier version"), ({"problem": "8 training steps are few", "effects": {}}, "few")]
)
def test_choices_that_are_not_known_are_an_error_with_the_reason(
    tmp_path: Path, choices: dict[str, Any] | None, reason: str
) -> None:
    content = board_file(board(), "macs", 7, EFFECTS) | {"choices": choices}
    if choices is None:
        del content["choices"]
    (tmp_path / "board.json").write_text(json.dumps(content))
    with pytest.raises(FileError, match=f"{reason}.*; expected a search that says so"):
        known_choices(load_board(tmp_path), tmp_path)


def test_board_format_is_that_of_the_board() -> None:
    assert board().to_json()["format"] == "nni_cream.board/1"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": "nni_cream.board/9"}, "this version of nni_cream reads"),
        ({"entries": {}}, "entries is {}; expected a list"),
        ({"entries": [3]}, r"entries\[0\] is 3; expected an object with path, accuracy, cost, step"),
        ({"entries": [{"path": {}, "accuracy": "x", "cost": 1, "step": 1}]}, r"entries\[0\]\.accuracy is 'x'"),
        ({"cost_name": None}, "cost_name is None"),
        ({"choices": {"problem": None, "effects": {"a": [{"value": "b", "gain": "x", "std": 1}]}}}, r"gain is 'x'"),
    ],
)
def test_broken_or_foreign_board_is_refused_with_path_and_key(
    tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    path = tmp_path / "board.json"
    path.write_text(json.dumps({**board_file(board(), "macs", 7, EFFECTS), **change}))
    with pytest.raises(FileError, match=problem) as caught:
        load_board(path)
    assert str(path) in str(caught.value)
