from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import nni
import nni.nas.hub.pytorch as hub
import nni.nas.nn.pytorch as layers
import pytest
import torch
from nni.mutable import MutableList
from nni.nas.nn.pytorch import ModelSpace, ParametrizedModule, _layers
from nni.nas.nn.pytorch.base import MutableModule
from nni.nas.space import model_context
from torch import Tensor, nn

from nni_cream.errors import SpaceError
from nni_cream.export import write_formats
from nni_cream.search import CostModel, RandomPaths
from tests.search.small import supernet


def pick(*values, label="a"):
    return nni.choice(label, list(values))


class One(ModelSpace):
    """One layer or several in a row; the first of several outputs counts."""

    def __init__(self, makers: tuple[Callable[[], nn.Module], ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([make() for make in makers])

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, *more)
            x, more = (x[0] if isinstance(x, tuple) else x), ()
        return x


def paths_of(net):
    labels = [*net.mutables]
    for values in itertools.product(*(net.mutables[label].values for label in labels)):
        yield dict(zip(labels, values, strict=True))


def run(network, inputs, training):
    """Outputs, gradients of all weights that have one, and buffers after a forward and a backward pass."""
    network.train(training)
    network.zero_grad()
    torch.manual_seed(7)
    output = network(*inputs)
    if output.requires_grad:
        output.square().sum().backward()
    return output.detach()


def check_one_network(make: Callable[[], ModelSpace], *inputs: Tensor) -> int:
    """Supernet's path = frozen = rebuilt with the frozen weights: outputs, gradients, buffers, names and shapes."""
    torch.manual_seed(0)
    net = supernet(make())
    count = 0
    for path in paths_of(net):
        with model_context(path):
            rebuilt = make()
        for training in (True, False):
            frozen = net.freeze(path)
            rebuilt.load_state_dict(frozen.state_dict())
            assert str(rebuilt) == str(frozen)
            assert not any("Sliced" in type(module).__name__ for module in frozen.modules())
            net.activate(path)
            outputs = [run(network, inputs, training) for network in (net.space, frozen, rebuilt)]
            for output in outputs[1:]:
                torch.testing.assert_close(output, outputs[0])
            again = net.freeze(path)  # its buffers moved as those of the frozen one
            for name, buffer in again.named_buffers():
                torch.testing.assert_close(buffer, dict(frozen.named_buffers())[name])
            totals = [
                sum(
                    float(weight.grad.double().square().sum())
                    for weight in network.parameters()
                    if weight.grad is not None
                )
                for network in (net.space, frozen, rebuilt)
            ]
            assert totals == pytest.approx([totals[0]] * 3, rel=1e-4)
        count += 1
    return count


class Attention(nn.Module):
    """Attention over a sequence, whose keys are as wide as a choice says."""

    def __init__(self, width, *args, kdim=None, **kwargs):
        super().__init__()
        self.key = layers.MutableLinear(8, width if kdim is None else kdim)
        self.query = layers.MutableLinear(8, width)
        self.attention = layers.MutableMultiheadAttention(width, *args, kdim=kdim, batch_first=True, **kwargs)

    def forward(self, x):
        query = self.query(x)
        return self.attention(query, self.key(x), query, need_weights=False)[0]


IMAGE, ROW, CUBE = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 9), torch.randn(4, 4, 5, 5, 5)
SEQUENCE, TOKENS = torch.randn(4, 6, 8), torch.randint(0, 5, (4, 6))
REST: dict[str, tuple] = {
    "dropout": (IMAGE, lambda: layers.MutableDropout(pick(0.1, 0.5))),
    "dropout2d": (IMAGE, lambda: layers.MutableDropout2d(p=pick(0.1, 0.5))),
    "copy of torch's name": (IMAGE, lambda: _layers.Conv2d(4, pick(2, 8), 3)),
    "max pool": (IMAGE, lambda: layers.MutableMaxPool2d(pick(2, 3, (2, 4)), stride=pick(1, 2, label="b"))),
    "adaptive pool": (IMAGE, lambda: layers.MutableAdaptiveAvgPool2d(pick(1, (2, 3)))),
    "activation": (IMAGE, lambda: layers.MutableLeakyReLU(pick(0.01, 0.3))),
    "rrelu": (IMAGE, lambda: layers.MutableRReLU(upper=pick(0.2, 0.9))),
    "upsample": (
        IMAGE,
        lambda: layers.MutableUpsample(scale_factor=pick(1, 2), mode=pick("nearest", "bilinear", label="b")),
    ),
    "padding": (IMAGE, lambda: layers.MutableZeroPad2d(pick(0, (1, 0, 2, 1)))),
    "list of choices": (IMAGE, lambda: layers.MutableAvgPool2d(MutableList([pick(1, 2), pick(1, 3, label="b")]))),
    "flatten": (IMAGE, lambda: layers.MutableFlatten(pick(1, 2))),
    "pixel shuffle": (IMAGE, lambda: layers.MutablePixelShuffle(pick(1, 2))),
    "softmax": (IMAGE, lambda: layers.MutableSoftmax(dim=pick(1, 3))),
    "linear": (ROW, lambda: layers.MutableLinear(9, pick(2, 5) * 2, bias=pick(True, False, label="b"))),
    "conv2d": (
        IMAGE,
        lambda: layers.MutableConv2d(
            4,
            pick(4, 8),
            pick((1, 3), (3, 1), 3, label="b"),
            groups=pick(1, 4, label="c"),
            padding="same",
            padding_mode="circular",
        ),
    ),
    "conv1d": (
        ROW,
        lambda: layers.MutableConv1d(4, pick(2, 6), pick(1, 3, 5, label="b"), padding=pick(1, 3, 5, label="b") // 2),
    ),
    "conv3d": (
        CUBE,
        lambda: layers.MutableConv3d(4, pick(2, 4), pick(1, 3, label="b"), dilation=pick(1, 2, label="c")),
    ),
    "transposed": (
        IMAGE,
        lambda: layers.MutableConvTranspose2d(4, pick(2, 4), pick(2, 3, label="b"), stride=pick(1, 2, label="c")),
    ),
    "batch norm 2d": (
        IMAGE,
        lambda: layers.MutableBatchNorm2d(4, eps=pick(1e-5, 0.1), affine=pick(True, False, label="b")),
    ),
    "cumulative norm": (IMAGE, lambda: layers.MutableBatchNorm2d(4, momentum=pick(None, 0.1, 0.9))),
    "layer norm": (IMAGE, lambda: layers.MutableLayerNorm(pick((8, 8), [8, 8]), eps=pick(1e-5, 0.1, label="b"))),
    "rms norm": (SEQUENCE, lambda: layers.MutableRMSNorm(8, eps=pick(1e-5, 0.1))),
    "instance norm": (
        IMAGE,
        lambda: layers.MutableInstanceNorm2d(
            4, momentum=pick(0.1, 0.5), affine=True, track_running_stats=pick(True, False, label="b")
        ),
    ),
    "prelu": (IMAGE, lambda: layers.MutablePReLU(pick(1, 4))),
    "deep lstm": (
        SEQUENCE,
        lambda: layers.MutableLSTM(
            8,
            8,
            pick(1, 2),
            bias=pick(True, False, label="b"),
            batch_first=True,
            bidirectional=pick(True, False, label="c"),
        ),
    ),
    "lstm": (
        SEQUENCE,
        lambda: layers.MutableLSTM(
            8,
            hidden_size=pick(4, 6),
            num_layers=pick(1, 2, label="b"),
            batch_first=True,
            bidirectional=pick(True, False, label="c"),
        ),
    ),
    "projected lstm": (SEQUENCE, lambda: layers.MutableLSTM(8, 6, proj_size=pick(0, 2, 4), num_layers=2)),
    "gru": (SEQUENCE, lambda: layers.MutableGRU(8, pick(4, 6), num_layers=2, dropout=pick(0.1, 0.5, label="b"))),
    "rnn": (SEQUENCE, lambda: layers.MutableRNN(8, pick(4, 6), nonlinearity=pick("tanh", "relu", label="b"))),
    "cell": (torch.randn(4, 8), lambda: layers.MutableGRUCell(8, pick(4, 6))),
    "attention": (
        SEQUENCE,
        lambda: Attention(8, pick(1, 2, 4), kdim=pick(8, 4, label="b"), bias=pick(True, False, label="c")),
    ),
    "bilinear": ((SEQUENCE, SEQUENCE), lambda: layers.MutableBilinear(8, 8, pick(2, 4))),
    "transformer": (
        (SEQUENCE, SEQUENCE),
        lambda: layers.MutableTransformer(8, 2, pick(1, 2), 1, dim_feedforward=pick(4, 8, label="b"), dropout=0.0),
    ),
    "transformer layer": (
        SEQUENCE,
        lambda: layers.MutableTransformerEncoderLayer(
            8, pick(1, 2), dim_feedforward=pick(4, 12, label="b"), batch_first=True, dropout=0.0
        ),
    ),
}


@pytest.mark.parametrize("name", REST)
def test_a_layer_with_choices_is_one_network_on_every_path(name):
    inputs, make = REST[name]
    assert check_one_network(lambda: One((make,)), *(inputs if isinstance(inputs, tuple) else (inputs,))) > 1


ROWS: dict[str, tuple] = {
    "linear": (ROW, lambda: layers.MutableLinear(9, pick(2, 6)), lambda: layers.MutableLinear(pick(2, 6), 3)),
    "conv2d and norm": (
        IMAGE,
        lambda: layers.MutableConv2d(4, pick(4, 8), 3),
        lambda: layers.MutableBatchNorm2d(pick(4, 8)),
        lambda: layers.MutableConv2d(pick(4, 8), pick(4, 8), 3, groups=pick(4, 8)),
    ),
    "conv1d and norm": (
        ROW,
        lambda: layers.MutableConv1d(4, pick(2, 6), 3),
        lambda: layers.MutableBatchNorm1d(pick(2, 6)),
        lambda: layers.MutablePReLU(pick(2, 6)),
    ),
    "conv3d and norms": (
        CUBE,
        lambda: layers.MutableConv3d(4, pick(2, 6), 3),
        lambda: layers.MutableBatchNorm3d(pick(2, 6)),
        lambda: layers.MutableInstanceNorm3d(pick(2, 6), affine=True),
    ),
    "group norm": (
        IMAGE,
        lambda: layers.MutableConv2d(4, pick(4, 8), 3),
        lambda: layers.MutableGroupNorm(pick(1, 2, label="b"), pick(4, 8)),
        lambda: layers.MutableConvTranspose2d(pick(4, 8), 2, 3),
    ),
    "embedding": (
        TOKENS,
        lambda: layers.MutableEmbedding(pick(5, 9, label="b"), pick(4, 8), padding_idx=0),
        lambda: layers.MutableLayerNorm(pick(4, 8)),
        lambda: layers.MutableGRU(pick(4, 8), 3),
    ),
    "attention": (SEQUENCE, lambda: Attention(pick(4, 8), 2), lambda: layers.MutableLinear(pick(4, 8), 3)),
    "renormalised embedding": (
        TOKENS,
        lambda: layers.MutableEmbedding(5, pick(4, 8), max_norm=pick(0.5, 1.0, label="b")),
        lambda: layers.MutableLinear(pick(4, 8), 3),
    ),
    "bag": (TOKENS, lambda: layers.MutableEmbeddingBag(5, pick(4, 8), mode=pick("sum", "mean", label="b"))),
}


@pytest.mark.parametrize("name", ROWS)
def test_layers_that_share_a_choice_are_one_network_on_every_path(name):
    x, *makers = ROWS[name]
    assert check_one_network(lambda: One(makers), x) > 1


class Changed(ModelSpace):
    """A convolution, a norm and a head whose layers are changed after they are built."""

    def __init__(self, change: Callable[[Changed], None] = lambda space: None) -> None:
        super().__init__()
        width = nni.choice("width", [4, 8])
        self.conv = layers.MutableConv2d(4, width, nni.choice("kernel", [3, 5]), padding=2)
        self.norm = layers.MutableBatchNorm2d(width)
        self.head = layers.MutableLinear(width, 3)
        change(self)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


def set_attributes(space):
    space.norm.eps, space.norm.momentum = 0.1, 0.5
    space.conv.padding_mode = "reflect"
    space.conv._reversed_padding_repeated_twice = [1, 1, 1, 1]


def cumulative(space):
    space.norm.momentum = None


def evaluated(space):
    space.norm.eval()


def zero_gamma(space):
    nn.init.zeros_(space.norm.weight)
    nn.init.constant_(space.head.bias, -4.0)


def frozen_weights(space):
    space.conv.requires_grad_(False)
    space.norm.bias.requires_grad_(False)


def statistics(space):
    space.norm.running_var.fill_(3.0)


def drawn(space):
    generator = torch.Generator().manual_seed(1)
    nn.init.normal_(space.conv.weight, std=5.0, generator=generator)


def doubled(space):
    space.double()


@pytest.mark.parametrize("change", [set_attributes, cumulative, zero_gamma, frozen_weights, statistics, drawn])
def test_what_a_space_changes_on_a_layer_is_kept_on_every_path(change):
    assert check_one_network(lambda: Changed(change), IMAGE) == 4


@pytest.mark.parametrize("change", [set_attributes, evaluated, zero_gamma, frozen_weights, statistics, doubled])
def test_a_frozen_layer_has_what_the_space_set(change):
    net = supernet(Changed(change))
    for path in paths_of(net):
        with model_context(path):
            expected = Changed(change)
        frozen = net.freeze(path)
        for theirs, ours in zip(expected.modules(), frozen.modules(), strict=True):
            attributes = {name: value for name, value in vars(theirs).items() if isinstance(value, int | float | str)}
            assert {name: vars(ours)[name] for name in attributes} == attributes
        for name, theirs in expected.named_parameters():
            ours = frozen.get_parameter(name)
            assert (ours.requires_grad, ours.dtype, ours.shape) == (theirs.requires_grad, theirs.dtype, theirs.shape)
        if change in (zero_gamma, statistics):
            assert torch.equal(frozen.norm.weight, expected.norm.weight)
            assert torch.equal(frozen.norm.running_var, expected.norm.running_var)
            assert change is statistics or torch.equal(frozen.head.bias, expected.head.bias)


def test_values_of_the_first_choices_are_kept_and_a_custom_initialisation_is_named(caplog):
    space = Changed(drawn)
    values, bias = space.conv.weight.detach().clone(), space.head.bias.detach().clone()
    net = supernet(space)
    frozen = net.freeze({"width": 4, "kernel": 3})
    assert torch.equal(frozen.conv.weight, values)
    assert torch.equal(net.freeze({"width": 8, "kernel": 5}).head.bias, bias)
    assert [record.message for record in caplog.records if "initialises" in record.message] == [
        "The space initialises weights of 1 layers with choices itself, such as layer 'conv' (MutableConv2d): weight. "
        "These values are kept for the sizes that the space built; the rest of the largest sizes has torch's default "
        "initialisation."
    ]
    caplog.clear()
    supernet(Changed())
    assert not caplog.records


def test_weights_that_only_other_sizes_have_follow_what_the_space_set():
    space = One((lambda: layers.MutableLinear(9, 2, bias=pick(False, True)),))
    supernet(space.double().requires_grad_(False))
    assert {(weight.dtype, weight.requires_grad) for weight in space.parameters()} == {(torch.float64, False)}
    assert len([*space.parameters()]) == 2


def test_a_layer_of_nni_without_choices_keeps_its_weights():
    class Plain(Changed):
        def __init__(self) -> None:
            super().__init__()
            self.stem = layers.MutableConv2d(4, 4, 1)
            self.stem.weight.data.fill_(0.5)

        def forward(self, x):
            return super().forward(self.stem(x))

    assert check_one_network(Plain, IMAGE) == 4
    net = supernet(Plain())
    assert type(net.space.stem) is nn.Conv2d
    assert bool((net.freeze({"width": 4, "kernel": 3}).stem.weight == 0.5).all())


def test_a_layer_in_two_places_keeps_one_set_of_weights():
    class Twice(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            layer = layers.MutableLinear(8, 8, bias=nni.choice("bias", [True, False]))
            self.first, self.second = nn.Sequential(layer), nn.Sequential(nn.ReLU(), layer)

        def forward(self, x):
            return self.second(self.first(x))

    net = supernet(Twice())
    assert net.space.first[0] is net.space.second[1]
    assert check_one_network(Twice, SEQUENCE) == 2


class MyLinear(layers.MutableLinear):
    def forward(self, x):
        return super().forward(x) * 2


def hooked():
    layer = layers.MutableLinear(8, pick(2, 4))
    layer.register_forward_hook(lambda module, args, output: output * 2)
    return layer


def without_bias():
    layer = layers.MutableLinear(8, pick(2, 4))
    layer.bias = None
    return layer


def other_eps():
    layer = layers.MutableBatchNorm2d(4, eps=pick(0.1, 0.2))
    layer.eps = 0.3
    return layer


def patched():
    layer = layers.MutableLinear(8, pick(2, 4))
    layer.forward = lambda x: x
    return layer


def tied():
    pair = nn.Sequential(layers.MutableLinear(8, pick(2, 4)), nn.Linear(8, 2))
    pair[1].weight = pair[0].weight
    return pair


def twice(layer):
    return nn.Sequential(layer, layer)


class Own(MutableModule):
    def __init__(self):
        super().__init__()
        self.add_mutable(pick(1, 2))


class Either(nn.Module):
    def __init__(self, first):
        super().__init__()
        self.add_module("first" if first else "second", nn.Linear(8, 8))


class Table(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.register_buffer("table", torch.arange(size))


class MutableEither(ParametrizedModule, Either, wraps=Either):
    pass


class MutableTable(ParametrizedModule, Table, wraps=Table):
    pass


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MyLinear(8, pick(2, 4)), r"layer 'layers.0' \(MyLinear\) is a subclass"),
        (
            lambda: nn.utils.parametrizations.weight_norm(layers.MutableLinear(8, pick(2, 4))),
            "a parametrization of MutableLinear",
        ),
        (lambda: nn.utils.weight_norm(layers.MutableLinear(8, pick(2, 4))), r"\(MutableLinear\) holds .*weight_g"),
        (hooked, r"\(MutableLinear\) has hooks"),
        (without_bias, r"\(MutableLinear\) holds \['weight'\]"),
        (other_eps, "eps was changed .* a choice decides it"),
        (patched, "forward were replaced"),
        (lambda: layers.MutableLazyLinear(pick(2, 4)), "without sizes; expected weights of known shapes"),
        (lambda: layers.MutableEmbedding(5, pick(2, 4), sparse=True), "sparse=True"),
        (lambda: layers.MutableAvgPool2d((pick(1, 2), 1)), "with a choice inside"),
        (lambda: layers.MutableLayerNorm(pick(8, (8, 8))), "weight has 1 or 2 dimensions"),
        (lambda: MutableEither(pick(True, False)), "which layers it holds"),
        (lambda: MutableTable(pick(2, 4)), "choices and buffers"),
        (lambda: layers.MutableTransformerEncoder(nn.TransformerEncoderLayer(8, 2), pick(1, 2)), "takes a module"),
        (lambda: layers.MutableConv2d(4, 4, 1, groups=pick(1, 3)), "torch refuses {'a': 3}: in_channels must be"),
        (lambda: layers.MutableDropout(pick(0.5, 3.0)), "torch refuses {'a': 3.0}: dropout probability"),
        (tied, "layer 'layers.0.0' .* shares weights with .'layers.0.1'"),
        (lambda: twice(layers.MutableLinear(8, pick(2, 4))), "module 'layers.0' holds one MutableLinear with choices"),
        (lambda: twice(layers.LayerChoice([nn.ReLU(), nn.GELU()], label="a")), "holds one LayerChoice with choices"),
        (lambda: layers.InputChoice(2, n_chosen=None, label="a"), "n_chosen=None"),
        (lambda: layers.InputChoice(2, n_chosen=1, reduction="none", label="a"), "reduction='none'"),
        (lambda: Own(), "'layers.0' is a Own with choices \\['a'\\] of its own"),
    ],
)
def test_what_cannot_be_one_network_is_refused_by_name(make, message):
    with pytest.raises(SpaceError, match=message):
        supernet(One((make, lambda: layers.MutableDropout(pick(0.1, 0.2, label="other")))))


