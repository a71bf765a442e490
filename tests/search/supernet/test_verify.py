"""The supernet's path, the frozen network and the rebuilt network are one, or the space is refused by name."""

from __future__ import annotations

import warnings
from typing import Any

import nni
import pytest
import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, MutableBatchNorm2d, MutableConv2d, MutableLinear
from nni.nas.space import model_context
from torch import Tensor, nn
from torch.ao import quantization
from torch.nn.utils import prune

from nni_cream import CreamStrategy
from nni_cream.errors import SpaceError
from nni_cream.search import RandomPaths, Supernet
from nni_cream.search.cost.cost_model import CostModel
from nni_cream.search.supernet.verify import Inputs, same_network, verify
from tests.search.small import SPACES, LayerSpace, conv, cream, evaluator, run, supernet


class Rebuilding(LayerSpace):
    """A freeze as NNI's error text advises: the network is built again, with new weights."""

    def freeze(self, sample: Any) -> nn.Module:
        with model_context(sample):
            return Rebuilding()


class Shrinking(LayerSpace):
    """A freeze that leaves a layer out."""

    def freeze(self, sample: Any) -> nn.Module:
        frozen: Any = super().freeze(sample)
        frozen.layers = frozen.layers[:3]
        return frozen


class Asking(LayerSpace):
    """Its forward behaves differently inside a supernet, which the frozen network does not."""

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = super().forward(x)
        return logits * 2 if any(type(item).__name__ == "PathSamplingLayer" for item in self.layers) else logits


class Silent(LayerSpace):
    """Behaves differently inside a supernet only in a branch that starts as nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = super().forward(x)
        inside = any(type(item).__name__ == "PathSamplingLayer" for item in self.layers)
        return logits + self.factor * logits.square() if inside else logits


class Growing(LayerSpace):
    """The number of its calls is kept outside of its state."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        Growing.calls += 1
        return super().forward(x) + Growing.calls


class Normalised(ModelSpace):
    """A candidate with the old weight norm, which cannot be copied once it has run."""

    def __init__(self, norm: Any = nn.utils.weight_norm) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.layer = LayerChoice([norm(nn.Linear(64, 8)), norm(nn.Linear(64, 8, bias=False))], label="layer")
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.layer(x.flatten(1))))


def check(space: ModelSpace, make: Any = None, seed: int = 0) -> None:
    strategy = CreamStrategy(board_size=1)
    net = Supernet(strategy.mutate_model(space))
    paths = RandomPaths(space, seed)
    rebuild = None if make is None else lambda path: strategy.build(make, lambda made: path)
    verify(net, Inputs((torch.randn(4, 1, 8, 8),), {}), [paths.draw() for _ in range(3)], rebuild)


@pytest.mark.parametrize("name", SPACES)
def test_spaces_of_every_primitive_pass(name: str) -> None:
    check(SPACES[name](), SPACES[name])


def test_space_whose_freeze_builds_it_anew_keeps_the_weights_of_the_supernet() -> None:
    space = Rebuilding()
    net = supernet(space)
    path = RandomPaths(space, 1).draw()
    net.activate(path)
    frozen, images = net.freeze(path).eval(), torch.randn(3, 1, 8, 8)
    space.eval()
    torch.testing.assert_close(frozen(images), space(images))
    ours = {id(item) for item in net.view(path).parameters()}
    assert ours <= {id(item) for item in space.parameters()}
    check(Rebuilding(), Rebuilding)


def test_parameters_of_a_space_whose_freeze_builds_it_anew_are_those_of_the_path() -> None:
    class Anew(LayerSpace):  # a class that no other test has frozen yet
        def freeze(self, sample: Any) -> nn.Module:
            with model_context(sample):
                return Anew()

    net = supernet(Anew())
    path = RandomPaths(net.space, 2).draw()
    cost = CostModel(net, (torch.randn(2, 1, 8, 8),), "params")
    assert cost(path) == sum(weight.numel() for weight in net.freeze(path).parameters())


@pytest.mark.integration
def test_models_that_nni_lists_have_the_weights_of_the_supernet_whatever_the_space_freezes() -> None:
    strategy = run(Rebuilding(), cream(board_size=2, warmup=0, seed=0))
    (model,) = strategy.list_models()
    network, images = model.executable_model().eval(), torch.randn(3, 1, 8, 8)
    Supernet(strategy.supernet).activate(dict(model.sample))
    strategy.supernet.eval()
    torch.testing.assert_close(network(images), strategy.supernet(images))


