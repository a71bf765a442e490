"""What a teacher does to a step of the weights: the whole step is written out by hand beside it, in float64."""

from __future__ import annotations

import copy
import math
from collections import Counter
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.nn import functional

from nni_cream import CreamStrategy
from nni_cream.errors import ConfigError, SearchError
from nni_cream.search import BoardEntry, Match, RandomPaths, Score
from nni_cream.search.ranks import Ranks
from nni_cream.search.scoring.scores import top1
from nni_cream.search.supernet.forward_recorder import observed
from nni_cream.search.supernet.frozen import used_parameters
from nni_cream.search.teaching.distiller import Distiller
from nni_cream.search.teaching.losses import soft_cross_entropy
from nni_cream.search.teaching.weight_average import WeightAverage
from tests.search import small
from tests.search.loop.test_wiring import LEARNING_RATE, Before, frozen_with, search
from tests.search.small import AS_PUBLISHED, SPACES, LayerSpace, digits, evaluator, run, supernet
from tests.search.teaching.test_joint_loss import softened

pytestmark = pytest.mark.integration  # whole searches and trainings, small as they are


def cream(**settings: Any) -> CreamStrategy:
    """A strategy that teaches as the paper does, unless the settings say otherwise."""
    return small.cream(**{**AS_PUBLISHED, "board_size": 3, "warmup": 0, "score_interval": 1, "seed": 4, **settings})


