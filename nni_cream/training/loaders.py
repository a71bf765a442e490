"""Images in batches: the same order and the same random changes for a seed, with any number of worker processes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from nni.nas.evaluator.pytorch import DataLoader
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from nni_cream.errors import ConfigError, DataError
from nni_cream.rng import preserved_rng

__all__ = ["Images", "Loading", "make_loader"]

Images = Dataset[tuple[Tensor, ...]]


@dataclass(frozen=True)
class Loading:
    """How images get from the disk to the device.

    Parameters
    ----------
    workers
        Processes that read and change images; 0 reads in the training process, which is right for images in memory.
    prefetch
        Batches that each worker keeps ready.
    persistent
        Whether the workers stay from epoch to epoch; starting them takes seconds with large data sets.
    pin_memory
        Whether batches are put where a GPU fetches them faster.

    Raises
    ------
    ConfigError
        If a value is out of its range.
    """

    workers: int = 0
    prefetch: int = 2
    persistent: bool = True
    pin_memory: bool = False

    def __post_init__(self) -> None:
        for name, value, low in (("workers", self.workers, 0), ("prefetch", self.prefetch, 1)):
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise ConfigError(f"loader.{name}: expected a whole number of at least {low}, got {value!r}.")

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of torch's ``DataLoader``."""
        if not self.workers:
            return {"pin_memory": self.pin_memory}
        return {
            "num_workers": self.workers,
            "prefetch_factor": self.prefetch,
            "persistent_workers": self.persistent,
            "pin_memory": self.pin_memory,
        }


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
        that neither the number of workers nor an interruption changes what is trained on.
    batch_size
        Images in one batch.
    shuffle
        Whether to draw a new order in each epoch. Then the images that do not fill the last batch are left out:
        BatchNorm on a few images would be noise, on a single one an error.
    loading
        Worker processes and the like; without it the images are read in this process.
    generator
        What the order is drawn from; torch's global generator without it.

    Returns
    -------
    DataLoader
        The loader.

    Raises
    ------
    DataError
        If there is no image.
    """
    count = len(dataset)  # type: ignore[arg-type]  # torch's Dataset declares no length, those with images have one
    if count == 0:
        raise DataError("expected at least one image, the data set holds none.")
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
    """Images, and the generator that their order is drawn from.

    With several devices Lightning puts a sampler of its own in the place of ours. The data set stays, so that is where
    a checkpoint finds the generator (:func:`nni_cream.search.loop.image_order.loader_states`).
    """

    def __init__(self, source: Images, generator: torch.Generator | None) -> None:
        self.source = source
        self.generator = generator

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self.source[index]

    def start_epoch(self) -> None:
        """Get ready for an epoch; its order is drawn next."""


class _SeededImages(_OrderedImages):
    """Draws the random changes of an image from a seed of the epoch and the image's index.

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
        with preserved_rng():
            seed = int(np.random.SeedSequence((int(self.epoch_seed), index)).generate_state(1)[0])
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002 - it is what many augmentations draw from
            torch.default_generator.manual_seed(seed)
            return self.source[index]


class _Order(Sampler[int]):
    """A new order in each epoch, and with it a new seed for the changes of the images."""

    def __init__(self, dataset: _OrderedImages) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[int]:
        self.dataset.start_epoch()
        yield from torch.randperm(len(self.dataset), generator=self.dataset.generator).tolist()
