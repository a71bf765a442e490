"""Weights from files that fit, that do not, and that are no such files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nni_cream.errors import FileError
from nni_cream.training import load_weights


def network(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width, 2))


def save(content: Any, tmp_path: Path) -> Path:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    return path


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": prefixed(state, "module."), "optimizer": {"lr": 0.1}},
        lambda state: {"state_dict": prefixed(state, "_orig_mod.")},
        lambda state: prefixed(state, "module._orig_mod."),
    ],
    ids=["plain", "nested", "data parallel", "compiled", "both"],
)
def test_weights_are_found_in_files_of_other_programs(wrap: Any, tmp_path: Path) -> None:
    trained, fresh = network(), network()
    assert not same(trained, fresh)
    load_weights(fresh, save(wrap(trained.state_dict()), tmp_path))
    assert same(trained, fresh)


def test_averaged_weights_win_over_the_last_ones(tmp_path: Path) -> None:
    last, average, fresh = network(), network(), network()
    content = {"state_dict": last.state_dict(), "state_dict_ema": average.state_dict()}
    load_weights(fresh, save(content, tmp_path))
    assert same(average, fresh)


def test_weights_of_another_architecture_are_listed_and_change_nothing(tmp_path: Path) -> None:
    other = {**network(5).state_dict(), "more.weight": torch.zeros(7, 7)}
    del other["3.bias"]
    target = network()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(FileError) as caught:
        load_weights(target, save(other, tmp_path))
    message = str(caught.value)
    assert "0.weight: 5x1x3x3 in the file, 4x1x3x3 in the network" in message
    assert "3.bias: missing in the file, the network's is 2" in message
    assert "9 of 10 entries differ" in message
    assert "and 4 more" in message
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())


def test_truncated_file_is_said_to_be_broken(tmp_path: Path) -> None:
    path = save(network().state_dict(), tmp_path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(FileError, match=r"weights\.pt: is broken or not a file of weights"):
        load_weights(network(), path)


def test_file_with_a_single_changed_bit_is_said_to_be_broken(tmp_path: Path) -> None:
    source = network()
    path = save(source.state_dict(), tmp_path)
    content = bytearray(path.read_bytes())
    content[content.index(source[0].weight.detach().numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"weights\.pt: is broken .*the checksum of .*data/0"):
        load_weights(network(), path)


@pytest.mark.parametrize("content", [b"", b"not weights at all\n" * 9], ids=["empty", "text"])
def test_file_of_something_else_is_said_to_be_no_weights(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(FileError, match="is broken or not a file of weights"):
        load_weights(network(), path)


class Payload:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("/tmp/nni_cream_payload"),))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
def test_nobody_is_told_to_load_what_is_not_weights_in_another_way(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps({"payload": Payload()}, protocol=4))
    with pytest.raises(FileError, match="is broken or not a file of weights") as caught:
        load_weights(network(), path)
    assert "weights_only" not in str(caught.value)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_pickled_payload_is_refused_and_never_run(writer: str, tmp_path: Path) -> None:
    content = {"state_dict": network().state_dict(), "payload": Payload()}
    path = tmp_path / "weights.pt"
    if writer == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(FileError, match=r"not loaded.*torch\.save\(network\.state_dict\(\), file\)"):
        load_weights(network(), path)
    assert not Path("/tmp/nni_cream_payload").exists()


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"none\.pt: there is no such file"):
        load_weights(network(), tmp_path / "none.pt")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3, "lr": 0.1}, {}])
def test_file_without_weights_says_what_it_holds(content: Any, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="expected a state_dict, or one under state_dict_ema"):
        load_weights(network(), save(content, tmp_path))
