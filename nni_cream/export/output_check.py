"""What every exported form must do: give the network's own outputs, for any number of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nni_cream.errors import ExportError

__all__ = ["TOLERANCE", "compare", "evaluating", "first_line"]

TOLERANCE = 1e-4
"""Largest difference of an output allowed; where outputs are larger than 1, relative to the largest."""


@contextmanager
def evaluating(network: nn.Module) -> Iterator[nn.Module]:
    """Put a network into evaluation mode without gradients inside a ``with`` block, and back after it."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.no_grad():
            yield network
    finally:
        for module, training in modes.items():
            module.training = training


def compare(network: nn.Module, run: Callable[[Tensor], Tensor], images: Tensor, what: str) -> float:
    """Compare an exported form with the network, on all images at once and on the first one alone.

    Parameters
    ----------
    network
        The network, in evaluation mode.
    run
        The exported form: images in, outputs out.
    images
        Images (N, C, H, W).
    what
        The form, for messages.

    Returns
    -------
    float
        Largest absolute difference of an output.

    Raises
    ------
    ExportError
        If it cannot be run, or gives other outputs.
    """
    largest = 0.0
    for batch in (images, images[:1]):
        expected: Tensor = network(batch)
        try:
            found = run(batch)
        except Exception as error:  # of whichever program runs it
            raise ExportError(f"{what} does not run on {len(batch)} image(s): {first_line(error)}") from error
        largest = max(largest, _difference(expected, found, what))
    return largest


def _difference(expected: Tensor, found: Tensor, what: str) -> float:
    if found.shape != expected.shape:
        raise ExportError(f"{what} gives {tuple(found.shape)} numbers, the network {tuple(expected.shape)}")
    difference = float((found - expected).abs().max())
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:  # NaN is no agreement
        raise ExportError(
            f"{what} gives other outputs than the network: they differ by {difference:.3g}, allowed is {allowed:.3g}"
        )
    return difference


def first_line(error: Exception) -> str:
    """Return the first line of a foreign error's message, with its kind."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