class ByHand(Before):
    """Repeats each step of the weights on a copy of the supernet, from the formulas alone."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.outcomes: Counter[str] = Counter()

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        super().on_train_batch_start(trainer, module, batch, batch_idx)
        self.teaching = dict(self.weights)
        if self.settings.get("teacher_weights") == "average":
            averages = module.average.averages()
            names = {id(item): name for name, item in module.training_module.named_parameters()}
            own = module.supernet.space.named_parameters()
            self.teaching |= {name: averages[names[id(item)]].clone() for name, item in own}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        expected = self.step(module, batch)
        for name, parameter in module.supernet.space.named_parameters():
            torch.testing.assert_close(parameter.detach(), expected[name], atol=1e-12, rtol=1e-10)

    def step(self, module, batch) -> dict[str, Tensor]:
        copied = copy.deepcopy(module.supernet.space)
        copied.load_state_dict(self.weights)
        x, y = batch
        network = type(module.supernet)(copied).view(module._path).train()
        student = network(x)
        self.joined(student, functional.cross_entropy(student, y), module, batch).backward()
        return {
            name: item.detach() - (0 if item.grad is None else LEARNING_RATE * item.grad)
            for name, item in copied.named_parameters()
        }

    def joined(self, student: Tensor, task: Tensor, module, batch) -> Tensor:
        match, settings = module._match, self.settings
        if match is None:
            return self.outcome("no teacher", task)
        with torch.no_grad():
            teacher = frozen_with(module, match.entry.path, self.teaching)(batch[0])
        losses = [float(functional.cross_entropy(logits.detach(), batch[1])) for logits in (teacher, student)]
        if settings.get("distillation_gate") and losses[0] >= losses[1]:
            return self.outcome("gate closed", task)
        taught = softened(student, teacher, settings.get("temperature", 1.0))
        added = task + match.weight * taught
        mixed = (match.weight * taught + (2 - match.weight) * task) / 2
        return self.outcome("taught", added if settings.get("joint_loss") == "add" else mixed)

    def outcome(self, name: str, loss: Tensor) -> Tensor:
        self.outcomes[name] += 1
        return loss


def log_likelihood(output: Tensor, target: Tensor) -> Tensor:
    """A score that tells networks apart that have hardly learned anything."""
    return output.log_softmax(1)[torch.arange(len(target)), target]


OPTIONS: dict[str, dict[str, Any]] = {
    "as published": {},
    "defaults": {
        "joint_loss": "add",
        "teacher_weights": "average",
        "ema_decay": 0.99,
        "distillation_gate": True,
        "score": log_likelihood,
    },
    "temperature": {"temperature": 3.0},
    "added loss": {"joint_loss": "add", "match_weight": 0.8},
    "averaged teacher": {"teacher_weights": "average", "ema_decay": 0.5},
    "gate": {"distillation_gate": True, "score": log_likelihood},
    "fast meta network": {"matching": "meta", "meta_interval": 1, "meta_learning_rate": 0.01},
    "all of them": {
        "matching": "meta",
        "temperature": 2.0,
        "joint_loss": "add",
        "teacher_weights": "average",
        "ema_decay": 0.9,
        "distillation_gate": True,
        "score": log_likelihood,
    },
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_step_of_the_weights_is_the_one_worked_out_by_hand(name):
    settings = {"matching": "random", **OPTIONS[name]}
    by_hand = ByHand(settings)
    search(cream(**settings), by_hand, max_epochs=5)
    outcomes = by_hand.outcomes
    assert sum(outcomes.values()) == 20
    assert outcomes["taught"] >= (1 if name == "all of them" else 3)
    assert name != "gate" or outcomes["gate closed"] >= 3
    assert name != "all of them" or min(outcomes["taught"], outcomes["gate closed"]) >= 1


# Temperature ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 10.0])
def test_soft_cross_entropy_at_a_temperature_is_kl_divergence_and_entropy_times_its_square(temperature):
    student, teacher = torch.randn(2, 6, 4, dtype=torch.float64).unbind()
    torch.testing.assert_close(
        soft_cross_entropy(student, teacher, temperature), softened(student, teacher, temperature)
    )


def test_at_a_high_temperature_the_gradient_is_that_of_matching_logits():
    """Hinton et al., section 2.1: in the limit, with logits of mean zero, dL/dz = (z - v) / N."""
    student, teacher = (logits - logits.mean(1, keepdim=True) for logits in torch.randn(2, 6, 4).double().unbind())
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(soft_cross_entropy(student, teacher, 1e4), student)
    torch.testing.assert_close(gradient, (student - teacher).detach() / 4 / 6, atol=1e-4, rtol=1e-3)


def test_a_temperature_of_one_is_the_same_bits_as_none():
    student, teacher = torch.randn(2, 6, 4).unbind()
    assert torch.equal(soft_cross_entropy(student, teacher, 1.0), soft_cross_entropy(student, teacher))


# Teachers of averaged weights -----------------------------------------------------------------------------------------


def averaged(space) -> tuple[Any, WeightAverage]:
    torch.manual_seed(0)
    net = supernet(space)
    average = WeightAverage(net.space, 0.5)
    with torch.no_grad():
        for parameter in net.space.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    average.update()
    return net, average


def distiller(net, average: WeightAverage | None, **settings: Any) -> Distiller:
    return made(net, cream(ema_decay=0.5, teacher_weights="average", **settings), average)


def made(net, strategy: CreamStrategy, average: WeightAverage | None, **more: Any) -> Distiller:
    settings = strategy._settings
    return Distiller(net, settings.teaching, settings.distillation, settings.score, average, **more)


@pytest.mark.parametrize("kind", SPACES.values())
def test_an_averaged_teacher_answers_as_a_frozen_copy_of_the_averaged_weights(kind):
    net, average = averaged(kind())
    sampler, x = RandomPaths(net.space, seed=1), digits(16)[:][0]
    before = {name: value.clone() for name, value in net.space.state_dict().items()}
    storages = {name: parameter.data_ptr() for name, parameter in net.space.named_parameters()}
    for _ in range(4):
        student, teacher = sampler.draw(), sampler.draw()
        net.activate(student)
        with observed(net.space) as calls, net.detached(grad=True):
            net.space(x)
        logits = distiller(net, average)._teach(teacher, calls)[0]

        copied = copy.deepcopy(net)
        state = average.averages()
        copied.space.load_state_dict({**copied.space.state_dict(), **state})
        network = copied.freeze(teacher).train()
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.eval()
        with torch.no_grad():
            torch.testing.assert_close(logits, network(x), atol=1e-6, rtol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in net.space.state_dict().items())
    assert storages == {name: parameter.data_ptr() for name, parameter in net.space.named_parameters()}


def test_weights_are_put_back_when_an_averaged_teacher_fails():
    net, average = averaged(LayerSpace())
    path, x = RandomPaths(net.space).draw(), digits(16)[:][0]
    net.activate(path)
    with observed(net.space) as calls, net.detached(grad=True):
        net.space(x)
    before = [parameter.clone() for parameter in net.space.parameters()]
    net.space.head.register_forward_hook(_boom)
    with pytest.raises(RuntimeError, match="boom"):
        distiller(net, average)._teach(path, calls)
    assert all(torch.equal(old, new) for old, new in zip(before, net.space.parameters(), strict=True))


def _boom(*_: Any) -> None:
    raise RuntimeError("boom")


@pytest.mark.parametrize("kind", SPACES.values())
def test_a_path_uses_no_parameter_that_is_not_among_those_exchanged_for_it(kind):
    net = supernet(kind())
    sampler, x = RandomPaths(net.space, seed=2), digits(8)[:][0]
    for _ in range(5):
        path = sampler.draw()
        net.activate(path)
        net.space.zero_grad()
        net.space(x).sum().backward()
        reached = {id(item) for item in net.space.parameters() if item.grad is not None}
        assert reached <= {id(item) for item in used_parameters(net.space, path)}


def test_candidates_that_a_path_does_not_choose_are_not_exchanged():
    net = supernet(LayerSpace())
    path = {f"layer_{index}": "identity" for index in range(4)}
    used = {id(item) for item in used_parameters(net.space, path)}
    expected = {id(item) for part in (net.space.stem, net.space.head) for item in part.parameters()}
    assert used == expected


# The gate -------------------------------------------------------------------------------------------------------------


def test_where_the_gate_never_opens_the_search_is_that_without_teachers_bit_for_bit():
    tie = Score(lambda output, target: torch.zeros(len(target)), upper_bound=0.0)
    found = []
    for settings in (
        {"matching": "none"},
        {"matching": "best", "distillation_gate": True},
        {"matching": "meta", "distillation_gate": True},
    ):
        pl.seed_everything(3)
        strategy = cream(score=tie, meta_interval=2, **settings)
        found.append(run(LayerSpace(), strategy, evaluator(max_epochs=2)))
    plain, *gated = found
    for strategy in gated:
        assert strategy.statistics["distilled"] == strategy.statistics["meta_updates"] == 0
        assert strategy.board.to_json() == plain.board.to_json()
        theirs = plain.supernet.state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in strategy.supernet.state_dict().items())


@pytest.mark.parametrize(("student_right", "open_"), [(3, True), (4, False), (5, False)])
def test_the_gate_opens_only_for_a_teacher_that_is_right_more_often(student_right, open_):
    targets = torch.arange(6) % 3

    def logits(right: int) -> Tensor:
        return functional.one_hot((targets + (torch.arange(6) >= right)) % 3, 3).double()

    gate = distiller(supernet(LayerSpace()), None, distillation_gate=True)
    student = logits(student_right).requires_grad_()
    assert bool(gate._gate([logits(4)], [student], (torch.zeros(6, 1), targets))) is open_


def test_a_teacher_without_finite_outputs_leaves_the_student_alone(monkeypatch):
    net = supernet(LayerSpace())
    path, (x, y) = RandomPaths(net.space).draw(), digits(8)[:]
    net.activate(path)
    with observed(net.space) as calls:
        logits = net.space(x)
    gated = distiller(net, None, distillation_gate=True, score=log_likelihood)
    monkeypatch.setattr(gated, "_teach", lambda path, passes: [torch.full_like(logits, math.inf)])
    lesson = gated.teach(path, Match(BoardEntry(path, 0.5, 1.0, 0), 0.5), calls, (x, y))
    task = functional.cross_entropy(logits, y)
    plain = torch.autograd.grad(task, net.space.head.weight, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(gated.joined(lesson, 0.5, task), net.space.head.weight)[0], plain)


@pytest.mark.parametrize("kind", ["a mean", "a figure of the set"])
def test_all_processes_follow_the_mean_lead(kind):
    net = supernet(LayerSpace())
    targets = torch.zeros(4, dtype=torch.long)
    right, wrong = torch.eye(3)[[0] * 4], torch.eye(3)[[1] * 4]
    counts = Score(lambda output, target: top1(output, target)[:, None], value=lambda sums: sums[0])
    strategy = cream(distillation_gate=True, **({} if kind == "a mean" else {"score": counts}))

    class Two(Ranks):
        def __init__(self, other):
            super().__init__()
            self.other = other

        def gather(self, compute):
            return [compute(), self.other]

        def mean(self, tensors):
            return [(tensor + self.other) / 2 for tensor in tensors]

    for other, open_ in ((-5, False), (-3, True)):
        assert bool(made(net, strategy, None, ranks=Two(other))._gate([right], [wrong], (targets, targets))) is open_
    for other, open_ in ((5, True), (3, False)):
        assert bool(made(net, strategy, None, ranks=Two(other))._gate([wrong], [right], (targets, targets))) is open_


# A later start --------------------------------------------------------------------------------------------------------


class Steps(Callback):
    """Whether each step had a teacher, the size of the board, and the weights after it."""

    def __init__(self) -> None:
        self.taught: list[bool] = []
        self.sizes: list[int] = []
        self.weights: list[list[Tensor]] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.taught.append(module._match is not None)
        self.sizes.append(len(module.board))
        self.weights.append([parameter.detach().clone() for parameter in module.supernet.space.parameters()])


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("start", [2, 0.5])
def test_before_its_start_distillation_leaves_the_steps_as_they_are_without_teachers(start):
    steps, plain = Steps(), Steps()
    # warmup is 0 steps: an integer where the start is a fraction, so that they are compared when the training begins.
    strategy = search(cream(distillation_start=start, meta_interval=1), steps, max_epochs=4)
    search(cream(matching="none"), plain, max_epochs=4)
    assert steps.taught == [False] * 8 + [True] * 8
    assert min(steps.sizes[3:]) >= 3  # the board does not wait
    assert all(same(a, b) for a, b in zip(steps.weights[:8], plain.weights[:8], strict=True))
    assert not same(steps.weights[8], plain.weights[8])
    assert strategy.statistics["distilled"] == 1


@pytest.mark.parametrize(("share", "taught"), [(0.25, "0001" * 4), (0.4, "00101" * 3 + "0"), (1.0, "0" + "1" * 15)])
def test_a_share_of_the_steps_has_a_teacher_at_even_distances(share, taught):
    steps, plain = Steps(), Steps()
    strategy = search(cream(share=share, meta_interval=4), steps, max_epochs=4)
    search(cream(matching="none"), plain, max_epochs=4)
    assert steps.taught == [step == "1" for step in taught]  # the first step finds an empty board
    first = taught.index("1")
    assert all(same(a, b) for a, b in zip(steps.weights[:first], plain.weights[:first], strict=True))
    assert not same(steps.weights[first], plain.weights[first])
    assert strategy.oneshot_module.tally.meta_updates == 1
    assert strategy.statistics["distilled"] == steps.taught[-4:].count(True) / 4


def test_before_its_start_the_meta_network_does_not_learn():
    updates: list[float] = []

    class Look(Callback):
        def on_train_epoch_end(self, trainer, module) -> None:
            updates.append(module.tally.meta_updates)

    search(cream(distillation_start=1, meta_interval=1), Look(), max_epochs=2)
    assert updates == [0, 4]


def test_a_start_after_the_end_of_the_training_is_refused():
    with pytest.raises(ConfigError, match=r"teaching.start is 4 epochs; .* there would be no teachers"):
        search(cream(distillation_start=4), max_epochs=4)


def test_a_fraction_of_a_training_without_an_end_is_refused_by_the_settings_name():
    with pytest.raises(ConfigError, match=r"teaching.start is 0\.5; expected a whole number of epochs"):
        search(cream(distillation_start=0.5), max_epochs=-1)


@pytest.mark.parametrize(("start", "warmup"), [(1, 0.5), (0.25, 2), (0.25, 0.5), (0, 2)])
def test_distillation_starts_no_earlier_than_the_board_whatever_its_start_says(start, warmup):
    steps = Steps()
    search(cream(warmup=warmup, distillation_start=start), steps, max_epochs=4)
    untaught = 8 if isinstance(warmup, float) else 9  # the last step of a part, the first after whole epochs, fills it
    assert steps.sizes[untaught - 1 : untaught + 1] == [0, 1]  # as the callback sees it, before what follows on a step
    assert steps.taught == [False] * untaught + [True] * (16 - untaught)


def test_without_matching_there_is_no_start_that_could_be_wrong():
    search(cream(matching="none", distillation_start=4), max_epochs=4)


# What the meta network compares ---------------------------------------------------------------------------------------


def test_paths_are_compared_by_what_their_frozen_networks_answer():
    strategy = search(cream())
    module = strategy.oneshot_module
    sampler, probe = RandomPaths(module.supernet.space, seed=9), module.scorer.subset.probe(4)
    for _ in range(3):
        path = sampler.draw()
        network = frozen_with(module, path, module.supernet.space.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(module._features(path), network(probe).softmax(1).float(), atol=1e-5, rtol=1e-4)


def test_a_student_without_gradients_is_an_error():
    net = supernet(LayerSpace())
    match = Match(BoardEntry(RandomPaths(net.space).draw(), 0.5, 1.0, 0), 0.5)
    net.activate(match.entry.path)
    x, y = digits(8)[:]
    with observed(net.space) as calls, torch.no_grad():
        net.space(x)
    with pytest.raises(SearchError, match="did not run the model with gradients"):
        distiller(net, None).teach(match.entry.path, match, calls, (x, y))


def test_the_score_of_a_gate_that_does_not_fit_is_named():
    gate = distiller(
        supernet(LayerSpace()), None, distillation_gate=True, score=lambda output, target: top1(output, target).mean()
    )
    with pytest.raises(SearchError, match=r"score function .* returned"):
        gate._gate([torch.eye(3)], [torch.eye(3)], (torch.zeros(3, 1), torch.arange(3)))
