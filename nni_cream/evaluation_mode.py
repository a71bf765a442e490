"""Evaluation mode of a network for the length of a ``with`` block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["evaluating"]


@contextmanager
def evaluating(network: nn.Module, device: torch.device | str | None = None) -> Iterator[torch.device]:
    """Switch to evaluation mode without gradients, and put every module's own mode back afterwards.

    The network is moved to ``device``, if there is one, and back. Yields the device for the images.
    """
    home = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    modes = [(module, module.training) for module in network.modules()]
    if device is not None:
        network.to(device)
    network.eval()
    try:
        with torch.no_grad():
            yield home if device is None else torch.device(device)
    finally:
        if device is not None:
            network.to(home)
        for module, mode in modes:
            module.training = mode
