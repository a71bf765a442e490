from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from nni_cream.errors import ConfigError
from nni_cream.search import (
    BestMatcher,
    BoardEntry,
    Match,
    MetaMatcher,
    NoMatcher,
    RandomMatcher,
    RandomPaths,
)
from nni_cream.search.teaching.joint_loss import JOINT_LOSSES
from nni_cream.search.teaching.losses import soft_cross_entropy
from nni_cream.search.teaching.matchers import make_matcher
from nni_cream.search.teaching.meta_gradient import match_weight_gradient
from tests.search.small import LayerSpace, digits, supernet

ENTRIES = tuple(BoardEntry({"layer": name}, 0.9 - name / 10, 1.0, name) for name in range(4))
STUDENT = {"layer": 9}
TABLE = {
    name: torch.softmax(torch.randn(4, 10, generator=torch.Generator().manual_seed(name)), 1) for name in range(10)
}


def features(path) -> Tensor:
    return TABLE[path["layer"]]


JOINED = {
    "mix": lambda rho, kd, ce: (rho * kd + (2 - rho) * ce) / 2,
    "add": lambda rho, kd, ce: rho * kd + ce,
}


def unrolled_gradient(net, path, teacher, meta, evidence, train, validation, step_size, joined) -> list[Tensor]:
    """The oracle: differentiate through the virtual step itself, second graph and all."""
    parameters = dict(net.space.named_parameters())
    net.activate(teacher)
    with net.detached():
        target = net.space(train[0])
    net.activate(path)
    with net.detached(grad=True):
        rho = torch.sigmoid(meta(evidence)).squeeze()
        logits = functional_call(net.space, parameters, (train[0],))
        loss = joined(rho, soft_cross_entropy(logits, target), functional.cross_entropy(logits, train[1]))
        gradients = torch.autograd.grad(loss, list(parameters.values()), create_graph=True, allow_unused=True)
        moved = {
            name: value if gradient is None else value - step_size * gradient
            for (name, value), gradient in zip(parameters.items(), gradients, strict=True)
        }
        outer = functional.cross_entropy(functional_call(net.space, moved, (validation[0],)), validation[1])
        return list(torch.autograd.grad(outer, list(meta.parameters())))


@pytest.mark.parametrize("joint_loss", JOINED)
@pytest.mark.parametrize("seed", range(4))
def test_meta_gradient_equals_unrolled_double_back_propagation(seed, joint_loss):
    torch.manual_seed(seed)
    net = supernet(LayerSpace().double())
    sampler = RandomPaths(net.space, seed)
    path, teacher = sampler.draw(), sampler.draw()
    train, validation = ((x.double(), y) for x, y in (digits(32)[:], digits(32, start=500)[:]))
    meta, evidence, step_size = torch.nn.Linear(40, 1).double(), torch.randn(40).double(), 0.1
    expected = unrolled_gradient(net, path, teacher, meta, evidence, train, validation, step_size, JOINED[joint_loss])

    before = {name: value.clone() for name, value in net.space.state_dict().items()}
    net.activate(teacher)
    with net.detached():
        target = net.space(train[0])
    net.activate(path)
    rho = torch.sigmoid(meta(evidence)).squeeze()
    with net.detached(grad=True):
        logits = net.space(train[0])
        gradient = match_weight_gradient(
            list(net.space.parameters()),
            soft_cross_entropy(logits, target),
            functional.cross_entropy(logits, train[1]),
            float(rho.detach()),
            step_size,
            lambda: [functional.cross_entropy(net.space(validation[0]), validation[1])],
            joint_loss=JOINT_LOSSES[joint_loss],
        )
    rho.backward(torch.tensor(gradient, dtype=torch.float64))

    for ours, theirs in zip(meta.parameters(), expected, strict=True):
        assert float((ours.grad - theirs).norm() / theirs.norm()) < 1e-10
    assert all(torch.equal(before[name], value) for name, value in net.space.state_dict().items())


def test_weights_are_put_back_when_the_validation_loss_fails():
    net = supernet(LayerSpace())
    path, (x, y) = RandomPaths(net.space).draw(), digits(16)[:]
    before = [parameter.clone() for parameter in net.space.parameters()]
    net.activate(path)
    with net.detached(grad=True):
        loss = functional.cross_entropy(net.space(x), y)
        with pytest.raises(RuntimeError, match="boom"):
            match_weight_gradient(list(net.space.parameters()), loss * 2, loss, 0.5, 0.1, _boom)
    assert all(torch.equal(old, new) for old, new in zip(before, net.space.parameters(), strict=True))


def _boom() -> Tensor:
    raise RuntimeError("boom")


