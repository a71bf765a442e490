"""What a path costs is what its output depends on: a branch that no chosen input leads to costs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from nni.nas.nn.pytorch import Cell, InputChoice, LayerChoice, ModelSpace
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nni_cream.export import write_formats
from nni_cream.search.cost.cost_model import CostModel
from nni_cream.search.supernet.live import live_parameters, without_dead_branches
from tests.search.small import conv, supernet


class Attention(nn.Module):
    """A branch with products of its own, beyond those of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Conv2d(4, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.project(x).flatten(2).chunk(3, dim=1)
        return (value @ (query.transpose(1, 2) @ key).softmax(-1)).reshape(x.shape)


class Branches(ModelSpace):
    """A cheap and a dear branch, both computed, of which one is taken."""

    def __init__(self, dear: type[nn.Module] | None = None) -> None:
        super().__init__()
        self.stem = LayerChoice([nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 3, padding=1)], label="stem")
        self.cheap = nn.Conv2d(4, 4, 1)
        self.dear = nn.Sequential(conv(4, 5, 16), conv(16, 5, 4)) if dear is None else dear()
        self.taken = InputChoice(2, 1, label="taken")
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.taken([self.cheap(x), self.dear(x)]).mean((2, 3)))


def alone(frozen: Any, branch: str, images: Tensor) -> tuple[int, int]:
    """Return multiply-adds and parameters of a network that has this branch and no other."""
    parts = [frozen.stem, getattr(frozen, branch), nn.AdaptiveAvgPool2d(1), nn.Flatten(), frozen.head]
    network = nn.Sequential(*parts).eval()
    with FlopCounterMode(display=False) as counter:
        network(images[:1])
    return counter.get_total_flops() // 2, sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize("dear", [None, Attention])
@pytest.mark.parametrize(("index", "branch"), [(0, "cheap"), (1, "dear")])
@pytest.mark.parametrize("stem", [0, 1])
def test_costs_are_those_of_the_branch_that_is_taken(dear: Any, index: int, branch: str, stem: int) -> None:
    images = torch.randn(2, 1, 8, 8)
    net = supernet(Branches(dear))
    path = {"stem": net.mutables["stem"].values[stem], "taken": [index]}
    macs, params = alone(net.freeze(path), branch, images)
    assert CostModel(net, (images,), "macs")(path) == macs
    assert CostModel(net, (images,), "params")(path) == params


def test_input_of_a_cell_that_no_node_takes_costs_nothing() -> None:
    class Cells(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 5, padding=2)
            operations = {"conv": lambda *_: nn.Conv2d(4, 4, 1), "skip": lambda *_: nn.Identity()}
            self.cell = Cell(operations, num_nodes=1, num_ops_per_node=1, num_predecessors=2, label="cell")
            self.head = nn.Linear(4, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell([self.first(x), self.second(x)]).mean((2, 3)))

    net, images = supernet(Cells()), torch.randn(2, 1, 8, 8)
    macs, params = CostModel(net, (images,), "macs"), CostModel(net, (images,), "params")
    for source, kernel in ((0, 3), (1, 5)):
        path = {"cell/op_2_0": "skip", "cell/input_2_0": [source]}
        assert macs(path) == 64 * 4 * kernel**2 + 40
        assert params(path) == 4 * kernel**2 + 4 + 50


