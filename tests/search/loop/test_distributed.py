"""Processes on a CPU search as one: the same path, teacher and board as a single process has at every step."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import Lightning, LightningModule, Trainer
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.nn import functional
from torch.utils.data import Sampler

from nni_cream.search.scoring.scorer import PathScorer
from tests.examples.own_sampler import MutatingSampler
from tests.ranks import ends_of_ranks, in_ranks
from tests.search.small import AS_PUBLISHED, TRAINER, DataLoader, LayerSpace, cream, digits, evaluator, run

pytestmark = pytest.mark.integration


class Steps(Callback):
    """Notes what each step decided."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        match = None if module._match is None else [module._match.entry.key, module._match.weight]
        self.seen.append([list(module._path.values()), match, module.tally.distilled, module.board.to_json()])


def weights_of(strategy: Any) -> list[float]:
    return torch.cat([item.detach().flatten() for item in strategy.supernet.parameters()]).tolist()


def meta_of(strategy: Any) -> list[float]:
    network = strategy.oneshot_module.matcher.state_dict().get("network", {})
    return [number for value in network.values() for number in value.flatten().tolist()]


# The same images in as many processes as one likes -----------------------------------------------------------------


def block(kernel: int, groups: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(8, 8, kernel, padding=kernel // 2), nn.GroupNorm(groups, 8), nn.SiLU())


class SampleSpace(ModelSpace):
    """Normalises each sample by itself: with BatchNorm, half a batch would be another step.

    It is smooth: at the kink of a ReLU, the rounding of another order of sums would become another gradient.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        choices = {"identity": nn.Identity, "conv_1x1": lambda: block(1), "conv_3x3": lambda: block(3)}
        self.layers = nn.Sequential(
            *[LayerChoice({name: make() for name, make in choices.items()}, label=f"layer_{n}") for n in range(4)]
        )
        self.head = nn.Linear(8 * 64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.stem(x)).flatten(1))


class Order(Sampler):
    """A new order in each epoch, of which each process has every n-th image."""

    def __init__(self, size: int, processes: int) -> None:
        self.size, self.processes = size, processes
        self.generator = torch.Generator().manual_seed(5)

    def __len__(self) -> int:
        return self.size // self.processes

    def __iter__(self):
        order = torch.randperm(self.size, generator=self.generator).tolist()
        return iter(order[int(os.environ["LOCAL_RANK"]) :: self.processes])


class Plain(LightningModule):
    def forward(self, x):
        return self.model(x)

    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        # Both would move a weight whose gradient is zero, and leave one that has none.
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3)


def search_in(processes: int, settings: dict[str, Any], by_ddp: bool = False, **trainer: Any) -> list[Any]:
    pl.seed_everything(0)
    steps, batch = Steps(), 32
    strategy = DDPStrategy(find_unused_parameters=True, broadcast_buffers=by_ddp)
    more = {"strategy": strategy, "devices": processes, "use_distributed_sampler": False}
    more = more if processes > 1 else {}
    use = Lightning(
        Plain(),
        Trainer(**{**TRAINER, "max_epochs": 3, "limit_val_batches": 0, "callbacks": [steps], **more, **trainer}),
        DataLoader(digits(320), batch_size=batch // processes, sampler=Order(320, processes)),
        DataLoader(digits(200, start=1300), batch_size=100),
    )
    strategy = run(SampleSpace(), cream(board_size=5, seed=1, score_interval=2, **settings), use)
    return [steps.seen, weights_of(strategy), meta_of(strategy)]


SETTINGS = {
    "defaults": ({"warmup": 1, "meta_interval": 5, "meta_learning_rate": 0.001}, {}),
    "paper": ({"warmup": 0, "meta_interval": 5, "meta_learning_rate": 0.01, **AS_PUBLISHED}, {"by_ddp": True}),
    "accumulation": (
        {"warmup": 0, "meta_interval": 4, "ema_decay": 0.9, "proposals": "predicted"},
        {"accumulate_grad_batches": 2},
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_two_processes_with_half_the_batch_each_equal_one_with_the_whole(name, tmp_path):
    settings, trainer = SETTINGS[name]
    (alone,) = in_ranks(1, lambda rank: search_in(1, settings, **trainer), tmp_path)
    first, second = in_ranks(2, lambda rank: search_in(2, settings, **trainer), tmp_path)
    assert len(alone[0]) == 30
    assert first[:2] == second[:2], "all that both decide or train is the same to the last bit"
    for ours, theirs in zip(alone[0], first[0], strict=True):
        assert ours[0] == theirs[0]
        assert (ours[1] or [None])[0] == (theirs[1] or [None])[0]
        assert ours[2] == theirs[2]
        assert ours[3]["entries"] == theirs[3]["entries"]
    assert sum(step[1] is not None for step in alone[0]) > 12
    assert max(abs(a - b) for a, b in zip(alone[1], first[1], strict=True)) < 2e-5
    assert max(abs(a - b) for a, b in zip(alone[2], first[2], strict=True)) < 1e-6


# Differences between processes -------------------------------------------------------------------------------------


def both(change: Callable[[Steps], None], rank: int, settings: dict[str, Any], **trainer: Any) -> list[Any]:
    pl.seed_everything(0)
    steps = Steps()
    use = evaluator(strategy="ddp_find_unused_parameters_true", devices=2, callbacks=[steps], **trainer)
    if rank:
        change(steps)
    strategy = run(LayerSpace(), cream(board_size=4, warmup=0, score_interval=1, seed=1, **settings), use)
    average = strategy.oneshot_module.average
    averages = {} if average is None else {name: value.tolist() for name, value in average.averages().items()}
    sets = [(digits(64), 32), (digits(200, start=1000), 100)]
    strategy.finalise(*(DataLoader(images, batch_size=size) for images, size in sets))
    return [steps.seen, strategy.board.to_json(), weights_of(strategy), averages, average and average.updates]


def flip_every_fifth_score(steps: Steps) -> None:
    output, count = PathScorer._output, iter(range(10**6))

    def flipped(self, inputs):
        return output(self, inputs.flip(-1) if next(count) % 5 == 0 else inputs)

    PathScorer._output = flipped  # in this process, which ends after the test


@pytest.mark.parametrize(
    "settings",
    [
        {
            "matching": "meta",
            "meta_interval": 3,
            "ema_decay": 0.9,
            "sampling": MutatingSampler(),
            "distillation_gate": True,
            "teacher_weights": "average",
        },
        {"matching": "random", "ema_decay": 0.9},
    ],
    ids=["meta", "random"],
)
def test_one_process_that_scores_otherwise_changes_no_decision_of_its_own(settings, tmp_path):
    more = {"gradient_clip_val": 0.5, "accumulate_grad_batches": 2} if settings["matching"] == "random" else {}
    first, second = in_ranks(2, lambda rank: both(flip_every_fifth_score, rank, settings, **more), tmp_path)
    assert first == second
    assert any(match is not None for _, match, *_ in first[0])
    assert len(first[1]["entries"]) == 4
    assert all(0 <= entry["validated"] <= 1 for entry in first[1]["entries"])
    assert first[4] == len(first[0]) // more.get("accumulate_grad_batches", 1), "an average of steps, not of batches"


OFFSETS = [0]


def measured(network: nn.Module, inputs: Any) -> float:
    """A cost that one process may measure otherwise, as a latency."""
    return sum(item.numel() for item in network.parameters()) + OFFSETS[0]


def test_one_process_that_measures_a_cost_out_of_the_range_changes_no_decision_of_its_own(tmp_path):
    settings = {"cost": measured, "cost_range": (None, 2000)}
    first, second = in_ranks(
        2, lambda rank: both(lambda steps: OFFSETS.__setitem__(0, 10**6), rank, settings), tmp_path
    )
    assert first == second
    assert all(0 < entry["cost"] <= 2000 for entry in first[1]["entries"])


def test_boards_that_differ_are_an_error_that_names_the_rank(tmp_path):
    def forget(steps: Steps) -> None:
        note = steps.on_train_batch_end

        def lose(trainer, module, *rest):
            note(trainer, module, *rest)
            if len(steps.seen) == 10:
                module.board._entries.pop()

        steps.on_train_batch_end = lose

    messages = ends_of_ranks(2, lambda rank: both(forget, rank, {}, max_epochs=20), tmp_path)
    for text in messages:
        assert "the board of rank 1 differs from that of rank 0 at step 12; expected the same" in text


def test_a_failure_while_one_process_scores_ends_both_and_is_named(tmp_path):
    def change(steps: Steps) -> None:
        output = PathScorer._output

        def sometimes(self, inputs):
            if len(steps.seen) > 5:
                raise RuntimeError("a cosmic ray")
            return output(self, inputs)

        PathScorer._output = sometimes

    messages = ends_of_ranks(2, lambda rank: both(change, rank, {}), tmp_path)
    assert "SearchError: rank 1 of 2 has failed, so rank 0 ends, too: RuntimeError: a cosmic ray" in messages[0]
    assert "RuntimeError: a cosmic ray" in messages[1]
