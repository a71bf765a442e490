"""Gradient checkpointing runs parts of the student again during the backward pass: its gradients stay the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.search.small import AS_PUBLISHED, cream, evaluator, run

pytestmark = pytest.mark.integration  # whole searches, small as they are

Around = Callable[[Any, Tensor], Tensor]


class Checkpointed(ModelSpace):
    """LayerChoices without BatchNorm, whose statistics a second forward pass would change again."""

    def __init__(self, around: Around | None = None) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.layers = nn.ModuleList(
            LayerChoice(
                [nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 5, padding=2)], label=f"l{index}"
            )
            for index in range(3)
        )
        self.head = nn.Linear(8, 10)
        self.around = around

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.relu(layer(x) if self.around is None else self.around(layer, x))
        return self.head(x.mean((2, 3)))


def searched(around: Around | None, **settings: Any) -> Any:
    pl.seed_everything(0)
    # The paper's way teaches from the start, so that most steps have a teacher.
    given = {**AS_PUBLISHED, "board_size": 4, "warmup": 0, "score_interval": 2, "seed": 0, **settings}
    return run(Checkpointed(around), cream(**given), evaluator())


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("settings", [{"matching": "random"}, {"matching": "meta", "meta_interval": 2}], ids=str)
def test_search_is_the_same_with_and_without_it(settings: dict[str, Any], reentrant: bool) -> None:
    plain = searched(None, **settings)
    again = searched(partial(checkpoint, use_reentrant=reentrant), **settings)
    assert plain.statistics["distilled"] > 0.5
    assert [entry.path for entry in again.board.entries] == [entry.path for entry in plain.board.entries]
    weights = plain.supernet.state_dict()
    for name, value in again.supernet.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=1e-5, atol=1e-6)
    if settings["matching"] == "meta":
        assert plain.statistics["meta_updates"] == again.statistics["meta_updates"] > 0
        assert again.statistics["match_weight"] == pytest.approx(plain.statistics["match_weight"], abs=1e-6)
