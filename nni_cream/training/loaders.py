"""Loaders of batches: the same order and the same random changes for a seed, with any number of worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from nni.nas.evaluator.pytorch import DataLoader
from torch import Tensor, distributed
from torch.utils.data import Dataset, DistributedSampler

from nni_cream.errors import DataError
from nni_cream.rng import preserved_rng
from nni_cream.training.loader_options import Loading

__all__ = ["Images", "make_loader"]

Images = Dataset[tuple[Tensor, ...]]


def make_loader(
    dataset: Dataset[Any],
    batch_size: int,
    shuffle: bool = False,
    loading: Loading | None = None,
    generator: torch.Generator | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
) -> DataLoader:
    """Build a loader that NNI can record.

    Parameters
    ----------
    dataset
        Images and labels. One with a random ``with_transform`` (images decoded on demand) is seeded image by image, so
        that neither the number of workers nor an interruption changes the training.
    batch_size
        Images in one batch of one process.
    shuffle
        Whether to draw a new order in each epoch. Then the images that do not fill the last batch are left out:
        BatchNorm on a few images would be noise, on a single one an error.
        With a generator, several processes share each batch of the order.
    loading
        Worker processes and the like. Default: the images are read in this process.
    generator
        Source of the order. Default: torch's global generator.
    collate
        Makes a batch of a list of items. Default: torch's, which stacks them.

    Returns
    -------
    DataLoader
        The loader.
    """
    count = len(dataset)  # type: ignore[arg-type]  # torch's Dataset declares no length, those with images have one
    if count == 0:
        raise DataError("the data set holds no image; expected at least one.")
    # What NNI records is compared and written down, so an argument is only given where it says something.
    more = {} if loading is None else loading.arguments()
    if collate is not None:
        more["collate_fn"] = collate
    if shuffle and (generator is not None or hasattr(dataset, "with_transform")):
        dataset = (_SeededImages if hasattr(dataset, "with_transform") else _OrderedImages)(dataset, generator)
        more["sampler"] = _Order(dataset, batch_size)
    else:
        more["shuffle"] = shuffle
    if loading is not None or "sampler" in more:
        # The loader draws seeds for its workers, how often depends on them; nothing that we load makes use of these.
        more["generator"] = torch.Generator()
    return DataLoader(dataset, batch_size=batch_size, drop_last=shuffle and count >= batch_size, **more)


class _OrderedImages(Dataset[Any]):
    """Images, and the generator of their order.

    A checkpoint finds the generator here, also where another sampler took the place of ours
    (:func:`nni_cream.search.loop.image_order.loader_states`).
    """

    def __init__(self, source: Dataset[Any], generator: torch.Generator | None) -> None:
        self.source = source
        self.generator = generator

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        return self.source[index]

    def start_epoch(self) -> None:
        """Prepare an epoch; its order is drawn next."""


class _SeededImages(_OrderedImages):
    """Images whose random changes are drawn from a seed of the epoch and the image's index.

    A worker that stays from epoch to epoch has generators that no checkpoint knows of; after a resume there would be
    new ones, in another state.
    """

    def __init__(self, source: Dataset[Any], generator: torch.Generator | None) -> None:
        super().__init__(source, generator)
        # In shared memory, so that workers which are running already see the seed of a new epoch.
        self.epoch_seed = torch.zeros(1, dtype=torch.int64).share_memory_()

    def start_epoch(self) -> None:
        """Draw the seed of the epoch."""
        self.epoch_seed.random_(0, 2**31, generator=self.generator)

    def __getitem__(self, index: int) -> Any:
        with preserved_rng(int(np.random.SeedSequence((int(self.epoch_seed), index)).generate_state(1)[0])):
            return self.source[index]


class _Order(DistributedSampler[int]):
    """New order in each epoch, and with it a new seed for the changes of the images.

    Process r of n takes the r-th of n equal parts of each global batch. So all processes together see the batches that
    a single one with the whole batch would. Lightning replaces any sampler that is no ``DistributedSampler``.
    """

    def __init__(self, dataset: _OrderedImages, batch_size: int) -> None:
        # Lightning connects the processes later, so their number is looked up when it is needed.
        super().__init__(dataset, num_replicas=1, rank=0)
        self.images = dataset
        self.batch_size = batch_size

    def __len__(self) -> int:
        count, processes = len(self.images), _processes()
        if processes == 1:
            return count
        batches = count // (processes * self.batch_size)
        if batches == 0:
            raise DataError(
                f"the number of training images is {count}; expected at least {processes * self.batch_size}, a batch "
                f"of {self.batch_size} for each of {processes} processes. Use a smaller batch_size, or fewer devices."
            )
        return batches * self.batch_size

    def __iter__(self) -> Iterator[int]:
        count = len(self)
        self.images.start_epoch()
        order = torch.randperm(len(self.images), generator=self.images.generator)
        if _processes() > 1:
            whole = order[: count * _processes()]
            order = whole.view(-1, _processes(), self.batch_size)[:, distributed.get_rank()].flatten()
        yield from order.tolist()


def _processes() -> int:
    connected = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if connected else 1
