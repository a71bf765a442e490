from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from nni_cream.search.scoring.class_order import warn_of_sorted_classes

NORMALISED = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
SORTED = torch.arange(10).repeat_interleave(36)


def pass_over(labels: Tensor, batch_size: int = 40, network: nn.Module = NORMALISED) -> int:
    batches = DataLoader(TensorDataset(torch.zeros(len(labels), 1), labels), batch_size=batch_size)
    return sum(len(y) for _, y in warn_of_sorted_classes(batches, network))


def test_a_loader_that_is_sorted_by_class_is_named_with_the_classes_of_a_batch(caplog):
    assert pass_over(SORTED) == 360
    (message,) = caplog.messages
    assert "batches that hold 2.0 of 10 classes on average; expected about 9.9" in message


@pytest.mark.parametrize(
    "labels",
    [
        SORTED[torch.randperm(360, generator=torch.Generator().manual_seed(0))],
        torch.cat([torch.zeros(355), torch.arange(5)])[torch.randperm(360)],  # no batch can hold all of these
        torch.linspace(-1, 1, 360),  # not classes
        torch.zeros(360, 4, 4),
    ],
)
def test_nothing_is_said_of_other_orders(caplog, labels):
    assert pass_over(labels) == 360
    assert not caplog.messages


def test_nothing_is_said_of_one_batch_or_of_a_network_without_batch_normalisation(caplog):
    pass_over(SORTED, batch_size=360)
    pass_over(SORTED, network=nn.Linear(1, 1))
    assert not caplog.messages