@pytest.mark.parametrize(
    ("space", "problem"),
    [
        (Shrinking, "the frozen network gives other outputs than the supernet's path in evaluation mode"),
        (Asking, "they differ by .* of .*, first at the whole network"),
        (Silent, "the frozen network gives other outputs than the supernet's path in evaluation mode"),
        (Growing, "gives other outputs"),
    ],
)
def test_a_difference_is_refused_with_its_size_and_its_place(space: type[ModelSpace], problem: str) -> None:
    with pytest.raises(SpaceError, match=problem):
        check(space(), space)


def test_change_after_construction_that_no_file_can_hold_is_told_by_its_module(caplog: Any) -> None:
    space = LayerSpace()
    space.stem[1].eps = 0.01  # type: ignore[index, assignment]
    check(space, LayerSpace)
    assert "module 'stem.1' is BatchNorm2d(8, eps=0.01" in caplog.text
    assert "inside the __init__" in caplog.text


def test_head_of_another_size_is_told_by_its_weights(caplog: Any) -> None:
    space = LayerSpace()
    space.head = nn.Linear(8, 4)
    check(space, LayerSpace)
    assert "do not fit the rebuilt network" in caplog.text
    assert "size mismatch for head.weight" in caplog.text


class Uncopied(nn.Linear):
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("cannot pickle a lock")


def test_module_that_cannot_be_copied_is_refused_by_its_name() -> None:
    with pytest.raises(SpaceError, match=r"cannot be copied, at module 'layer': TypeError: cannot pickle a lock"):
        check(Normalised(lambda layer: Uncopied(64, 8)))


@pytest.mark.parametrize(
    "norm",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
    ],
)
def test_layers_that_compute_their_weights_are_copied_after_they_have_run(norm: Any) -> None:
    check(Normalised(norm), lambda: Normalised(norm))


class Hooked(LayerSpace):
    """A hook of its own keeps features of the stem, as class activation maps need them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem.register_forward_hook(self.keep)

    def keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.features = output

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.features.mean()


def test_hook_of_the_space_writes_to_the_frozen_network() -> None:
    space = Hooked()
    check(space)
    path = RandomPaths(space, 0).draw()
    frozen = Supernet(space).freeze(path)
    (hook,) = frozen.stem._forward_hooks.values()
    assert hook.__self__ is frozen


class Charging(nn.Module):
    """A neuron that keeps its charge as a plain attribute."""

    def __init__(self, resets: bool) -> None:
        super().__init__()
        self.resets, self.charge = resets, torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        self.charge = x if self.resets else self.charge * 0.5 + x
        return torch.sigmoid(self.charge)


class Spiking(LayerSpace):
    def __init__(self, resets: bool) -> None:
        super().__init__()
        self.stem.append(Charging(resets))


def test_state_outside_of_buffers_is_refused_by_its_module() -> None:
    check(Spiking(resets=True))
    with pytest.raises(SpaceError, match=r"when it runs again on the same input: .* first at module 'stem.3'"):
        check(Spiking(resets=False))


class Overwriting(LayerSpace):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sub_(0.5))


def test_forward_that_changes_its_input_is_refused() -> None:
    with pytest.raises(SpaceError, match="forward changes its input in place"):
        check(Overwriting())


class Spectral(nn.Module):
    """A layer with complex weights, as in Fourier neural operators."""

    def __init__(self, modes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(modes, dtype=torch.cfloat))

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x.flatten(1), n=64)[:, : len(self.weight)] * self.weight


class Fourier(LayerSpace):
    def __init__(self, shift: complex) -> None:
        super().__init__()
        self.spectral, self.shift = Spectral(3), shift

    def forward(self, x: Tensor) -> Tensor:
        supernet = any(type(item).__name__ == "PathSamplingLayer" for item in self.layers)
        return self.spectral(super().forward(x)) + self.shift * supernet


@pytest.mark.filterwarnings("error:Casting complex values to real")
def test_complex_outputs_and_gradients_are_compared() -> None:
    check(Fourier(0))
    with pytest.raises(SpaceError, match="frozen network gives other outputs"):
        check(Fourier(0.1j))


class Tracking(nn.Module):
    """A normalisation of one's own, such as timm's EvoNorm, with a running variance."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("variance", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.variance.lerp_(x.detach().var(), 0.1)
        return x / self.variance.clone().sqrt()


def test_running_values_that_all_paths_share_are_told_once(caplog: Any) -> None:
    space = LayerSpace()
    space.stem.append(Tracking())
    net = Supernet(CreamStrategy(board_size=1).mutate_model(space))
    for seed in range(2):
        verify(net, Inputs((torch.randn(4, 1, 8, 8),), {}), [RandomPaths(space, seed).draw()])
    assert [record.message for record in caplog.records if "running values" in record.message] == [
        "Modules 'stem.3' (Tracking) keep running values while they train, which all paths share. Scores and results "
        "use this mixture. Only BatchNorm and InstanceNorm get statistics of each path: use these, or a normalisation "
        "without running values."
    ]


