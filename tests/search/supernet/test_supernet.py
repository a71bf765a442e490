from __future__ import annotations

import random

import nni
import numpy as np
import pytest
import torch
from nni.nas.nn.pytorch import Cell, LayerChoice, ModelSpace, Repeat
from torch import nn

from nni_cream import CreamStrategy
from nni_cream.errors import SpaceError
from nni_cream.search import RandomPaths, Supernet
from nni_cream.spaces import DigitsSpace
from tests.search.small import SPACES, LayerSpace, ValueSpace, conv, supernet


def state_of(net) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.space.state_dict().items()}


def trained_a_little(net) -> None:
    """Give BatchNorm running statistics that are not the initial ones."""
    sampler = RandomPaths(net.space, seed=11)
    net.space.train()
    with torch.no_grad():
        for _ in range(5):
            net.activate(sampler.draw())
            net.space(torch.randn(8, 1, 8, 8))


@pytest.mark.parametrize("name", SPACES)
def test_a_path_of_the_supernet_equals_the_frozen_network(name):
    torch.manual_seed(0)
    net = supernet(SPACES[name]())
    trained_a_little(net)
    sampler, x = RandomPaths(net.space, seed=1), torch.randn(4, 1, 8, 8)
    net.space.eval()
    for _ in range(20):
        path = sampler.draw()
        net.activate(path)
        with torch.no_grad():
            torch.testing.assert_close(net.freeze(path).eval()(x), net.space(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", SPACES)
def test_a_frozen_network_shares_no_weight_with_the_supernet(name):
    net = supernet(SPACES[name]())
    frozen = net.freeze(RandomPaths(net.space).draw())
    before = state_of(net)
    with torch.no_grad():
        for parameter in frozen.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(before[name], value) for name, value in net.space.state_dict().items())


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("training", [True, False])
def test_running_detached_changes_no_tensor_no_mode_and_no_generator(name, training):
    net = supernet(SPACES[name]())
    net.space.train(training)
    net.activate(RandomPaths(net.space).draw())
    before, modes = state_of(net), [module.training for module in net.space.modules()]
    generators = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())  # noqa: NPY002
    with net.detached():
        net.space(torch.randn(4, 1, 8, 8))
        random.random()
        np.random.rand()  # noqa: NPY002
    assert all(torch.equal(before[key], value) for key, value in net.space.state_dict().items())
    assert [module.training for module in net.space.modules()] == modes
    assert torch.equal(generators[0], torch.get_rng_state())
    assert (generators[1] == np.random.get_state()[1]).all()  # noqa: NPY002
    assert generators[2] == random.getstate()


def test_detached_normalises_with_the_statistics_of_the_batch():
    torch.manual_seed(0)
    net = supernet(LayerSpace())
    trained_a_little(net)
    path, x = RandomPaths(net.space).draw(), torch.randn(16, 1, 8, 8)
    net.activate(path)
    with net.detached():
        detached = net.space(x)
    training = net.freeze(path).train()
    for module in training.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    with torch.no_grad():
        torch.testing.assert_close(detached, training(x))


def test_detached_ends_cleanly_on_an_error():
    net = supernet(LayerSpace())
    with pytest.raises(RuntimeError, match="boom"), net.detached():
        raise RuntimeError("boom")
    assert net.space.training
    assert all(module.track_running_stats for module in net.space.modules() if isinstance(module, nn.BatchNorm2d))


def test_gradients_are_recorded_only_on_request():
    net = supernet(LayerSpace())
    net.activate(RandomPaths(net.space).draw())
    with net.detached():
        assert not net.space(torch.randn(2, 1, 8, 8)).requires_grad
    with net.detached(grad=True):
        assert net.space(torch.randn(2, 1, 8, 8)).requires_grad


