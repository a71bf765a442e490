"""The published networks: their counts against torch's and the paper's, and the names of their checkpoints."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from nni.mutable import Categorical
from nni.nas.space import model_context
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nni_cream import spaces
from nni_cream.errors import SpaceError

# As in the published code: the operation index of each block, the first and last blocks being fixed.
INDICES = {
    "cream-14": [[3], [3, 3], [3, 3], [3], [3]],
    "cream-43": [[3], [3, 1], [3, 1], [3, 3, 3], [3, 3]],
    "cream-114": [[3], [3, 3], [3, 3], [3, 3, 3], [3, 3]],
    "cream-287": [[3], [3, 3], [3, 1, 3], [3, 3, 3, 3], [3, 3, 3]],
    "cream-481": [[3, 4, 3, 1], [3, 2, 3, 0], [3, 3, 3, 1, 1], [3, 3, 3, 3], [3, 3, 3, 3]],
    "cream-604": [[3, 3, 2, 3, 3], [3, 2, 3, 2, 3], [3, 2, 3, 2, 3], [3, 3, 2, 2, 3, 3], [3, 3, 2, 3, 3, 3]],
}
every_network = pytest.mark.parametrize("name", INDICES)


def test_lists_all_six_by_size() -> None:
    assert spaces.list_networks() == list(INDICES)


@every_network
def test_counts_and_forward_at_its_own_resolution(name: str) -> None:
    published, network = spaces.published(name), spaces.create(name).eval()
    images = torch.zeros(1, 3, published.image_size, published.image_size)
    thop = count_as_thop(network)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert network(images).shape == (1, 1000)
    assert counter.get_total_flops() / 2 == published.macs
    assert sum(parameter.numel() for parameter in network.parameters()) == published.params
    # The authors counted with thop (microsoft/Cream, issue 35): 13.85, 42.41, 114.49, 287.20, 481.60, 604.34 million.
    # Within 1 %, but for the smallest two: 13.85 is what rounds to 14, and where the 43 comes from is not known.
    assert thop.total / 1e6 == pytest.approx(
        published.flops, rel={"cream-14": 0.011, "cream-43": 0.014}.get(name, 0.01)
    )


@pytest.mark.parametrize(("name", "millions"), [("cream-287", 6.0), ("cream-481", 7.7), ("cream-604", 9.7)])
def test_parameters_are_those_of_the_paper(name: str, millions: float) -> None:
    assert spaces.published(name).params / 1e6 == pytest.approx(millions, rel=0.01)


@every_network
def test_is_an_architecture_of_the_space(name: str) -> None:
    published = spaces.published(name)
    mutables = spaces.create("cream", **published.space["arguments"]).simplify()
    assert mutables.keys() == published.choices.keys()
    for label, value in published.choices.items():
        mutable = mutables[label]
        assert isinstance(mutable, Categorical)
        assert value in mutable.values


@every_network
def test_operations_are_the_published_indices_where_the_published_code_follows_them(name: str) -> None:
    operations = ["k3e4", "k3e6", "k5e4", "k5e6", "k7e4", "k7e6"]
    for stage, (indices, built) in enumerate(zip(INDICES[name], spaces.published(name).stages, strict=True), start=1):
        if len(indices) > 1:
            assert [operations[index] for index in indices] == list(built)
        else:  # what `choice_block_pool` of the published retrain.py says for this stage
            assert built == ({1: "k3e4", 4: "k3e6", 5: "k5e6"}[stage],)


@every_network
def test_reads_a_checkpoint_with_the_published_names(name: str) -> None:
    network = spaces.create(name)
    theirs = reference_state(name)
    renamed = spaces.from_published_checkpoint(theirs)
    network.load_state_dict(renamed)  # strict: every name and every shape
    assert len(renamed) == len(theirs)
    # Spot checks against the reference's own order of layers.
    state = network.state_dict()
    assert torch.equal(state["stages.1.0.depthwise.0.weight"], theirs["blocks.2.0.conv_dw.weight"])
    assert torch.equal(state["stages.1.0.project.1.running_var"], theirs["blocks.2.0.bn3.running_var"])
    assert torch.equal(state["first.project.1.weight"], theirs["blocks.0.0.bn2.weight"])
    assert torch.equal(state["features.0.weight"], theirs["conv_head.weight"].flatten(1))


def test_checkpoint_gives_the_logits_of_the_reference() -> None:
    # The reference's layers in their order, written with torch's functions on the checkpoint itself.
    network, state = spaces.create("cream-14").eval(), reference_state("cream-14")
    network.load_state_dict(spaces.from_published_checkpoint(state))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(
            network(images), reference_forward(state, images, INDICES["cream-14"]), rtol=1e-4, atol=1e-5
        )


def test_names_of_something_else_stay_as_they_are() -> None:
    names = ("layer1.0.conv1.weight", "blocks.1.0.conv_other.weight", "blocks.0.1.conv_dw.weight")
    state = {name: torch.zeros(1) for name in names}
    assert spaces.from_published_checkpoint(state).keys() == state.keys()


def test_takes_other_numbers_of_classes_and_channels() -> None:
    network = spaces.create("cream-14", num_classes=10, input_channels=1)
    assert network.eval()(torch.zeros(1, 1, 64, 64)).shape == (1, 10)


def test_unknown_names_and_arguments_are_explained() -> None:
    with pytest.raises(SpaceError, match=r"'cream-278'.*Did you mean 'cream-287'"):
        spaces.published("cream-278")
    with pytest.raises(SpaceError, match="Did you mean 'num_classes' for 'num_class'"):
        spaces.create("cream-14", num_class=10)
    with pytest.raises(SpaceError, match="Did you mean 'cream-14'"):
        spaces.create("cream-15")


def test_is_built_with_new_weights_each_time() -> None:
    torch.manual_seed(0)
    first = spaces.create("cream-14").state_dict()["stem.0.weight"]
    torch.manual_seed(0)
    with model_context(spaces.published("cream-14").choices):
        same = spaces.create("cream", **spaces.published("cream-14").space["arguments"]).state_dict()["stem.0.weight"]
    assert torch.equal(first, same)
    assert not torch.equal(first, spaces.create("cream-14").state_dict()["stem.0.weight"])


class _Thop:
    def __init__(self) -> None:
        self.total = 0.0


def count_as_thop(network: nn.Module) -> _Thop:
    """Count in the next forward pass what the package thop counts, layer by layer, for one image."""
    count = _Thop()

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            count.total += output.numel() * (module.weight[0].numel() + (module.bias is not None))
        elif isinstance(module, nn.Linear) and module is network.classifier:
            count.total += output.numel() * module.in_features
        elif isinstance(module, nn.Linear):  # a convolution with bias there
            count.total += output.numel() * (module.in_features + 1)
        elif isinstance(module, nn.BatchNorm2d):
            count.total += 2 * output.numel()
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            count.total += inputs[0].numel() + output.numel()
        elif module is network.head:  # averaged by torch.mean here, by a pooling layer there
            count.total += output.numel() + output.shape[1]

    for module in network.modules():
        module.register_forward_hook(add)  # type: ignore[arg-type]
    return count


def reference_layers(name: str) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """Yield the reference's layers: name, shape of the weight (one number for BatchNorm) and whether it has a bias."""
    kernels = [(kernel, expansion) for kernel in (3, 5, 7) for expansion in (4, 6)]
    defaults = [(3, 4), (5, 4), (3, 6), (3, 6), (5, 6)]

    def rounded(channels: float) -> int:
        return int(channels + 4) // 8 * 8

    yield from (("conv_stem", (16, 3, 3, 3), False), ("bn1", (16,), True))
    yield from (("blocks.0.0.conv_dw", (16, 1, 3, 3), False), ("blocks.0.0.bn1", (16,), True))
    yield from (("blocks.0.0.se.conv_reduce", (8, 16, 1, 1), True), ("blocks.0.0.se.conv_expand", (16, 8, 1, 1), True))
    yield from (("blocks.0.0.conv_pw", (16, 16, 1, 1), False), ("blocks.0.0.bn2", (16,), True))
    before = 16
    for stage, (width, indices) in enumerate(zip((24, 40, 80, 96, 192), INDICES[name], strict=True), start=1):
        for block, index in enumerate(indices):
            kernel, expansion = kernels[index] if len(indices) > 1 else defaults[stage - 1]
            place, inner = f"blocks.{stage}.{block}", before * expansion
            yield from ((f"{place}.conv_pw", (inner, before, 1, 1), False), (f"{place}.bn1", (inner,), True))
            yield from ((f"{place}.conv_dw", (inner, 1, kernel, kernel), False), (f"{place}.bn2", (inner,), True))
            squeezed = rounded(inner / 4)
            yield f"{place}.se.conv_reduce", (squeezed, inner, 1, 1), True
            yield f"{place}.se.conv_expand", (inner, squeezed, 1, 1), True
            yield from ((f"{place}.conv_pwl", (width, inner, 1, 1), False), (f"{place}.bn3", (width,), True))
            before = width
    yield from (("blocks.6.0.conv", (320, 192, 1, 1), False), ("blocks.6.0.bn1", (320,), True))
    yield from (("conv_head", (1280, 320, 1, 1), True), ("classifier", (1000, 1280), True))


