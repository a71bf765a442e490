from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from nni_cream.search import RandomPaths
from nni_cream.search.teaching.joint_loss import JOINT_LOSSES
from nni_cream.search.teaching.losses import soft_cross_entropy
from nni_cream.search.teaching.meta_gradient import match_weight_gradient
from tests.search.small import LayerSpace, digits, supernet

# As METHOD.md and the paper write them.
WRITTEN = {"mix": lambda rho, kd, ce: rho / 2 * kd + (1 - rho / 2) * ce, "add": lambda rho, kd, ce: ce + rho * kd}


@pytest.mark.parametrize("name", JOINT_LOSSES)
@pytest.mark.parametrize("rho", [0.01, 0.5, 0.99])
def test_a_joint_loss_and_its_slope_are_those_on_paper(name, rho):
    kd, ce = torch.tensor(1.7, dtype=torch.float64), torch.tensor(0.6, dtype=torch.float64)
    weight = torch.tensor(rho, dtype=torch.float64, requires_grad=True)
    expected = WRITTEN[name](weight, kd, ce)
    (slope,) = torch.autograd.grad(expected, weight)
    expected = expected.detach()
    assert float(JOINT_LOSSES[name].value(rho, kd, ce)) == pytest.approx(float(expected), abs=1e-12)
    assert float(JOINT_LOSSES[name].slope(kd, ce)) == pytest.approx(float(slope), abs=1e-12)


@pytest.mark.parametrize("name", JOINT_LOSSES)
def test_a_joint_loss_of_the_gradients_is_the_gradient_of_the_joint_loss(name):
    a = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
    kd, ce = a.square().sum(), a.prod()
    gradients = [torch.autograd.grad(loss, a, retain_graph=True)[0] for loss in (kd, ce)]
    (expected,) = torch.autograd.grad(WRITTEN[name](0.3, kd, ce), a)
    torch.testing.assert_close(JOINT_LOSSES[name].value(0.3, *gradients), expected)


def test_adding_takes_nothing_from_the_labels_and_mixing_does():
    kd, ce = torch.zeros(()), torch.tensor(0.8)
    assert float(JOINT_LOSSES["add"].value(0.9, kd, ce)) == pytest.approx(0.8)
    assert float(JOINT_LOSSES["mix"].value(0.9, kd, ce)) == pytest.approx(0.44)


def softened(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T squared times KL divergence and entropy, written out."""
    p = torch.softmax(teacher / temperature, 1)
    q = torch.softmax(student / temperature, 1)
    divergence, entropy = (p * (p.log() - q.log())).sum(1).mean(), -(p * p.log()).sum(1).mean()
    return temperature**2 * (divergence + entropy)


def unrolled_gradient(net, path, target, meta, evidence, train, validation, step_size, name, temperature):
    """The oracle: differentiate through the virtual step itself, second graph and all."""
    parameters = dict(net.space.named_parameters())
    net.activate(path)
    with net.detached(grad=True):
        rho = torch.sigmoid(meta(evidence)).squeeze()
        logits = functional_call(net.space, parameters, (train[0],))
        loss = WRITTEN[name](rho, softened(logits, target, temperature), functional.cross_entropy(logits, train[1]))
        gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True, allow_unused=True)
        moved = {
            key: value if gradient is None else value - step_size * gradient
            for (key, value), gradient in zip(parameters.items(), gradients, strict=True)
        }
        outer = functional.cross_entropy(functional_call(net.space, moved, (validation[0],)), validation[1])
        return list(torch.autograd.grad(outer, list(meta.parameters())))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("name", JOINT_LOSSES)
@pytest.mark.parametrize("seed", range(2))
def test_meta_gradient_of_each_joint_loss_equals_unrolled_double_back_propagation(seed, name, temperature):
    torch.manual_seed(seed)
    net = supernet(LayerSpace().double())
    sampler = RandomPaths(net.space, seed)
    path, teacher = sampler.draw(), sampler.draw()
    train, validation = ((x.double(), y) for x, y in (digits(32)[:], digits(32, start=500)[:]))
    meta, evidence, step_size = torch.nn.Linear(40, 1).double(), torch.randn(40).double(), 0.1
    net.activate(teacher)
    with net.detached():
        target = net.space(train[0])
    expected = unrolled_gradient(net, path, target, meta, evidence, train, validation, step_size, name, temperature)

    before = {key: value.clone() for key, value in net.space.state_dict().items()}
    net.activate(path)
    rho = torch.sigmoid(meta(evidence)).squeeze()
    with net.detached(grad=True):
        logits = net.space(train[0])
        gradient = match_weight_gradient(
            list(net.space.parameters()),
            soft_cross_entropy(logits, target, temperature),
            functional.cross_entropy(logits, train[1]),
            float(rho.detach()),
            step_size,
            lambda: [functional.cross_entropy(net.space(validation[0]), validation[1])],
            joint_loss=JOINT_LOSSES[name],
        )
    rho.backward(torch.tensor(gradient, dtype=torch.float64))

    for ours, theirs in zip(meta.parameters(), expected, strict=True):
        assert float((ours.grad - theirs).norm() / theirs.norm()) < 1e-10
    assert all(torch.equal(before[key], value) for key, value in net.space.state_dict().items())
