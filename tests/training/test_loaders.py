"""The order and the random changes of images, whoever reads them."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.distributed import DistributedSamplerWrapper
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from nni_cream.errors import ConfigError, DataError
from nni_cream.search.loop.image_order import loader_states, restore_loaders
from nni_cream.training import Loading, make_loader, seeded
from tests.ranks import in_ranks

IN_MEMORY = TensorDataset(torch.arange(24.0).reshape(24, 1, 1, 1), torch.arange(24))


class Decoded(Dataset[tuple[Tensor, ...]]):
    """Images with random changes by all three generators, as timm's are."""

    def with_transform(self, transform: Any) -> Decoded:
        raise NotImplementedError

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        drawn = [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002
        return torch.tensor([index, *drawn], dtype=torch.float64), torch.tensor(index)


def epochs(count: int, *, skip: int = 0, **arguments: Any) -> list[Tensor]:
    with seeded(3):
        loader = make_loader(Decoded(), 4, shuffle=True, **arguments)
        return [torch.cat([batch[0] for batch in loader]) for _ in range(count)][skip:]


def test_settings_reach_the_loader() -> None:
    loading = Loading(workers=2, prefetch=3, persistent=False, pin_memory=True)
    loader = make_loader(IN_MEMORY, 4, loading=loading)
    assert (loader.num_workers, loader.prefetch_factor) == (2, 3)
    assert (loader.persistent_workers, loader.pin_memory) == (False, True)
    assert make_loader(IN_MEMORY, 4, loading=Loading()).num_workers == 0


@pytest.mark.parametrize(("name", "value"), [("workers", -1), ("workers", True), ("prefetch", 0)])
def test_settings_out_of_range_are_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"loader\.{name} is {value}; expected a whole number"):
        Loading(**{name: value})


def test_no_image_is_an_error() -> None:
    with pytest.raises(DataError, match="holds no image"):
        make_loader(TensorDataset(torch.zeros(0, 1), torch.zeros(0)), 4)


def test_workers_change_neither_order_nor_random_changes() -> None:
    alone = epochs(2)
    helped = epochs(2, loading=Loading(workers=2))
    assert all(torch.equal(one, other) for one, other in zip(alone, helped, strict=True))


def test_each_epoch_has_another_order_and_other_changes() -> None:
    first, second = epochs(2)
    assert first[:, 0].sort().values.tolist() == second[:, 0].sort().values.tolist() == list(range(12))
    assert first[:, 0].tolist() != second[:, 0].tolist()
    assert not set(first[:, 1].tolist()) & set(second[:, 1].tolist())
    assert len(set(first[:, 1:].flatten().tolist())) == 36  # no image is changed as another


def test_generator_of_its_own_gives_its_order_whatever_else_is_drawn() -> None:
    orders = []
    for drawn in (0, 5):
        torch.rand(drawn)
        generator = torch.Generator().manual_seed(8)
        loader = make_loader(IN_MEMORY, 4, shuffle=True, generator=generator)
        orders.append(torch.cat([batch[1] for batch in loader]).tolist())
    assert orders[0] == orders[1] != list(range(24))


@pytest.mark.parametrize("dataset", [IN_MEMORY, Decoded()], ids=["in memory", "decoded"])
def test_order_of_several_devices_goes_on_where_it_was(dataset: Any) -> None:
    def shared(loader: Any) -> Any:
        """As Lightning does it for the second of two devices."""
        sampler = DistributedSamplerWrapper(loader.sampler, num_replicas=2, rank=1, shuffle=False)
        again = DataLoader(loader.dataset, batch_size=4, sampler=sampler, generator=loader.generator)
        return again, SimpleNamespace(fit_loop=SimpleNamespace(_combined_loader=CombinedLoader(again)))

    loader, trainer = shared(make_loader(dataset, 4, shuffle=True, generator=torch.Generator().manual_seed(8)))
    list(loader)
    states = loader_states(trainer)
    expected = torch.cat([batch[0].flatten() for batch in loader])
    other, resumed = shared(make_loader(dataset, 4, shuffle=True, generator=torch.Generator().manual_seed(9)))
    restore_loaders(states, resumed)
    assert torch.equal(torch.cat([batch[0].flatten() for batch in other]), expected)


def orders_of(processes: int, folder: Path) -> list[list[list[list[int]]]]:
    """Return process -> data set -> batch -> indices, over two epochs as Lightning prepares them."""

    def train(rank: int) -> list[list[list[int]]]:
        torch.manual_seed(rank)  # what a process draws must not matter
        seen: list[list[list[int]]] = []

        class Look(pl.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.weight = torch.nn.Parameter(torch.zeros(1))

            def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
                seen[-1].append(batch[1].tolist())
                return self.weight.sum()

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.SGD(self.parameters(), lr=0.1)

        for dataset in (IN_MEMORY, Decoded()):
            seen.append([])
            loader = make_loader(dataset, 4 // processes, shuffle=True, generator=torch.Generator().manual_seed(8))
            trainer = pl.Trainer(
                accelerator="cpu",
                devices=processes,
                strategy="ddp" if processes > 1 else "auto",
                max_epochs=2,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(Look(), loader)
        return seen

    return in_ranks(processes, train, folder)


@pytest.mark.integration
def test_two_processes_see_together_the_batches_of_one(tmp_path: Path) -> None:
    (alone,) = orders_of(1, tmp_path)
    first, second = orders_of(2, tmp_path)
    together = [[a + b for a, b in zip(*both, strict=True)] for both in zip(first, second, strict=True)]
    assert together == alone
    assert [len(batches) for batches in alone] == [12, 6]


def test_loader_that_does_not_shuffle_draws_nothing_from_the_training() -> None:
    before = torch.get_rng_state()
    list(make_loader(IN_MEMORY, 4, loading=Loading()))
    assert torch.equal(torch.get_rng_state(), before)


def test_reading_leaves_the_random_numbers_of_the_training_alone() -> None:
    loader = make_loader(Decoded(), 4, shuffle=True, generator=torch.Generator())
    torch.manual_seed(1)
    random.seed(1)
    expected = (torch.rand(2).tolist(), random.random())
    torch.manual_seed(1)
    random.seed(1)
    iterator = iter(loader)
    torch.manual_seed(1)  # the iterator's own seed is drawn when it is made
    next(iterator)
    assert (torch.rand(2).tolist(), random.random()) == expected