@pytest.mark.parametrize("factory", [False, True])
def test_a_cell_that_joins_loose_ends_joins_all_nodes_in_every_network_and_says_so(factory, caplog):
    class Loose(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            made = {"id": lambda *_: nn.Identity(), "conv": lambda *_: nn.Conv2d(1, 1, 3, padding=1)}
            operations = made if factory else [nn.Identity(), nn.Conv2d(1, 1, 3, padding=1)]
            self.cell = Cell(operations, num_nodes=3, merge_op="loose_end", label="cell")
            self.head = nn.Linear(len(self.cell.output_node_indices), 10)

        def forward(self, x):
            return self.head(self.cell([x]).mean((2, 3)))

    strategy = CreamStrategy(board_size=1)
    net = Supernet(strategy.mutate_model(Loose()))
    assert "merge_op='loose_end'" in caplog.text
    images, paths = torch.randn(2, 1, 8, 8), RandomPaths(net.space)
    for _ in range(5):
        path = paths.draw()
        net.activate(path)
        frozen, rebuilt = net.freeze(path), strategy.build(Loose, lambda space, path=path: path)
        rebuilt.load_state_dict(frozen.state_dict())
        assert frozen.head.in_features == 3
        torch.testing.assert_close(frozen(images), net.space(images))
        torch.testing.assert_close(rebuilt(images), net.space(images))


def test_a_choice_inside_the_operations_of_a_cell_is_frozen_too():
    class Nested(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            inner = LayerChoice({"a": nn.Conv2d(1, 1, 1), "b": nn.Conv2d(1, 1, 3, padding=1)}, label="inner")
            self.cell = Cell(
                [lambda *_: nn.Conv2d(1, 1, 1), lambda *_: nn.Identity()],
                num_nodes=1,
                preprocessor=_First(inner),
                label="cell",
            )

        def forward(self, x):
            return self.cell([x])

    net, x = supernet(Nested()), torch.randn(2, 1, 4, 4)
    sampler = RandomPaths(net.space, seed=2)
    for _ in range(8):
        path = sampler.draw()
        net.activate(path)
        torch.testing.assert_close(net.freeze(path)(x), net.space(x))


class _First(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs):
        return [self.inner(inputs[0])]


def test_freezing_a_cell_builds_no_operation_and_keeps_the_factory():
    built = []

    def operation(kernel):
        def make(node, index, source):
            built.append(kernel)
            return nn.Conv2d(2, 2, kernel, padding=kernel // 2)

        return make

    class Space(ModelSpace):
        def __init__(self):
            super().__init__()
            self.cell = Cell([operation(1), operation(3), operation(5)], 2, 2, label="cell")

        def forward(self, x):
            return self.cell([x])

    net = supernet(Space())
    built.clear()
    numbers = torch.get_rng_state()
    cell = net.freeze(RandomPaths(net.space, seed=0).draw()).cell
    assert not built
    assert torch.equal(torch.get_rng_state(), numbers)
    assert [type(operation) for node in cell.ops for operation in node] == [nn.Conv2d] * 4
    assert len(cell.op_candidates_factory) == 3


def test_values_of_a_frozen_network_have_their_own_shapes():
    net = supernet(ValueSpace())
    network = net.freeze({"width": 4, "kernel": 3, "depth": 2, "hidden": 12})
    assert network.conv.weight.shape == (4, 1, 3, 3)
    assert len(network.blocks) == 2
    assert network.hidden.out_features == 12


class Counting(nn.Module):
    """A layer that counts its calls in a buffer, one half of the time by a new tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("total", torch.zeros(1))
        self.register_buffer("nothing", None)

    def forward(self, x):
        self.calls += 1
        self.total = self.total + float(x.mean())
        return x


class Host(nn.Module):
    """What runs a space, with layers and randomness of its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.count = Counting()
        self.before = nn.Sequential(nn.BatchNorm2d(1), nn.InstanceNorm2d(1, track_running_stats=True))
        self.after = nn.Sequential(nn.BatchNorm1d(10), nn.Dropout(0.5))

    def forward(self, x):
        if self.training:
            x = x + torch.randn_like(x)
        noise = torch.rand(()) + random.random() + np.random.rand()  # noqa: NPY002
        return self.after(self.model(self.before(self.count(x)))) + noise


def test_layers_around_the_space_leave_no_trace_and_give_the_same_each_time():
    torch.manual_seed(0)
    net = supernet(LayerSpace())
    host = Host(net.space)
    net = Supernet(net.space, host)
    net.activate(RandomPaths(net.space).draw())
    before = {name: value.clone() for name, value in host.state_dict().items()}
    tensors = [id(value) for value in host.state_dict(keep_vars=True).values()]
    x = torch.randn(8, 1, 8, 8)
    outputs = []
    for _ in range(3):
        generators = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())  # noqa: NPY002
        with net.detached():
            outputs.append(host(x))
        assert torch.equal(generators[0], torch.get_rng_state())
        assert (generators[1] == np.random.get_state()[1]).all()  # noqa: NPY002
        assert generators[2] == random.getstate()
        torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    assert all(torch.equal(before[name], value) for name, value in host.state_dict().items())
    assert tensors == [id(value) for value in host.state_dict(keep_vars=True).values()]
    assert all(module.training for module in host.modules())


def test_a_graph_that_holds_a_buffer_can_still_be_run_backwards():
    class Scaled(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model
            self.register_buffer("scale", torch.ones(1))

        def forward(self, x):
            return self.model(x) * self.scale

    net = supernet(LayerSpace())
    host = Scaled(net.space)
    net = Supernet(net.space, host)
    net.activate(RandomPaths(net.space).draw())
    loss = host(torch.randn(4, 1, 8, 8)).sum()
    with net.detached():
        host(torch.randn(4, 1, 8, 8))
    loss.backward()


@pytest.mark.parametrize("name", ["layers", "values"])  # a cell builds itself anew
def test_freezing_copies_what_was_chosen_and_nothing_else(name, monkeypatch):
    net = supernet(SPACES[name]())
    path = RandomPaths(net.space, seed=1).draw()
    copied: list[nn.Parameter] = []
    plain = nn.Parameter.__deepcopy__

    def noted(self, memo):
        copied.append(self)
        return plain(self, memo)

    monkeypatch.setattr(nn.Parameter, "__deepcopy__", noted)
    frozen = net.freeze(path)
    monkeypatch.undo()
    assert sum(weight.numel() for weight in copied) <= 2 * sum(weight.numel() for weight in frozen.parameters())
    own = {weight.data_ptr() for weight in net.space.parameters()}
    assert not own & {weight.data_ptr() for weight in frozen.parameters()}
    assert not any("__deepcopy__" in vars(tensor) for tensor in [*net.space.parameters(), *net.space.buffers()])


def test_a_depth_of_none_is_refused_with_its_labels():
    class Shallow(LayerSpace):
        def __init__(self, depth):
            super().__init__()
            self.more = Repeat(lambda index: conv(8, 3, 8), depth, label="more")

    for depth in ((0, 2), nni.choice("more", [2, 0])):
        with pytest.raises(SpaceError, match=r"depth 'more' .* 0"):
            supernet(Shallow(depth))
    supernet(Shallow((1, 2)))


def test_a_space_that_was_not_mutated_is_refused_rather_than_always_running_its_first_candidates() -> None:
    with pytest.raises(SpaceError, match=r"DigitsSpace as it was written.*mutate_model"):
        Supernet(DigitsSpace())