@pytest.mark.parametrize("cost", ["macs", "params"])
def test_costs_are_those_of_the_frozen_network(cost):
    from torch.utils.flop_counter import FlopCounterMode

    net = supernet(Changed())
    model = CostModel(net, (IMAGE,), cost)
    for path in paths_of(net):
        frozen = net.freeze(path).eval()
        with FlopCounterMode(display=False) as counter:
            frozen(IMAGE[:1])
        expected = {"macs": counter.get_total_flops() / 2, "params": sum(map(torch.numel, frozen.parameters()))}
        assert model(path) == expected[cost]


def test_values_that_no_cost_depends_on_cost_nothing():
    net = supernet(
        One((lambda: layers.MutableDropout(pick(0.1, 0.5)), lambda: layers.MutableLinear(8, pick(2, 4, label="b"))))
    )
    model = CostModel(net, (SEQUENCE,))
    assert model.additive
    assert [model({"a": drop, "b": width}) for drop in (0.1, 0.5) for width in (2, 4)] == [96, 192, 96, 192]


def test_a_copy_of_a_supernet_has_layers_of_its_own():
    net = supernet(Changed())
    net.activate({"width": 4, "kernel": 5})
    expected = net.space.eval()(IMAGE)
    other = copy.deepcopy(net.space)
    assert torch.equal(other(IMAGE), expected)
    for parameter in other.parameters():
        parameter.data.zero_()
    assert torch.equal(net.space(IMAGE), expected)
    assert not other(IMAGE).any()


