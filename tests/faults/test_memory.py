"""Memory runs out while a path is scored: allocations that no machine can serve, refused by torch's own allocator."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nni_cream.errors import SearchError
from nni_cream.search.scoring.memory import PredictInMemory

TOO_MUCH = 2**48  # bytes: more than the address space of a process holds


class Hungry(nn.Module):
    """Needs far too much memory for more than a number of images."""

    def __init__(self, most: int, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.most = most
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        if len(images) > self.most:
            torch.empty(TOO_MUCH, dtype=torch.uint8)
        return self.layers(images)


def test_network_without_batch_statistics_is_scored_in_parts(caplog: pytest.LogCaptureFixture) -> None:
    network = Hungry(3, nn.Linear(4, 2), nn.LayerNorm(2))
    predict, images = PredictInMemory(network, network), torch.randn(10, 4)
    assert torch.allclose(predict(images), network.layers(images))
    assert network.seen == [10, 5, 3, 3, 2, 2]
    assert "scored in 4 parts from now on" in caplog.records[-1].message
    network.seen.clear()
    predict(images)
    assert network.seen == [3, 3, 2, 2]


def test_batch_statistics_are_never_those_of_other_chunks() -> None:
    network = Hungry(3, nn.Linear(4, 2), nn.BatchNorm1d(2))
    with pytest.raises(SearchError, match=r"scored on 10 images at once, and BatchNorm .* Lower the batch size"):
        PredictInMemory(network, network)(torch.randn(10, 4))
    assert network.seen == [10]


def test_image_that_does_not_fit_alone_is_an_error() -> None:
    network = Hungry(0, nn.Linear(4, 2))
    with pytest.raises(SearchError, match=r"on 4 images at once \(.*memory.*scoring.images"):
        PredictInMemory(network, network)(torch.randn(4, 4))


def test_card_without_memory_is_known_too() -> None:
    def full(images: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(SearchError, match="CUDA out of memory"):
        PredictInMemory(full, nn.BatchNorm1d(2))(torch.randn(4, 4))


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        PredictInMemory(nn.Linear(3, 2), nn.Linear(3, 2))(torch.randn(4, 4))
