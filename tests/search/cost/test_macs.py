from __future__ import annotations

import pytest
import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import deform_conv2d

from nni_cream.search import CostModel
from nni_cream.search.cost.macs import counting, of_one, unfused
from tests.search.small import supernet

X = torch.rand(2, 1, 8, 8)


class Work(nn.Module):
    """Work on images, given a function of these and of a vector, a matrix and a tensor of weights."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function
        self.vector = nn.Parameter(torch.rand(64))
        self.matrix = nn.Parameter(torch.rand(64, 5))
        self.tensor = nn.Parameter(torch.rand(6, 8, 8))
        self.register_buffer("table", torch.rand(100, 2))
        self.bias = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 3, bias=False))

    def forward(self, x):
        return x + self.function(self, x).sum()


class Space(ModelSpace):
    def __init__(self, module) -> None:
        super().__init__()
        self.layer = LayerChoice({"nothing": nn.Identity(), "work": module}, label="layer")

    def forward(self, x):
        return self.layer(x)


def fixed(work, x):
    """The bias of Swin v2: a small network over a table of positions, whatever the batch."""
    return work.bias(work.table)


@torch.inference_mode()
def without_autograd(work, x):
    return F.linear(x.flatten(1), work.matrix.T)


COUNTED = {
    "mv": (lambda w, x: x.flatten(1) @ w.vector, 64),
    "mv into a tensor": (lambda w, x: torch.mv(x.flatten(1), w.vector, out=torch.empty(len(x))), 64),
    "addmv": (lambda w, x: torch.addmv(x[:, 0, 0, 0], x.flatten(1), w.vector), 64),
    "addmv in place": (lambda w, x: torch.zeros(len(x)).addmv_(x.flatten(1), w.vector), 64),
    "dot": (lambda w, x: w.vector.dot(w.vector), 64),
    "vdot": (lambda w, x: torch.vdot(x[0].flatten(), w.vector), 64),
    "inner": (lambda w, x: torch.inner(x.flatten(1), w.vector), 64),
    "outer": (lambda w, x: torch.outer(x.flatten(), w.vector), 64 * 64),
    "ger as a method": (lambda w, x: x.flatten().ger(w.vector), 64 * 64),
    "addr": (lambda w, x: torch.addr(w.matrix, w.vector, w.matrix[0]), 64 * 5),
    "kron": (lambda w, x: torch.kron(x.flatten(1), w.matrix), 64 * 64 * 5),
    "vecdot": (lambda w, x: torch.linalg.vecdot(x.flatten(1), w.vector), 64),
    "baddbmm": (lambda w, x: torch.baddbmm(x[:, 0], x[:, 0], w.tensor[:1].expand(len(x), 8, 8)), 8**3),
    "baddbmm in place": (lambda w, x: x[:, 0].clone().baddbmm_(x[:, 0], x[:, 0]), 8**3),
    "addbmm": (lambda w, x: torch.addbmm(x[0, 0], x[:, 0], x[:, 0]), 8**3),
    "addmm in place": (lambda w, x: torch.zeros(len(x), 5).addmm_(x.flatten(1), w.matrix), 64 * 5),
    "einsum of a vector": (lambda w, x: torch.einsum("nchw,w->nch", x, w.vector[:8]), 64),
    "einsum to a number": (lambda w, x: torch.einsum("i,i->", w.vector, w.vector), 64),
    "einsum of three": (lambda w, x: torch.einsum("nchw,w,h->n", x, w.vector[:8], w.vector[8:16]), 64 + 8),
    "einsum of matrices": (lambda w, x: torch.einsum("nchw,owv->nohv", x, w.tensor), 6 * 8**3),
    "few distances": (lambda w, x: torch.cdist(x[:, 0], w.tensor[0, :5]), 8 * 5 * 8),
    "many distances": (lambda w, x: torch.cdist(x[:, 0], w.tensor.view(48, 8)), 8 * 48 * 8),
    "pairs of samples": (lambda w, x: torch.bmm(*x[:, 0].chunk(2)), 8**3 // 2),
    "samples with each other": (lambda w, x: x.flatten(1) @ x.flatten(1).T, 64),
    "fixed": (fixed, 100 * (2 * 16 + 16 * 3)),
    "fixed and for each sample": (lambda w, x: fixed(w, x).sum() * (x.flatten(1) @ w.matrix), 100 * 80 + 64 * 5),
    "inference mode": (without_autograd, 64 * 5),
    "conv_tbc": (
        lambda w, x: torch.conv_tbc(x[:, 0].permute(1, 0, 2).contiguous(), w.tensor[:3], w.vector[:8], 1),
        8 * 3 * 64,
    ),
    "complex numbers": (lambda w, x: x.flatten(1).cfloat() @ w.matrix.cfloat(), 4 * 64 * 5),
    "complex vector": (lambda w, x: (x.flatten(1).cfloat() @ w.vector.cfloat()).abs(), 4 * 64),
    "nothing but sums": (lambda w, x: F.embedding_bag(torch.zeros(len(x), 3, dtype=torch.long), w.matrix), 0),
    "look-up": (lambda w, x: w.matrix[torch.arange(3)].mean() + w.tensor.sum(), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTED)
def test_work_counts_as_its_closed_formula(name, caplog):
    function, expected = COUNTED[name]
    cost = CostModel(supernet(Space(Work(function))), (X,))
    assert cost({"layer": "work"}) == expected
    assert cost({"layer": "nothing"}) == 0
    assert not caplog.records


LAYERS = {
    "conv1d": (nn.Conv1d(4, 6, 3, groups=2, padding="same"), (1, 4, 9)),
    "conv3d": (nn.Conv3d(4, 6, 3, stride=2, dilation=2), (1, 4, 9, 9, 9)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, output_padding=1), (1, 4, 5, 5)),
    "transposed 3d": (nn.ConvTranspose3d(4, 2, 3), (1, 4, 5, 5, 5)),
    "circular": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (1, 4, 5, 5)),
    "linear over a sequence": (nn.Linear(4, 6), (1, 7, 4)),
    "encoder": (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), (1, 7, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_layers_count_as_torch_counts_one_sample(name):
    layer, shape = LAYERS[name]
    layer.eval()
    with torch.no_grad(), counting() as counter:
        output = layer(torch.rand(shape))
    with FlopCounterMode(display=False) as expected:
        layer(torch.rand(shape))
    assert counter.operations(output) == expected.get_total_flops() > 0


@pytest.mark.parametrize("grouped", [False, True])
def test_attention_counts_its_two_products(grouped):
    query, key = torch.rand(1, 4, 7, 8), torch.rand(1, 2 if grouped else 4, 5, 8)
    with unfused(recurrent=False), counting() as counter:
        output = F.scaled_dot_product_attention(query, key, key, enable_gqa=grouped)
    assert counter.operations(output) == 2 * 2 * 4 * 7 * 5 * 8


UNKNOWN = {
    "_trilinear": lambda w, x: F.bilinear(x.flatten(1)[:, :8], x.flatten(1)[:, 8:16], w.tensor),
    "_trilinear of a view": lambda w, x: F.bilinear(x.flatten(1)[:, :8], x.flatten(1)[:, :8], w.tensor[1:].mT),
    "linalg_inv_ex": lambda w, x: torch.linalg.inv(w.tensor),
    "_cdist_forward": lambda w, x: torch.cdist(x[:, 0], w.tensor[0], p=1),
    "deform_conv2d": lambda w, x: deform_conv2d(x, torch.zeros(len(x), 2, 8, 8), w.matrix[:, :1, None, None]),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_work_without_a_formula_is_named(name, caplog):
    CostModel(supernet(Space(Work(UNKNOWN[name]))), (X,))
    assert [name.split()[0] in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize(
    ("fixed_part", "linear", "quadratic"), [(0, 0, 0), (0, 5, 0), (7, 0, 0), (7, 5, 0), (0, 0, 3), (7, 5, 3)]
)
def test_one_sample_has_the_fixed_part_once(fixed_part, linear, quadratic):
    one = of_one(lambda size: 2 * (fixed_part + linear * size + quadratic * size * size))
    assert one == fixed_part + linear + quadratic


@pytest.mark.parametrize("order", [["fixed", "mv", "nothing"], ["mv", "fixed", "nothing"]])
def test_a_fixed_part_in_one_candidate_of_many_is_found(order):
    works = {"fixed": lambda: Work(fixed), "mv": lambda: Work(COUNTED["mv"][0]), "nothing": nn.Identity}

    class Deep(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            choices = [
                LayerChoice({name: works[name]() for name in order}, label=f"layer_{index}") for index in range(4)
            ]
            self.layers = nn.Sequential(*choices)

        def forward(self, x):
            return self.layers(x)

    cost = CostModel(supernet(Deep()), (X,))
    path = {f"layer_{index}": "mv" for index in range(4)}
    assert cost.additive
    assert cost(path) == 4 * 64
    assert cost(path | {"layer_2": "fixed"}) == 3 * 64 + 8000
    assert cost.measure(path | {"layer_2": "fixed"}) == 3 * 64 + 8000


def test_a_fixed_part_counts_once_where_the_cost_is_no_sum():
    class Shrinking(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.size = LayerChoice({"all": nn.Identity(), "quarter": nn.AvgPool2d(2)}, label="size")
            self.conv = LayerChoice({"wide": nn.Conv2d(1, 4, 1), "narrow": nn.Conv2d(1, 2, 1)}, label="conv")
            self.work = LayerChoice({"nothing": nn.Identity(), "fixed": Work(fixed)}, label="work")

        def forward(self, x):
            return self.work(self.conv(self.size(x)))

    cost = CostModel(supernet(Shrinking()), (X,))
    assert not cost.additive
    for size, places in (("all", 64), ("quarter", 16)):
        for conv, channels in (("wide", 4), ("narrow", 2)):
            for work, more in (("nothing", 0), ("fixed", 8000)):
                assert cost({"size": size, "conv": conv, "work": work}) == places * channels + more
