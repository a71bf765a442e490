"""Check of an exported form: it gives the network's own outputs, for any number of images."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from nni_cream.errors import ExportError
from nni_cream.evaluation_mode import evaluating

__all__ = ["TOLERANCE", "compare", "evaluating", "first_line"]

TOLERANCE = 1e-4
"""Largest difference of an output allowed; where outputs are larger than 1, relative to the largest."""


def compare(network: nn.Module, run: Callable[[Tensor], Tensor], images: Tensor, what: str) -> float:
    """Return the largest difference of an exported form (``run``) from the network, in evaluation mode.

    Both run on all images at once and on the first one alone. Raises ``ExportError``, which names the form as ``what``,
    if it cannot be run or gives other outputs.
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
        raise ExportError(
            f"{what} gives {tuple(found.shape)} numbers; expected {tuple(expected.shape)}, like the network."
        )
    difference = float((found - expected).abs().max())
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:  # NaN is no agreement
        raise ExportError(
            f"the difference of {what} from the network is {difference:.3g}; expected at most {allowed:.3g}."
        )
    return difference


def first_line(error: Exception) -> str:
    """Return the first line of a foreign error's message, with its kind."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
