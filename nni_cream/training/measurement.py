"""How good a network is on a set of images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nni_cream.errors import ConfigError, SearchError
from nni_cream.training.loaders import Images, Loading, make_loader

__all__ = ["EVALUATION_BATCH", "Measurement", "check_classes", "count_logits", "evaluate", "evaluating", "measure"]

EVALUATION_BATCH = 512


@dataclass(frozen=True)
class Measurement:
    """What a network reaches.

    Parameters
    ----------
    loss
        Mean cross-entropy.
    top1
        Share of the images whose largest logit is at the label.
    top5
        Share of the images whose label is among the five largest logits; 1 with five classes or fewer.
    images
        How many there were.
    """

    loss: float
    top1: float
    top5: float
    images: int


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
        Images and labels.
    batch_size
        Images in one forward pass.
    device
        Where to compute; without it, where the network is.
    loading
        How the images are read.

    Returns
    -------
    Measurement
        Loss and accuracies.

    Raises
    ------
    DataError
        If there is no image.
    """
    loader = make_loader(dataset, batch_size, loading=loading)
    images_seen = len(loader.dataset)
    with evaluating(network, device) as target:
        totals = torch.zeros(3, dtype=torch.float64, device="cpu" if target.type == "mps" else target)
        for images, labels in loader:
            logits = network(images.to(target))
            labels = labels.to(target)
            ranked = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
            loss = cross_entropy(logits.float(), labels, reduction="sum")
            # Counted where the logits are, read once at the end: reading is what a GPU waits for.
            totals += torch.stack([loss, ranked[:, 0].sum(), ranked.sum()]).to(totals)
    loss_sum, first, among_five = totals.tolist()
    return Measurement(loss_sum / images_seen, first / images_seen, among_five / images_seen, images_seen)


def evaluate(
    network: nn.Module,
    dataset: Images,
    batch_size: int = EVALUATION_BATCH,
    device: torch.device | str | None = None,
) -> float:
    """Top-1 accuracy in evaluation mode; the network's mode and device are the same afterwards.

    Parameters
    ----------
    network
        Images (N, C, H, W) in, logits (N, classes) out.
    dataset
        Images and labels.
    batch_size
        Images in one forward pass.
    device
        Where to compute; without it, where the network is.

    Returns
    -------
    float
        Share of the images whose largest logit is at the label.

    Raises
    ------
    DataError
        If there is no image.
    """
    return measure(network, dataset, batch_size, device).top1


def count_logits(network: nn.Module, dataset: Images) -> int:
    """Find a network's number of classes with one image.

    Parameters
    ----------
    network
        The network.
    dataset
        Images that it takes.

    Returns
    -------
    int
        Logits for one image.

    Raises
    ------
    SearchError
        If it does not give one row of logits for one image.
    """
    images = next(iter(make_loader(dataset, 1)))[0]
    with evaluating(network, None) as target:
        logits = network(images.to(target))
    if logits.ndim != 2:
        raise SearchError(f"the network gives an output of shape {tuple(logits.shape)} for one image; expected logits.")
    return int(logits.shape[1])


def check_classes(network: nn.Module, dataset: Images, num_classes: int, name: str) -> None:
    """Make sure that a network and a data set have the same classes.

    Parameters
    ----------
    network
        The network.
    dataset
        Images of the data set.
    num_classes
        That the data set has.
    name
        What the data set is called, for the message.

    Raises
    ------
    ConfigError
        If they differ, or the network does not take images of this shape.
    """
    shape = tuple(dataset[0][0].shape)
    try:
        logits = count_logits(network, dataset)
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, SearchError):
            raise
        raise ConfigError(
            f"data: the network does not take an image of shape {shape} of {name!r}: {error}; expected the channels "
            "and an image size that it was searched with"
        ) from error
    if logits != num_classes:
        raise ConfigError(
            f"data: {name!r} has {num_classes} classes, the network gives {logits} logits; use the data that the "
            f"network was searched with, or a search space with num_classes: {num_classes}"
        )


@contextmanager
def evaluating(network: nn.Module, device: torch.device | str | None) -> Iterator[torch.device]:
    """Switch to evaluation mode without gradients on a device, and put every module's mode and place back after it.

    Parameters
    ----------
    network
        The network.
    device
        Where to compute; without it, where the network is.

    Yields
    ------
    torch.device
        Where to put the images.
    """
    home = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    target = home if device is None else torch.device(device)
    modes = [(module, module.training) for module in network.modules()]
    network.to(target).eval()
    try:
        with torch.no_grad():
            yield target
    finally:
        network.to(home)
        for module, mode in modes:
            module.training = mode
