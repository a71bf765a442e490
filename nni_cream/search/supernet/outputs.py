"""The tensor to work with among all that a network returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["main_output"]


def main_output(output: Any) -> Tensor:
    """Pick the tensor to work with from what a network returns.

    Parameters
    ----------
    output
        A tensor, a sequence whose first item is it (further ones are auxiliary heads), or a mapping with ``logits``.

    Returns
    -------
    Tensor
        The logits, or whatever the network's main output is.

    Raises
    ------
    TypeError
        If there is no tensor.
    """
    if isinstance(output, Mapping):
        output = output["logits"]
    while isinstance(output, list | tuple):
        output = output[0]
    if not isinstance(output, Tensor):
        raise TypeError(f"the network returned {type(output).__name__}; expected a tensor, tuple or dict")
    return output