def test_small_gradients_of_sixteen_bit_floats_count_where_the_losses_are_scaled():
    torch.manual_seed(0)
    net = nn.Linear(8, 10)
    x, seen, y, taught = torch.randn(64, 8), torch.randn(64, 8), torch.randint(10, (64,)), torch.randn(64, 10)

    def gradient(dtype: torch.dtype | None, scale: float) -> float:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None, cache_enabled=False):
            losses = (soft_cross_entropy(net(x), taught), functional.cross_entropy(net(x), y))
            small = [1e-6 * loss for loss in losses]  # as the losses of single values in a large batch are
            validation = lambda: [1e-6 * functional.cross_entropy(net(seen), y)]  # noqa: E731
            return match_weight_gradient(list(net.parameters()), *small, 0.5, 0.1, validation, scale)

    exact = gradient(None, 1.0)
    assert exact != 0
    assert gradient(None, 2.0**20) == pytest.approx(exact, rel=1e-4, abs=0)
    assert gradient(torch.float16, 2.0**20) == pytest.approx(exact, rel=0.05, abs=0)
    assert gradient(torch.float16, 1.0) == 0


def test_a_parameter_that_only_one_loss_uses_counts():
    a, b = torch.tensor(2.0, requires_grad=True), torch.tensor(3.0, requires_grad=True)
    # L_val = a' + b' with a' = a - xi rho / 2 and b' = b - xi (2 - rho) / 2, so d L_val / d rho = -xi/2 + xi/2 = 0.
    assert match_weight_gradient([a, b], a * 1, b * 1, 0.3, 0.1, lambda: [a + b]) == pytest.approx(0.0)
    # Only a in the validation loss: -xi / 2.
    assert match_weight_gradient([a, b], a * 1, b * 1, 0.3, 0.1, lambda: [a * 1]) == pytest.approx(-0.05)
    # Added: a' = a - xi rho and b' = b - xi, so L_val = a' + b' falls by xi with rho.
    added = match_weight_gradient([a, b], a * 1, b * 1, 0.3, 0.1, lambda: [a + b], joint_loss=JOINT_LOSSES["add"])
    assert added == pytest.approx(-0.1)
    # In parts.
    assert match_weight_gradient([a, b], a * 1, b * 1, 0.3, 0.1, lambda: [a * 1, b * 3]) == pytest.approx(0.1)


def test_the_teacher_is_the_entry_with_the_highest_score_and_rho_is_its_own():
    matcher = MetaMatcher(features, seed=1)
    match = matcher.pick(STUDENT, ENTRIES)
    network = matcher._network
    scores = [float(network((features(STUDENT) - features(item.path)).flatten())) for item in ENTRIES]
    assert match.entry == ENTRIES[scores.index(max(scores))]
    assert match.weight == pytest.approx(1 / (1 + pow(2.718281828459045, -max(scores))), rel=1e-5)
    assert match.entry != ENTRIES[-1] or scores.index(max(scores)) == 3


def test_rho_belongs_to_the_chosen_entry_not_to_the_last_one_compared():
    matcher = MetaMatcher(features, seed=1)
    chosen = {matcher.pick(STUDENT, order).entry.key for order in (ENTRIES, ENTRIES[::-1])}
    weights = {matcher.pick(STUDENT, order).weight for order in (ENTRIES, ENTRIES[::-1])}
    assert len(chosen) == len(weights) == 1


def test_a_pick_runs_the_student_once_and_every_entry_once_until_forgotten():
    calls: Counter[int] = Counter()

    def counted(path) -> Tensor:
        calls[path["layer"]] += 1
        return features(path)

    matcher = MetaMatcher(counted)
    for _ in range(3):
        matcher.pick(STUDENT, ENTRIES)
    assert calls == {9: 3, 0: 1, 1: 1, 2: 1, 3: 1}
    matcher.forget()
    matcher.pick(STUDENT, ENTRIES)
    assert calls[0] == 2


def test_an_update_moves_rho_against_the_gradient():
    matcher = MetaMatcher(features, learning_rate=0.01)
    match = matcher.pick(STUDENT, ENTRIES)
    matcher.update(match, weight_gradient=1.0)
    assert float(matcher.weight(match)) < match.weight
    matcher.update(match, weight_gradient=-1.0)
    matcher.update(match, weight_gradient=-1.0)
    matcher.update(match, weight_gradient=-1.0)
    assert float(matcher.weight(match)) > match.weight


def test_only_a_match_of_a_meta_network_has_a_weight_to_learn():
    with pytest.raises(ValueError, match="meta network"):
        MetaMatcher(features).weight(Match(ENTRIES[0], 0.5))


def test_a_restored_meta_network_picks_and_learns_like_the_saved_one():
    first, second = MetaMatcher(features, 0.01, seed=1), MetaMatcher(features, 0.01, seed=2)
    for _ in range(3):
        first.update(first.pick(STUDENT, ENTRIES), 0.5)
    second.load_state_dict(first.state_dict())
    for matcher in (first, second):
        matcher.update(matcher.pick(STUDENT, ENTRIES), -0.3)
    picks = [matcher.pick(STUDENT, ENTRIES) for matcher in (first, second)]
    assert picks[0].entry == picks[1].entry
    assert picks[0].weight == picks[1].weight


def test_a_meta_network_that_was_never_used_has_an_empty_state():
    assert MetaMatcher(features).state_dict() == {}
    MetaMatcher(features).load_state_dict({})