class OwnNorm(nn.BatchNorm2d):
    """A BatchNorm of the user's, which gets statistics of each path as any other."""


class Widths(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        width = nni.choice("width", [4, 8])
        self.layer = nn.Sequential(MutableConv2d(1, width, 3), MutableBatchNorm2d(width), MutableConv2d(width, 4, 3))
        self.norm = OwnNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x)).mean(dim=(2, 3))


def test_normalisations_of_a_class_of_ones_own_and_of_several_widths_are_not_told_of(caplog: Any) -> None:
    space = Widths()
    net = Supernet(CreamStrategy(board_size=1).mutate_model(space))
    verify(net, Inputs((torch.randn(4, 1, 8, 8),), {}), [RandomPaths(net.space, 0).draw()])
    assert "running values" not in caplog.text


class Constrained(nn.Linear):
    """A limit on the norm of the weights, as in networks for EEG."""

    def __init__(self, inplace: bool) -> None:
        super().__init__(64, 8)
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        if self.inplace:
            with torch.no_grad():
                self.weight.clamp_(-0.1, 0.1)
        else:
            self.weight.data = torch.renorm(self.weight.data, p=2, dim=0, maxnorm=0.1)
        return super().forward(x)


def test_forward_that_changes_weights_in_place_is_refused_by_their_name() -> None:
    check(Normalised(lambda layer: Constrained(inplace=False)))
    with pytest.raises(SpaceError, match=r"forward changes the weight 'layer.\d.weight' in place"):
        check(Normalised(lambda layer: Constrained(inplace=True)))


def quantised(layer: nn.Module) -> nn.Module:
    observed = quantization.FakeQuantize(quantization.MovingAverageMinMaxObserver, quant_min=0, quant_max=255)
    each = quantization.MovingAveragePerChannelMinMaxObserver
    return nn.Sequential(observed, layer, quantization.FakeQuantize(each, quant_min=0, quant_max=255, ch_axis=1))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_observers_that_take_their_size_from_the_first_batch_pass(caplog: Any) -> None:
    check(Normalised(quantised), lambda: Normalised(quantised))
    assert "No file can hold" not in caplog.text


def test_nothing_of_the_supernet_has_changed_afterwards() -> None:
    space = LayerSpace()
    nn.init.zeros_(space.stem[1].weight)  # type: ignore[index, arg-type]
    net = supernet(space)
    space.stem.eval()
    before = {name: item.clone() for name, item in space.state_dict().items()}
    modes = [module.training for module in space.modules()]
    verify(net, Inputs((torch.randn(4, 1, 8, 8),), {}), [RandomPaths(space, 0).draw()])
    assert [module.training for module in space.modules()] == modes
    assert all(item.grad is None for item in space.parameters())
    for name, item in space.state_dict().items():
        torch.testing.assert_close(item, before[name], rtol=0, atol=0)


def test_networks_that_count_differently_are_refused() -> None:
    class Twice(nn.Module):
        def __init__(self, times: int) -> None:
            super().__init__()
            self.layer, self.times = nn.Linear(4, 4), times

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(self.times):
                y = self.layer(x)
            return y

    with pytest.raises(SpaceError, match=r"the rebuilt network computes .* operations"):
        same_network(Twice(1), Twice(2), Inputs((torch.randn(2, 4),), {}), {"a": 1})


@pytest.mark.integration
def test_search_checks_the_space_before_its_first_step() -> None:
    steps: list[int] = []

    class Watched(Shrinking):
        def forward(self, x: Tensor) -> Tensor:
            steps.append(len(x))
            return super().forward(x)

    with pytest.raises(SpaceError, match="other outputs"):
        run(Watched(), cream(board_size=2, warmup=0), evaluator())
    assert 32 not in steps  # the size of a training batch


@pytest.mark.integration
def test_space_with_a_width_is_rebuilt_with_its_weights() -> None:
    class Wide(ModelSpace):
        def __init__(self, widths: tuple[int, ...] = (4, 8)) -> None:
            super().__init__()
            width = nni.choice("width", list(widths))
            self.stem = conv(1, 3, 6)
            self.hidden, self.head = MutableLinear(6, width), MutableLinear(width, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.hidden(self.stem(x).mean((2, 3)))))

    strategy = run(Wide((2, 4, 6)), cream(board_size=2, warmup=0, seed=1))
    assert strategy.board.capacity == 2