def reference_state(name: str) -> dict[str, Tensor]:
    """Make up a checkpoint with the reference's names and shapes."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}
    for layer, shape, bias in reference_layers(name):
        scale = 1.0 if len(shape) == 1 else (2 / shape[1] / max(1, len(shape) - 1)) ** 0.5
        state[f"{layer}.weight"] = scale * torch.randn(shape, generator=generator)
        if bias:
            state[f"{layer}.bias"] = torch.randn(shape[0], generator=generator)
        if len(shape) == 1:
            state[f"{layer}.running_mean"] = torch.randn(shape, generator=generator)
            state[f"{layer}.running_var"] = 0.5 + torch.rand(shape, generator=generator)
            state[f"{layer}.num_batches_tracked"] = torch.tensor(1)
    return state


def reference_forward(state: dict[str, Tensor], images: Tensor, indices: list[list[int]]) -> Tensor:
    """Run the reference's order of layers: swish, hard sigmoid, pooling before the last convolution."""

    def conv(layer: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{layer}.weight"]
        groups = x.shape[1] if weight.shape[1] == 1 and x.shape[1] > 1 else 1
        return nn.functional.conv2d(
            x, weight, state.get(f"{layer}.bias"), stride, padding=weight.shape[-1] // 2, groups=groups
        )

    def norm(layer: str, x: Tensor) -> Tensor:
        mean, var = state[f"{layer}.running_mean"], state[f"{layer}.running_var"]
        return nn.functional.batch_norm(x, mean, var, state[f"{layer}.weight"], state[f"{layer}.bias"])

    def weigh(place: str, x: Tensor) -> Tensor:
        squeezed = conv(f"{place}.se.conv_reduce", x.mean((2, 3), keepdim=True)).relu()
        return x * nn.functional.relu6(conv(f"{place}.se.conv_expand", squeezed) + 3) / 6

    swish = nn.functional.silu
    x = swish(norm("bn1", conv("conv_stem", images, 2)))
    inner = weigh("blocks.0.0", swish(norm("blocks.0.0.bn1", conv("blocks.0.0.conv_dw", x))))
    x = x + norm("blocks.0.0.bn2", conv("blocks.0.0.conv_pw", inner))
    for stage, (blocks, stride) in enumerate(zip(indices, (2, 2, 2, 1, 2), strict=True), start=1):
        for block in range(len(blocks)):
            place = f"blocks.{stage}.{block}"
            inner = swish(norm(f"{place}.bn1", conv(f"{place}.conv_pw", x)))
            inner = swish(norm(f"{place}.bn2", conv(f"{place}.conv_dw", inner, 1 if block else stride)))
            out = norm(f"{place}.bn3", conv(f"{place}.conv_pwl", weigh(place, inner)))
            x = out + x if block else out
    x = swish(norm("blocks.6.0.bn1", conv("blocks.6.0.conv", x)))
    x = swish(conv("conv_head", x.mean((2, 3), keepdim=True))).flatten(1)
    return nn.functional.linear(x, state["classifier.weight"], state["classifier.bias"])
