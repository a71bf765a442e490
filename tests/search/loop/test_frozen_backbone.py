"""Normalisations that the user keeps in evaluation mode keep their statistics wherever the supernet runs."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import DataLoader
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import Tensor, nn

from nni_cream.search import Supernet
from tests.search.small import conv, cream, digits, evaluator, run

pytestmark = pytest.mark.integration  # whole searches, small as they are


class Transfer(ModelSpace):
    """A backbone that is trained no more, with statistics of its own, and a head to search."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        images = digits(1000).tensors[0]
        with torch.no_grad():
            for _ in range(50):
                self.backbone(images[:500] * 1.5 + 0.5)  # of other images than the search's
        self.backbone.requires_grad_(False)
        self.layer = LayerChoice([conv(16, 3, 8), conv(16, 1, 8)], label="layer")
        self.second = LayerChoice([conv(8, 3, 8), nn.Identity()], label="second")
        self.head = nn.Linear(8, 10)

    def train(self, mode: bool = True) -> Transfer:
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.layer(self.backbone(x))).mean((2, 3)))


def searched(**settings: Any) -> Any:
    pl.seed_everything(0)
    return run(Transfer(), cream(board_size=2, warmup=0, seed=0, **settings), evaluator())


@pytest.mark.parametrize("teachers", [{"teacher_weights": "current"}, {"ema_decay": 0.9}], ids=["current", "average"])
def test_statistics_of_the_backbone_are_those_that_the_user_gave_it(teachers: dict[str, Any]) -> None:
    pl.seed_everything(0)
    given = Transfer().backbone[1]
    strategy = searched(matching="meta", meta_interval=2, **{"ema_decay": None, **teachers})
    train, validation = digits(256), digits(200, start=1000)
    finalists = strategy.finalise(DataLoader(train, batch_size=64), DataLoader(validation, batch_size=100))
    for network in (strategy.supernet, *(finalist.network for finalist in finalists)):
        norm = network.backbone[1]
        torch.testing.assert_close(norm.running_mean, given.running_mean, rtol=0, atol=0)
        torch.testing.assert_close(norm.running_var, given.running_var, rtol=0, atol=0)
    trained = finalists[0].network.layer[1]
    assert not torch.equal(trained.running_mean, torch.zeros_like(trained.running_mean))


def test_scores_teachers_and_probes_see_the_backbone_as_the_training_does() -> None:
    strategy = searched(matching="none", ema_decay=0.9)
    module, images = strategy.oneshot_module, digits(64, start=1000).tensors[0]
    net: Supernet = module.supernet
    path = dict(strategy.board.best.path)
    net.activate(path)
    strategy.supernet.train()
    expected = strategy.supernet.backbone(images)
    seen: list[Tensor] = []
    handle = strategy.supernet.backbone.register_forward_hook(lambda module, args, output: seen.append(output))
    strategy.supernet.eval()  # as during a validation
    with net.evaluating():
        strategy.supernet(images)
    with net.detached():
        strategy.supernet(images)
    handle.remove()
    for output in seen:
        torch.testing.assert_close(output, expected)
    assert len(seen) == 2


def test_norm_that_the_user_stops_training_later_keeps_its_statistics_from_then_on() -> None:
    class Stopping(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, module: Any) -> None:
            module.model.layer.eval()

    pl.seed_everything(0)
    strategy = run(Transfer(), cream(board_size=2, warmup=0, seed=0, ema_decay=0.9), evaluator(callbacks=[Stopping()]))
    net = strategy.oneshot_module.supernet
    frozen = net.freeze(dict(strategy.board.best.path))
    assert not frozen.backbone[1].training
    assert not frozen.layer[1].training
    assert all(item.training for item in frozen.second.modules() if isinstance(item, nn.BatchNorm2d))
