"""Where a network has its feature maps, against what the authors of torchvision's networks say of them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models._utils import IntermediateLayerGetter

from nni_cream import spaces
from nni_cream.detection.feature_levels import FeatureLevel, cut_to_levels, find_levels
from nni_cream.errors import SpaceError
from nni_cream.spaces.zoo import build_published

# The maps that torchvision's own detectors take, or would take by the rule of their backbones: the output of the last
# block or stage before the size is halved. Expected: stride -> module.
KNOWN = {
    "resnet18": {4: "layer1", 8: "layer2", 16: "layer3", 32: "layer4"},
    "mobilenet_v2": {8: "features.6", 16: "features.13", 32: "features"},
    "mobilenet_v3_small": {8: "features.3", 16: "features.8", 32: "features"},
    "efficientnet_b0": {8: "features.3", 16: "features.5", 32: "features"},
    "regnet_y_400mf": {8: "trunk_output.block2", 16: "trunk_output.block3", 32: "trunk_output"},
    "shufflenet_v2_x0_5": {8: "stage2", 16: "stage3", 32: "conv5"},
    "convnext_tiny": {4: "features.1", 8: "features.3", 16: "features.5", 32: "features"},
    "densenet121": {8: "features.denseblock2", 16: "features.denseblock3", 32: "features"},
    "googlenet": {8: "inception3b", 16: "inception4e", 32: "inception5b"},
}


@pytest.mark.parametrize("name", KNOWN)
def test_levels_of_torchvisions_networks(name: str) -> None:
    network = models.get_model(name, weights=None)
    found = {level.stride: level.name for level in find_levels(network)}
    assert {stride: found.get(stride) for stride in KNOWN[name]} == KNOWN[name]
    levels = [level for level in find_levels(network) if level.stride >= 8]
    maps = cut_to_levels(network.eval(), levels)(torch.zeros(2, 3, 96, 160))
    assert {key: tuple(value.shape) for key, value in maps.items()} == {
        str(place): (2, level.channels, 96 // level.stride, 160 // level.stride) for place, level in enumerate(levels)
    }


def test_maps_of_the_cut_network_are_those_within_the_whole_one() -> None:
    network = models.resnet18(weights=None).eval()
    oracle = IntermediateLayerGetter(network, {"layer2": "0", "layer3": "1", "layer4": "2"})
    images = torch.randn(2, 3, 64, 96)
    cut = cut_to_levels(network, [level for level in find_levels(network) if level.stride >= 8])
    with torch.no_grad():
        for key, value in oracle(images).items():
            torch.testing.assert_close(cut(images)[key], value, rtol=0, atol=0)
    names = {name for name, _ in cut.named_parameters()}
    assert not any(name.startswith("fc.") for name in names)  # what comes after the last map is gone


@pytest.mark.parametrize("name", spaces.list_networks())
def test_published_networks_have_five_levels_at_the_ends_of_their_stages(name: str) -> None:
    levels = find_levels(build_published(name))
    assert [(level.stride, level.name) for level in levels] == [
        (2, "first"), (4, "stages.0"), (8, "stages.1"), (16, "stages.3"), (32, "head")
    ]  # fmt: skip


def test_modes_weights_and_random_numbers_stay_as_they_were() -> None:
    network = build_published("cream-14").train()
    network.features[2].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    find_levels(network)
    assert torch.rand(1) == expected
    assert network.training
    assert not network.features[2].training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


class Wide(nn.Module):
    """Swaps channels and rows, so that a map of its might be taken for one of another size."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 24, 16, stride=16)
        self.last = nn.Linear(24, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        rows = self.first(images).permute(0, 2, 3, 1)  # 24 x 32 x 24 for the probe
        return self.last(rows).mean(dim=(1, 2))


def test_map_with_its_channels_last_is_none_of_the_levels() -> None:
    assert find_levels(Wide()) == [FeatureLevel("first", 16, 24)]
    assert [level.name for level in find_levels(models.swin_t(weights=None))] == ["features.0.0", "permute"]


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(3)), "does not take an image of 3 x 384 x 512"),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), "Expected a network for images of any size"),
    ],
)
def test_network_that_does_not_take_such_images_is_refused(network: nn.Module, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        find_levels(network)


class Fickle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2, stride=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images if images.sum() > 0 else -images)


def test_network_that_depends_on_values_cannot_be_cut() -> None:
    network = nn.Sequential(Fickle(), nn.Flatten())
    with pytest.raises(SpaceError, match=r"cannot be cut after 0 .*that torch.fx can trace"):
        cut_to_levels(network, find_levels(network))