def test_the_seed_decides_the_first_weights():
    weights = [MetaMatcher(features, seed=seed).pick(STUDENT, ENTRIES).weight for seed in (1, 1, 2)]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize("start", [0.1, 0.5, 0.8])
def test_a_meta_network_starts_near_its_match_weight(start):
    twin = {"layer": 4}
    same = tuple(BoardEntry({"layer": name, "copy": 0}, 0.5, 1.0, 0) for name in (4,))
    found = [make_matcher("meta", features, seed=seed, weight=start).pick(twin, same).weight for seed in range(40)]
    # The outputs are equal, so rho is the sigmoid of the bias, which is even about the logit of the start.
    logits = torch.logit(torch.tensor(found))
    bound = 40**-0.5
    assert float((logits - torch.logit(torch.tensor(start))).abs().max()) <= bound + 1e-5
    assert float(logits.std()) > bound / 3


def test_a_start_of_one_half_leaves_the_first_weights_as_they_were():
    network = MetaMatcher(features, seed=1)
    network.pick(STUDENT, ENTRIES)
    drawn = torch.nn.utils.skip_init(nn.Linear, 40, 1)
    generator = torch.Generator().manual_seed(1)
    for parameter in drawn.parameters():
        parameter.data.uniform_(-(40**-0.5), 40**-0.5, generator=generator)
    assert all(map(torch.equal, drawn.parameters(), network._network.parameters()))


@pytest.mark.parametrize("name", ["random", "best"])
def test_a_fixed_match_weight_is_the_one_that_was_given(name):
    assert make_matcher(name, features, weight=0.3).pick(STUDENT, ENTRIES).weight == 0.3
    assert make_matcher(name, features).pick(STUDENT, ENTRIES).weight == 0.5


def test_making_a_meta_network_draws_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    MetaMatcher(features).pick(STUDENT, ENTRIES)
    assert torch.equal(before, torch.get_rng_state())


def test_random_teachers_are_uniform_and_resume():
    matcher = RandomMatcher(seed=1)
    counts = Counter(matcher.pick(STUDENT, ENTRIES).entry.key for _ in range(4000))
    assert chisquare(list(counts.values())).pvalue > 0.001
    other = RandomMatcher(seed=9)
    other.load_state_dict(matcher.state_dict())
    picks = [[item.pick(STUDENT, ENTRIES).entry.key for _ in range(10)] for item in (matcher, other)]
    assert picks[0] == picks[1]


def test_the_best_entry_teaches_everyone():
    assert BestMatcher().pick(STUDENT, ENTRIES) == Match(ENTRIES[0], 0.5)


@pytest.mark.parametrize("name", ["random", "best"])
def test_where_nobody_learns_the_match_weight_it_is_the_one_given(name):
    assert make_matcher(name, features).pick(STUDENT, ENTRIES).weight == 0.5
    matcher = make_matcher(name, features, weight=0.2)
    assert {matcher.pick(STUDENT, ENTRIES).weight for _ in range(5)} == {0.2}


@pytest.mark.parametrize("start", [0.1, 0.5, 0.9])
def test_a_meta_network_starts_near_the_match_weight_given(start):
    def alike(path) -> Tensor:
        return features(ENTRIES[0].path)

    weights = [make_matcher("meta", alike, seed=seed, weight=start).pick(STUDENT, ENTRIES).weight for seed in range(50)]
    odds = [math.log(weight / (1 - weight)) - math.log(start / (1 - start)) for weight in weights]
    assert max(map(abs, odds)) <= 40**-0.5 + 1e-5  # the bound of a linear layer's first bias, 40 inputs wide
    assert min(odds) < -0.05 < 0.05 < max(odds)


def test_where_a_meta_network_starts_moves_its_bias_alone():
    states = [make_matcher("meta", features, seed=1, weight=weight) for weight in (0.5, 0.9)]
    for matcher in states:
        matcher.pick(STUDENT, ENTRIES)
    half, high = (matcher.state_dict()["network"] for matcher in states)
    assert torch.equal(half["weight"], high["weight"])
    assert float(high["bias"] - half["bias"]) == pytest.approx(math.log(9), abs=1e-5)
    assert half["bias"].abs() <= 40**-0.5


@pytest.mark.parametrize("name", ["meta", "random", "best"])
def test_an_empty_board_has_no_teacher(name):
    assert make_matcher(name, features).pick(STUDENT, ()) is None


def test_without_matching_there_is_never_a_teacher():
    matcher = make_matcher("none", features)
    assert isinstance(matcher, NoMatcher)
    assert matcher.pick(STUDENT, ENTRIES) is None
    matcher.update(Match(ENTRIES[0], 0.5), 1.0)
    matcher.forget()
    matcher.load_state_dict(matcher.state_dict())


def test_only_the_meta_network_learns():
    assert [make_matcher(name, features).learns for name in ("meta", "random", "best", "none")] == [True] + [False] * 3


def test_an_unknown_matching_is_refused():
    with pytest.raises(ConfigError, match="expected one of meta, random, best, none"):
        make_matcher("teacher", features)
