"""Loaders of batches: the same order and the same random changes for a seed, with any number of worker processes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from nni.nas.evaluator.pytorch import DataLoader
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from nni_cream.errors import DataError
from nni_cream.rng import preserved_rng
from nni_cream.training.loader_options import Loading

__all__ = ["Images", "make_loader"]

Images = Dataset[tuple[Tensor, ...]]


def make_loader(
    dataset: Images,
    batch_size: int,
    shuffle: bool = False,
    loading: Loading | None = None,
    generator: torch.Generator | None = None,
) -> DataLoader:
    """Build a loader that NNI can record.

    Parameters
    ----------
    dataset
        Images and labels. One with a random ``with_transform`` (images decoded on demand) is seeded image by image, so
        that neither the number of workers nor an interruption changes the training.
    batch_size
        Images in one batch.
    shuffle
        Whether to draw a new order in each epoch. Then the images that do not fill the last batch are left out:
        BatchNorm on a few images would be noise, on a single one an error.
    loading
        Worker processes and the like. Default: the images are read in this process.
    generator
        Source of the order. Default: torch's global generator.

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
    if shuffle and (generator is not None or hasattr(dataset, "with_transform")):
        dataset = (_SeededImages if hasattr(dataset, "with_transform") else _OrderedImages)(dataset, generator)
        more["sampler"] = _Order(dataset)
    else:
        more["shuffle"] = shuffle
    if loading is not None or "sampler" in more:
        # The loader draws seeds for its workers, how often depends on them; nothing that we load makes use of these.
        more["generator"] = torch.Generator()
    return DataLoader(dataset, batch_size=batch_size, drop_last=shuffle and count >= batch_size, **more)


class _OrderedImages(Dataset[tuple[Tensor, ...]]):
    """Images, and the generator of their order.

    With several devices Lightning replaces our sampler by its own. The data set stays, so that is where a checkpoint
    finds the generator (:func:`nni_cream.search.loop.image_order.loader_states`).
    """

    def __init__(self, source: Images, generator: torch.Generator | None) -> None:
        self.source = source
        self.generator = generator

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self.source[index]

    def start_epoch(self) -> None:
        """Prepare an epoch; its order is drawn next."""


class _SeededImages(_OrderedImages):
    """Images whose random changes are drawn from a seed of the epoch and the image's index.

    A worker that stays from epoch to epoch has generators that no checkpoint knows of; after a resume there would be
    new ones, in another state.
    """

    def __init__(self, source: Images, generator: torch.Generator | None) -> None:
        super().__init__(source, generator)
        # In shared memory, so that workers which are running already see the seed of a new epoch.
        self.epoch_seed = torch.zeros(1, dtype=torch.int64).share_memory_()

    def start_epoch(self) -> None:
        """Draw the seed of the epoch."""
        self.epoch_seed.random_(0, 2**31, generator=self.generator)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        with preserved_rng(int(np.random.SeedSequence((int(self.epoch_seed), index)).generate_state(1)[0])):
            return self.source[index]


class _Order(Sampler[int]):
    """New order in each epoch, and with it a new seed for the changes of the images."""

    def __init__(self, dataset: _OrderedImages) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        self.dataset.start_epoch()
        yield from torch.randperm(len(self.dataset), generator=self.dataset.generator).tolist()