class Rows(ModelSpace):
    """Rows of images through a convolution, a norm, dropout and a recurrent layer of chosen widths."""

    def __init__(self) -> None:
        super().__init__()
        width = nni.choice("width", [4, 6])
        self.conv = layers.MutableConv1d(8, width, nni.choice("kernel", [1, 3]), padding="same")
        self.norm = layers.MutableGroupNorm(2, width)
        self.dropout = layers.MutableDropout(nni.choice("dropout", [0.1, 0.5]))
        self.recurrent = layers.MutableLSTM(8, hidden_size=nni.choice("hidden", [3, 5]), batch_first=True)
        self.head = layers.MutableLinear(nni.choice("hidden", [3, 5]), 2)

    def forward(self, x):
        x = self.dropout(torch.relu(self.norm(self.conv(x[:, 0]))))
        return self.head(self.recurrent(x)[0].mean(1))


@pytest.mark.integration
@pytest.mark.skipif(torch.__version__ < "2.7", reason="the export extra needs PyTorch 2.7")
@pytest.mark.parametrize("form", ["code", "onnx"])
def test_a_frozen_path_exports(form, tmp_path):
    net, images = supernet(Rows()), torch.randn(3, 1, 8, 8)
    frozen = net.freeze({"width": 4, "kernel": 3, "dropout": 0.5, "hidden": 3}).eval()
    assert write_formats(frozen, images, tmp_path, [form])[form] < 1e-5


