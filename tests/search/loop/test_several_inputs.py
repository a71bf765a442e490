"""Batches whose inputs are several tensors: the network gets them as the loader gives them."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule, Trainer
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import Tensor, nn
from torch.utils.data import Dataset

from tests.search.small import TRAINER, cream, digits, run

pytestmark = pytest.mark.integration  # whole searches, small as they are


class Halves(Dataset[Any]):
    """Digits cut in two, which a network gets as a list, tuple or mapping."""

    def __init__(self, count: int, kind: type, start: int = 0) -> None:
        self.whole, self.kind = digits(count, start), kind

    def __len__(self) -> int:
        return len(self.whole)

    def __getitem__(self, index: int) -> Any:
        image, label = self.whole[index]
        upper, lower = image[:, :4], image[:, 4:]
        return ({"upper": upper, "lower": lower} if self.kind is dict else (upper, lower)), label


class Joining(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        self.upper = LayerChoice([nn.Linear(32, 8), nn.Sequential(nn.Linear(32, 8), nn.ReLU())], label="upper")
        self.lower = LayerChoice([nn.Linear(32, 8), nn.Sequential(nn.Linear(32, 8), nn.ReLU())], label="lower")
        self.head = nn.Linear(16, 10)

    def forward(self, halves: Any) -> Tensor:
        upper, lower = halves.values() if isinstance(halves, dict) else halves
        return self.head(torch.cat([self.upper(upper.flatten(1)), self.lower(lower.flatten(1))], dim=1))


class Module(LightningModule):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss", nn.functional.cross_entropy(self.model(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("kind", [tuple, dict])
@pytest.mark.parametrize("cost", ["macs", "params"])
def test_search_of_several_inputs_ends_with_a_validated_board(kind: type, cost: str) -> None:
    pl.seed_everything(0)
    train, validation = DataLoader(Halves(256, kind), batch_size=32), DataLoader(Halves(100, kind, 1000), batch_size=50)
    use = Lightning(Module(), Trainer(max_epochs=2, **TRAINER), train_dataloaders=train, val_dataloaders=validation)
    strategy = run(Joining(), cream(board_size=3, warmup=0, cost=cost, meta_interval=2, seed=0), use)
    best = strategy.finalise(train, validation)[0]
    assert len(strategy.board) == 3
    assert strategy.statistics["meta_updates"] > 0
    assert best.entry.cost == {"macs": 2 * 32 * 8 + 160, "params": 2 * (32 * 8 + 8) + 170}[cost]
