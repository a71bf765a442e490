from __future__ import annotations

import ast
from collections import OrderedDict
from typing import Any

import pytest
import torch
from nni.nas.hub.pytorch import MobileNetV3Space, ProxylessNAS
from nni.nas.nn.pytorch import MutableConv2d, MutableLinear
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d, StochasticDepth

from nni_cream.errors import ExportError
from nni_cream.export import network_code
from nni_cream.export.expressions import flat
from nni_cream.export.layers import layer_code
from nni_cream.spaces import CreamSpace, DigitsSpace
from tests.export.networks import CellSpace, drawn, imported, settled


def rebuilt(network: nn.Module, images: Tensor) -> nn.Module:
    """Export a network as code, run the code, and put the network's weights in."""
    copy: nn.Module = imported(network_code(network, images, "A network of the tests.")).build()
    assert list(copy.state_dict()) == list(network.state_dict())
    copy.load_state_dict(network.state_dict())
    return copy.eval()


def check_same(network: nn.Module, images: Tensor) -> None:
    settled(network)
    copy = rebuilt(network, images)
    with torch.no_grad():
        expected = network(images)
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(copy(images), expected, rtol=0, atol=1e-5)


SPACES: dict[str, tuple[Any, dict[str, Any], tuple[int, ...]]] = {
    "digits": (DigitsSpace, {}, (1, 8, 8)),
    "cell and input choice": (CellSpace, {}, (1, 8, 8)),
    "cream": (CreamSpace, {"num_classes": 5, "image_size": 32, "depths": [1] * 5}, (3, 32, 32)),
    "NNI's ProxylessNAS": (
        ProxylessNAS,
        {"num_labels": 5, "base_widths": (8,) * 9},
        (3, 32, 32),
    ),
    "NNI's MobileNetV3": (
        MobileNetV3Space,
        {"num_labels": 5, "base_widths": (16,) * 9, "width_multipliers": (0.5, 1.0), "depth_range": (1, 2)},
        (3, 32, 32),
    ),
}


@pytest.mark.integration
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", SPACES)
def test_code_computes_what_an_architecture_of_the_space_computes(name: str, seed: int) -> None:
    space, arguments, shape = SPACES[name]
    check_same(drawn(space, seed, **arguments), torch.randn(2, *shape))


def test_code_imports_torch_alone_and_is_the_same_each_time() -> None:
    images = torch.randn(2, 1, 8, 8)
    first, second = (network_code(drawn(DigitsSpace, 3), images, "A network.") for _ in range(2))
    assert first == second
    roots = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(first))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert roots == {"__future__", "pathlib", "torch"}
    assert max(map(len, first.splitlines())) <= 88


def test_blocks_that_differ_in_their_layers_alone_share_a_class() -> None:
    choices = {f"layer_{number}": "mbconv_k3e2" if number % 2 else "mbconv_k5e4" for number in range(1, 8)}
    code = network_code(DigitsSpace().freeze(choices), torch.randn(2, 1, 8, 8), "A network.")
    classes = [node.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ClassDef)]
    assert classes == ["MBConv", "DigitsSpace"]
    assert code.count("MBConv(\n") == 7