def test_recurrent_and_convolutional_layers_are_one_network_together():
    assert check_one_network(Rows, torch.randn(3, 1, 8, 8)) == 16


HUB = {
    "MobileNetV3": lambda: hub.MobileNetV3Space(
        num_labels=4, base_widths=(8,) * 8 + (16,), width_multipliers=(0.5, 1.0), expand_ratios=(1.0, 2.0)
    ),
    "ProxylessNAS": lambda: hub.ProxylessNAS(num_labels=4, base_widths=(8, 8, 8, 8, 8, 8, 8, 8, 16)),
    "ShuffleNet": lambda: hub.ShuffleNetSpace(num_labels=4, channel_search=True),
}


@pytest.mark.integration
@pytest.mark.parametrize("name", HUB)
def test_spaces_of_nnis_hub_that_set_values_afterwards_are_one_network(name):
    torch.manual_seed(0)
    net, images = supernet(HUB[name]()), torch.randn(2, 3, 32, 32)
    path = RandomPaths(net.space, seed=0).draw()
    with model_context(path):
        rebuilt = HUB[name]()
    for training in (True, False):
        frozen = net.freeze(path)
        # In order: NNI's MobileNetV3 numbers its layers anew when it is built without a candidate.
        rebuilt.load_state_dict(dict(zip(rebuilt.state_dict(), frozen.state_dict().values(), strict=True)))
        net.activate(path)
        outputs = [run(network, (images,), training) for network in (net.space, frozen, rebuilt)]
        assert torch.equal(outputs[0], outputs[1])
        assert torch.equal(outputs[0], outputs[2])
    norms = [
        [(m.eps, m.momentum) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        for network in (frozen, rebuilt)
    ]
    assert norms[0] == norms[1]
    assert name == "ShuffleNet" or 1e-3 in {eps for eps, _ in norms[0]}