def test_work_on_a_buffer_and_on_a_part_of_a_tensor_counts_where_it_is_read_later() -> None:
    class Written(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.layer = LayerChoice([nn.Linear(8, 8), nn.Linear(8, 8, bias=False)], label="layer")
            self.part, self.unread = nn.Linear(8, 4), nn.Linear(8, 100)

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(x)
            self.unread(x)
            whole = torch.zeros(len(x), 8)
            whole[:, :4] = self.part(x)
            whole.mul_(2)
            return whole

    net = supernet(Written())
    assert CostModel(net, (torch.randn(2, 8),), "macs")({"layer": net.mutables["layer"].values[0]}) == 8 * 8 + 8 * 4


@pytest.mark.integration
@pytest.mark.parametrize("dear", [None, Attention])
def test_what_is_exported_holds_and_runs_the_branch_that_is_taken_alone(dear: Any, tmp_path: Path) -> None:
    import onnx

    images = torch.randn(3, 1, 8, 8)
    net = supernet(Branches(dear))
    path = {"stem": net.mutables["stem"].values[0], "taken": [0]}
    network = net.freeze(path).eval()
    smaller = without_dead_branches(network, images)
    torch.testing.assert_close(smaller(images), network(images), rtol=0, atol=0)
    assert set(smaller.state_dict()) == live_parameters(network, images) < set(network.state_dict())
    write_formats(smaller, images, tmp_path, ["code", "onnx", "torch"])
    code = (tmp_path / "network.py").read_text(encoding="utf-8")
    assert "Conv2d(4, 4, 1)" in code
    assert "Conv2d(4, 16" not in code
    assert "Conv2d(4, 12" not in code
    weights = onnx.load(tmp_path / "network.onnx").graph.initializer
    assert sum(torch.Size(item.dims).numel() for item in weights if item.data_type == 1) <= 106


def test_network_without_dead_branches_comes_back_itself() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    assert without_dead_branches(network, torch.randn(2, 4)) is network


class Gated(ModelSpace):
    """A frozen stem, and a gate that decides by comparison, as plain number or as array: none has a gradient."""

    def __init__(self, decide: Any) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.gate = nn.Linear(4, 2)
        self.layer = LayerChoice([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)], label="layer")
        self.taken = InputChoice(2, 1, label="taken")
        self.head = nn.Linear(4, 10)
        self.decide = decide

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.stem(x)
        x = x * self.decide(self.gate(x.mean((2, 3))))
        return self.head(self.taken([x, self.layer(x)]).mean((2, 3)))


@pytest.mark.parametrize(
    "decide",
    [
        lambda logits: (logits.argmax(1) == 0)[:, None, None, None],
        lambda logits: 2 if logits[0].argmax().item() else 1,
        lambda logits: 2 if logits.tolist()[0][0] > 0 else 1,
        lambda logits: torch.from_numpy(logits.numpy(force=True))[:, :1, None, None],
    ],
)
def test_what_has_no_gradient_but_decides_the_output_costs_what_it_computes(decide: Any) -> None:
    net, images = supernet(Gated(decide)), torch.randn(2, 1, 8, 8)
    macs, params = CostModel(net, (images,), "macs"), CostModel(net, (images,), "params")
    for layer, weights in zip(net.mutables["layer"].values, (4 * 4, 4 * 4 * 9), strict=True):
        # By hand: 64 pixels of the convolutions, one vector of gate and head.
        assert macs({"layer": layer, "taken": [0]}) == 64 * 4 * 9 + 4 * 2 + 4 * 10
        assert macs({"layer": layer, "taken": [1]}) == 64 * (4 * 9 + weights) + 4 * 2 + 4 * 10
        assert params({"layer": layer, "taken": [0]}) == (4 * 9 + 4) + (4 * 2 + 2) + (4 * 10 + 10)
        assert params({"layer": layer, "taken": [1]}) == (4 * 9 + 4) + (4 * 2 + 2) + (4 * 10 + 10) + weights + 4


def test_tensor_of_which_only_the_shape_is_read_costs_nothing() -> None:
    class Shaped(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.unread = nn.Linear(8, 8)
            self.layer = LayerChoice([nn.Linear(8, 8), nn.Linear(8, 8, bias=False)], label="layer")
            self.taken = InputChoice(1, 1, label="taken")

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.taken([torch.ones_like(self.unread(x))]) * x)

    net, images = supernet(Shaped()), torch.randn(2, 8)
    path = {"layer": net.mutables["layer"].values[0], "taken": [0]}
    assert CostModel(net, (images,), "macs")(path) == 64
    assert CostModel(net, (images,), "params")(path) == 72