class Everything(nn.Module):
    """What authors of spaces do besides calling one layer after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.register_buffer("shift", torch.zeros(4, 1, 1))
        self.register_buffer("table", torch.tensor([0.5, 1.5, 2.5, 3.5]), persistent=False)
        self.conv = MutableConv2d(1, 4, (3, 5), padding=(1, 2), padding_mode="reflect")
        self.named = nn.Sequential(OrderedDict(first=nn.Conv2d(4, 4, 1, groups=2), then=nn.PReLU(4)))
        self.choices = nn.ModuleDict({"one": nn.GroupNorm(2, 4), "two": nn.GELU(approximate="tanh")})
        self.split = Split()
        self.norm = FrozenBatchNorm2d(4)
        self.drop = StochasticDepth(0.5, "row")
        self.auxiliary = nn.Sequential(nn.Linear(4, 9), Negative())
        self.classifier = MutableLinear(4, 3)

    def forward(self, input: Tensor, skip: Tensor | None = None, *, factor: float = 2.0) -> Tensor:
        x = self.conv(input) * self.scale + self.shift
        x = F.relu_(self.named(x))
        for choice in self.choices.values():
            x = choice(x)
        if self.training:
            return self.auxiliary(x.mean(dim=(2, 3)))
        first, second = self.split(x, parts=[x, {"more": -x}])
        x = torch.cat([first[:, :2], second[:, 2:]], dim=1) ** 2 / factor
        x = self.drop(self.norm(x))
        x = x.permute(0, 2, 3, 1) * self.table
        x = x.view(x.size(0), -1, x.shape[-1]).mean(1)
        return self.classifier(F.dropout(x, 0.5, self.training))


class Split(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x: Tensor, parts: list[Any]) -> tuple[Tensor, Tensor]:
        assert isinstance(parts, list)
        return x * self.weight, parts[0] - parts[1]["more"]


class Negative(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -x


def test_parameters_buffers_lists_and_heads_that_only_training_uses_are_kept() -> None:
    network = Everything()
    check_same(network, torch.randn(3, 1, 8, 8))
    copy = rebuilt(network, torch.randn(3, 1, 8, 8))
    assert {name for name, weight in copy.named_parameters() if not weight.requires_grad} == {"split.weight"}


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, (1, 3), stride=(1, 2), padding="valid", dilation=(1, 2), groups=2, bias=False),
        nn.ConvTranspose2d(4, 2, 3, stride=2, output_padding=1),
        nn.BatchNorm2d(4, eps=1e-3, momentum=None, affine=False),
        nn.BatchNorm2d(4, momentum=0.01, track_running_stats=False),
        nn.LayerNorm([4, 8, 8], elementwise_affine=False),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.AdaptiveMaxPool2d((2, None)),
        nn.AvgPool2d((2, 1), stride=(1, 2), count_include_pad=False),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Hardtanh(-2.0, 3.0),
        nn.Upsample(scale_factor=2.0, mode="bilinear"),
        nn.ZeroPad2d((1, 0, 2, 0)),
        nn.Linear(8, 3, bias=False),
        nn.Threshold(0.1, float("inf")),
        nn.Sequential(),
    ],
    ids=str,
)
def test_layer_is_made_with_the_arguments_that_it_has(layer: nn.Module) -> None:
    images = torch.randn(2, 4, 8, 8)
    copy = rebuilt(nn.Sequential(layer), images)
    assert repr(copy[0]) == repr(layer)
    torch.testing.assert_close(copy(images.clone()), nn.Sequential(layer).eval()(images.clone()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("layer", "code"),
    [
        (nn.LSTM(8, 3, 2, proj_size=2), "nn.LSTM(8, 3, num_layers=2, proj_size=2)"),
        (nn.GRU(8, 3, batch_first=True, bidirectional=True), "nn.GRU(8, 3, batch_first=True, bidirectional=True)"),
        (nn.RNN(8, 3, nonlinearity="relu", bias=False), 'nn.RNN(8, 3, bias=False, nonlinearity="relu")'),
    ],
)
def test_recurrent_layer_is_made_with_the_arguments_that_it_has(layer: nn.Module, code: str) -> None:
    assert flat(layer_code(layer, "layer")) == code


class ByValue(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.sum() > 0 else x


class Assigns(ByValue):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x[:, 0] = 0
        return x


class OwnTensor(ByValue):
    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.ones(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.factor


class Shared(ByValue):
    def __init__(self) -> None:
        super().__init__()
        self.again = self.conv

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.conv(x))


class TwoWays(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = Optional()

    def forward(self, x: Tensor) -> Tensor:
        return self.part(self.part(x), x)


class Optional(ByValue):
    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.conv(x) if y is None else self.conv(x + y)


class Changed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


@pytest.mark.parametrize(
    ("part", "problem"),
    [
        (ByValue(), r"module '0' \(ByValue\).*must not depend on the values"),
        (Assigns(), r"module '0' \(Assigns\)"),
        (OwnTensor(), r"module '0' \(OwnTensor\).*neither an input nor a parameter or buffer"),
        (Shared(), "'0.conv.weight' and '0.again.weight' are one and the same tensor"),
        (TwoWays(), "module '0.part' is called in two ways"),
        (Changed(), "module '0.linear'"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_module_that_has_no_code_is_named_with_a_way_out(part: nn.Module, problem: str) -> None:
    with pytest.raises(ExportError, match=problem) as caught:
        network_code(nn.Sequential(part), torch.randn(2, 1, 4, 4), "A network.")
    assert "onnx or torch" in str(caught.value)


def test_export_leaves_the_network_as_it_was() -> None:
    network = settled(Everything()).train()
    network.norm.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    attributes = set(vars(network))
    network_code(network, torch.randn(3, 1, 8, 8), "A network.")
    assert network.training
    assert not network.norm.training
    assert set(vars(network)) == attributes
    assert not network._forward_hooks
    torch.testing.assert_close(dict(network.state_dict()), before, rtol=0, atol=0)
