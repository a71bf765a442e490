"""Loss and accuracies of a network on a set of images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nni_cream.errors import ConfigError, SearchError
from nni_cream.evaluation_mode import evaluating
from nni_cream.training.loader_options import Loading
from nni_cream.training.loaders import Images, make_loader

__all__ = ["EVALUATION_BATCH", "Measurement", "check_classes", "count_logits", "evaluate", "evaluating", "measure"]

EVALUATION_BATCH = 512


@dataclass(frozen=True)
class Measurement:
    """Loss and accuracies of a network."""

    loss: float  #: Mean cross-entropy.
    top1: float  #: Share of the images whose largest logit is at the label.
    top5: float | None  #: Share of the images whose label is among the five largest logits; ``None`` up to 5 classes.
    images: int  #: Number of images.
    confusion: Tensor  #: Images (classes, classes) by label (row) and largest logit (column).

    @property
    def balanced_accuracy(self) -> float:
        """Mean over the classes that occur of the share of their images that is recognised."""
        counts = self.confusion.sum(dim=1)
        return float((self.confusion.diagonal()[counts > 0] / counts[counts > 0]).double().mean())


def measure(
    network: nn.Module,
    dataset: Images,
    batch_size: int = EVALUATION_BATCH,
    device: torch.device | str | None = None,
    loading: Loading | None = None,
) -> Measurement:
    """Measure a network in evaluation mode; its mode and device are the same afterwards.

    Parameters
    ----------
    network
        Images (N, C, H, W) in, logits (N, classes) out.
    dataset
        Images and labels, at least one.
    batch_size
        Images in one forward pass.
    device
        Where to compute. Default: where the network is.
    loading
        How the images are read.

    Returns
    -------
    Measurement
        Loss and accuracies.
    """
    loader = make_loader(dataset, batch_size, loading=loading)
    images_seen = len(loader.dataset)
    with evaluating(network, device) as target:
        totals = torch.zeros(3, dtype=torch.float64, device="cpu" if target.type == "mps" else target)
        confusion = torch.zeros(0, dtype=torch.int64)
        for images, labels in loader:
            logits = network(images.to(target))
            labels = labels.to(target)
            ranked = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
            loss = cross_entropy(logits.float(), labels, reduction="sum")
            # Counted where the logits are, read once at the end: reading is what a GPU waits for.
            totals += torch.stack([loss, ranked[:, 0].sum(), ranked.sum()]).to(totals)
            confusion = _counted(labels, logits.argmax(dim=1), logits.shape[1]) + (confusion if len(confusion) else 0)
    loss_sum, first, among_five = (total / images_seen for total in totals.tolist())
    top5 = among_five if logits.shape[1] > 5 else None
    return Measurement(loss_sum, first, top5, images_seen, confusion.cpu())


def _counted(labels: Tensor, found: Tensor, classes: int) -> Tensor:
    """Count the images (classes, classes) by label and by the class found."""
    return torch.bincount(labels * classes + found, minlength=classes**2).view(classes, classes)


def evaluate(
    network: nn.Module,
    dataset: Images,
    batch_size: int = EVALUATION_BATCH,
    device: torch.device | str | None = None,
) -> float:
    """Return the top-1 accuracy of a network; see :func:`measure`."""
    return measure(network, dataset, batch_size, device).top1


def count_logits(network: nn.Module, dataset: Images) -> int:
    """Return a network's number of classes, from one image; raises ``SearchError`` if it gives no row of logits."""
    images = next(iter(make_loader(dataset, 1)))[0]
    with evaluating(network) as target:
        logits = network(images.to(target))
    if logits.ndim != 2:
        raise SearchError(f"the network gives an output of shape {tuple(logits.shape)} for one image; expected logits.")
    return int(logits.shape[1])


def check_classes(network: nn.Module, dataset: Images, num_classes: int, name: str) -> None:
    """Raise ``ConfigError`` if a network does not take these images, or has other than ``num_classes`` classes."""
    shape = tuple(dataset[0][0].shape)
    try:
        logits = count_logits(network, dataset)
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, SearchError):
            raise
        raise ConfigError(
            f"data: the network does not take an image of shape {shape} of {name!r}: {error}; expected the channels "
            "and an image size of its search."
        ) from error
    if logits != num_classes:
        raise ConfigError(
            f"data: the number of classes of {name!r} is {num_classes}; expected {logits}, the logits of the network. "
            f"Use the data of its search, or a search space with num_classes: {num_classes}."
        )
